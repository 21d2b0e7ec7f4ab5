"""The table of keys in docs/CONFIG.md is the one that the declarations make."""

import re
import subprocess
import sys

import pytest

from dust.config.defaults import KEYS, OWN
from dust.config.table import BEGIN, END, replaced, table
from dust.utils.errors import ConfigError
from tests.helpers import ROOT

PAGE = ROOT / "docs" / "CONFIG.md"


def test_the_table_is_not_stale():
    text = PAGE.read_text(encoding="utf-8")
    assert replaced(text) == text, "write it again: python -m dust.config.table docs/CONFIG.md"


def test_the_table_has_a_row_of_five_cells_for_every_key():
    rows = [line for line in table().splitlines() if line.startswith("| `")]
    assert sorted(re.match(r"\| `([\w.]+)` \|", row)[1] for row in rows) == sorted(OWN)
    assert all(row.count("|") == 6 for row in rows)
    assert "| `TRACKS.POOL` | `mean` | `mean` (of the frames there), `last` | how the frames meet | |" in rows
    (row,) = (row for row in rows if row.startswith("| `FUSION.VIDEO_FROM`"))
    assert "| a file, `zoo://NAME` or a stage |" in row and row.endswith("; gives VIDEO_SWIN.* | yes |")


def test_the_page_names_every_alias():
    page = PAGE.read_text(encoding="utf-8")
    theirs = page[page.index("| theirs | ours |") : page.index("dust knows all other keys of SlowFast")]
    for facts in KEYS.values():
        for alias, ours in facts.aliases.items():
            assert not alias or (re.search(rf"[` ]{alias}`", theirs) and f"`{ours}`" in theirs), alias


def test_the_command_writes_between_the_marks_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}old\n{END}after\n")
    subprocess.run([sys.executable, "-m", "dust.config.table", str(page)], check=True, cwd=ROOT)
    assert page.read_text() == f"before\n{BEGIN}\n{table()}\n{END}after\n"


@pytest.mark.parametrize("text", ["", BEGIN, END + BEGIN, BEGIN + END + BEGIN])
def test_a_page_without_its_marks_is_refused(text):
    with pytest.raises(ConfigError, match="the table of keys stands between the lines <!-- keys"):
        replaced(text)
