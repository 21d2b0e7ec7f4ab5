"""`dust NAME`: one way to every sub-command, and a sentence for what is none."""

import importlib
import subprocess
import sys

import pytest

import dust
from dust.cli.main import COMMANDS, main
from tests.helpers import ROOT


def test_help_lists_every_sub_command_of_the_room(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    files = {path.stem for path in (ROOT / "dust" / "cli").glob("*.py")} - {"__init__", "main"}
    assert files == {module for module, _ in COMMANDS.values()}
    assert all(f"\n  {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_sub_command_tells_what_it_takes(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dust"])
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and said.startswith("usage:")
    assert name == "train" or f"dust {name}" in said


def test_wrong_words_get_one_sentence(capsys):
    assert main(["gen-dat"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "'gen-dat'" in said and "gen-data" in said
    assert main([]) == 2 and "dust --cfg" in capsys.readouterr().err


def test_version_and_module(capsys):
    assert main(["--version"]) == 0 and dust.__version__ in capsys.readouterr().out
    command = [sys.executable, "-m", "dust", "--version"]
    assert dust.__version__ in subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_a_configuration_is_run_with_and_without_the_word_train(capsys):
    for words in (["--cfg", "none.yaml"], ["train", "--cfg", "none.yaml"]):
        assert main(words) == 2
        assert "none.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.name)
def test_tools_are_doors(path):
    """A file of tools/ holds no code of its own: it calls what is installed, or what benchmarks/ adds to it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 14 and lines[-1] == "    sys.exit(main())"
    imported = next(line.split()[1] for line in lines if line.endswith("import main"))
    assert callable(importlib.import_module(imported).main)


def test_a_door_opens():
    """The one that has to find benchmarks/, from anywhere."""
    command = [sys.executable, str(ROOT / "tools" / "benchmark.py"), "--help"]
    assert "usage:" in subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout
