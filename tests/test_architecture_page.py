"""docs/ARCHITECTURE.md against the code."""

import importlib
import re

import pytest

from tests.helpers import ROOT
from tests.test_architecture import ALLOWED

PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
DRAWING, *STEPS = re.findall(r"```text\n(.*?)```", PAGE, re.S)


def rows():
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            yield cells[0].strip("`"), cells[1], set(re.findall(r"`(\w+)`", cells[2]))


def test_the_table_is_what_the_walls_allow():
    assert {room: allowed for room, _, allowed in rows()} == ALLOWED


def test_every_room_is_in_the_drawing():
    words = set(re.findall(r"\w+", DRAWING.replace("visual-", "visualization")))
    folders = {path.parent.name for path in (ROOT / "dust").glob("*/__init__.py")}
    assert folders == set(ALLOWED) and folders <= words


@pytest.mark.parametrize("name", [name for text in STEPS for name in re.findall(r"\bdust(?:\.\w+)+", text)])
def test_every_step_is_in_the_code(name):
    """``dust.package.module.Name`` or ``dust.package.module.Class.method``."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            thing = getattr(thing, attribute)
        return
    pytest.fail(name)


def test_the_way_and_the_life_are_long_enough_to_be_read():
    assert len(STEPS) == 2 and all(len(re.findall(r"\bdust(?:\.\w+)+", text)) >= 8 for text in STEPS)
