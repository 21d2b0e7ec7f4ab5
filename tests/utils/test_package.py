"""What comes with dust: its configurations from anywhere, and extras that an error names."""

import ast
import re
import shutil
import subprocess
import sys

import pytest

from dust.utils.errors import ConfigError
from dust.utils.package import CONFIGS, found_or_shipped, import_extra, matching, shipped
from tests.helpers import ROOT
from tests.test_versions import lists_of_setup

VIDEO = "configs/quickstart/video.yaml"


def test_a_file_of_the_working_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert found_or_shipped(VIDEO) == shipped(VIDEO) == CONFIGS / "quickstart" / "video.yaml"
    assert found_or_shipped(f"./{VIDEO}").is_file()
    assert found_or_shipped("quickstart/video.yaml").name == "video.yaml" and shipped("quickstart/video.yaml") is None
    assert not found_or_shipped("configs/none.yaml").exists() and shipped("") is None and shipped("configs") is None
    own = tmp_path / VIDEO
    own.parent.mkdir(parents=True)
    own.write_text("A: 1\n")
    assert found_or_shipped(VIDEO).resolve() == own and found_or_shipped(own) == own
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found_or_shipped(f"~/{VIDEO}") == own


def test_patterns_find_what_came_with_dust(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = [f"configs/quickstart/dust_stage{number}.yaml" for number in (1, 2, 3, 4)]
    assert matching("configs/quickstart/dust_stage*.yaml") == stages
    assert matching("configs/quickstart/dust_stage[23].yaml") == stages[1:3]
    assert matching("configs/none*.yaml") == ["configs/none*.yaml"] and matching(VIDEO) == [VIDEO]
    (tmp_path / "configs" / "quickstart").mkdir(parents=True)
    (tmp_path / stages[2]).touch()
    assert matching("configs/quickstart/dust_stage*.yaml") == [stages[2]]
    (tmp_path / "odd[1].yaml").touch()
    assert matching("odd[1].yaml") == ["odd[1].yaml"]


def test_configurations_are_found_where_the_package_holds_them(tmp_path):
    """As after an installation; and a copy of the package alone still imports."""
    shutil.copytree(ROOT / "dust", tmp_path / "dust", ignore=shutil.ignore_patterns("__pycache__"))
    ask = [sys.executable, "-c", f"from dust.utils.package import shipped; print(shipped({VIDEO!r}))"]
    assert subprocess.run(ask, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "None\n"
    inside = tmp_path / "dust" / VIDEO
    inside.parent.mkdir(parents=True)
    inside.touch()
    found = subprocess.run(ask, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert found == f"{inside}\n"


def test_an_extra_that_is_not_installed_is_named(monkeypatch):
    assert import_extra("json.decoder", "none", "nobody").JSONDecoder
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"^dust serve needs wandb: pip install 'dust-video\[wandb\]'$"):
        import_extra("wandb.sdk", "wandb", "dust serve")


def test_every_extra_that_is_named_can_be_installed():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    offered = set(re.findall(r"\"(\w+)\": ", setup.partition("extras_require={")[2].partition("}")[0]))
    named = set()
    for path in (ROOT / "dust").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        named |= set(re.findall(r"dust-video\[(\w+)\]", text))
        constants = dict(re.findall(r"^([A-Z_]+) = \"(\w+)\"", text, re.M))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_extra":
                extra = node.args[1]
                named.add(constants[extra.id] if isinstance(extra, ast.Name) else extra.value)
    assert {"tracks", "wandb", "torchcodec"} <= named <= offered
    page = (ROOT / "docs" / "COMMANDS.md").read_text(encoding="utf-8")
    assert offered == set(re.findall(r"`dust-video\[(\w+)\]`", page)), "docs/COMMANDS.md lists every extra"
    assert lists_of_setup()["TRACKS"]
