"""`dust NAME`: one way to every sub-command, and a sentence for what is none."""

import argparse
import errno
import importlib
import os
import re
import shutil
import subprocess
import sys

import pytest

import dust
from dust.cli.command import at_home, guarded
from dust.cli.main import main, module_of, names, summary
from tests.helpers import ROOT


def test_help_lists_every_sub_command_of_the_room(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    listed = re.findall(r"^  ([a-z-]+) {2,}(\S.*)", said, re.M)
    assert listed == [*((name, summary(name)) for name in names()), ("--version", f"dust {dust.__version__}")]
    assert names()[0] == "train" and {"convert-data", "gen-data", "configs", "zoo"} <= set(names())


def test_words_that_are_no_sub_command(capsys, tmp_path, monkeypatch):
    assert main(["predcit"]) == 2 and "Did you mean predict" in capsys.readouterr().err
    assert main(["mine/video.yaml"]) == 2
    assert "A configuration stands behind --cfg: dust --cfg mine/video.yaml." in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-x.mp4").write_text("")
    with pytest.raises(SystemExit):
        main(["predict", "run", "-x.mp4"])
    assert "a file's name that begins with a dash is written ./-x.mp4" in capsys.readouterr().err


ENDS = """
from dust.utils.ending import end_in_moments
from dust.utils.registry import import_extensions
class Part:
    def __del__(self): print("taken apart")
part = Part()
part.itself = part
end_in_moments()
"""


def test_a_command_that_is_over_ends_without_taking_all_modules_apart():
    """Half a million objects, as soon as torch is there."""
    ended = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not ended.stdout


OWN = """
class Mine:
    def name(self): return FILE
FILE = open("own.txt", "w")
FILE.write("said")
"""


@pytest.mark.parametrize("how", ["calls dust", "is imported by dust"])
def test_what_others_hold_open_is_written_at_the_end(tmp_path, how):
    """A module whose classes know it is never taken apart by reference counts alone."""
    (tmp_path / "own.py").write_text(OWN)
    call = f"{OWN}\nfrom dust.engine.run_net import main\nmain(['--cfg', 'nothing.yaml'])"
    program = call if how == "calls dust" else f"{ENDS}\nimport_extensions(['own.py'])"
    subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, check=True
    )
    assert (tmp_path / "own.txt").read_text() == "said"


def test_the_users_folder_is_found_without_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main(["gen-data", "video", "~/data", "--classes", "2", "--clips", "3"]) == 0
    assert main(["split", "~/data", "--out=~/lists"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"home"}
    assert {path.name for path in (tmp_path / "home").iterdir()} >= {"data", "lists"}
    for word in ("~", "a~/b", "KEY=~/x", "-o~/x", "--a=b~/c", "x/~/y"):
        assert at_home(word) == word
    assert at_home("--DATA.PATH=~/x") == f"--DATA.PATH={tmp_path}/home/x"


def rows_of_the_page():
    """(command, what it does) of docs/COMMANDS.md."""
    page = (ROOT / "docs" / "COMMANDS.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `dust ([a-z-]+)` \| (.*) \|$", page, re.M)


def test_the_page_of_commands_says_what_help_says():
    assert rows_of_the_page() == [(name, summary(name)) for name in names()], "docs/COMMANDS.md follows dust --help"


@pytest.mark.parametrize("name", names())
def test_what_is_said_of_a_sub_command_is_one_sentence_in_the_imperative(name):
    said = summary(name)
    assert said.endswith(".") and said[0].isupper() and len(said) <= 105, said
    assert not said.split()[0].rstrip(",").endswith("s") or said.split()[0] == "Process", said


def test_a_file_is_all_that_a_new_sub_command_needs(tmp_path):
    """In a copy of the package, which nobody told of it."""
    shutil.copytree(ROOT / "dust", tmp_path / "dust", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "dust" / "cli" / "say_hello.py").write_text(
        '"""Say hello."""\nfrom dust.cli.command import command\n'
        "def add_arguments(parser):\n    parser.add_argument('name')\n"
        "main = command('say-hello', __doc__, add_arguments, lambda args: print(args.name))\n"
    )
    run = [sys.executable, "-m", "dust"]
    where = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(tmp_path)}, "text": True, "capture_output": True}
    assert re.search(r"^  say-hello +Say hello\.$", subprocess.run([*run, "--help"], **where).stdout, re.M)
    assert subprocess.run([*run, "say-hello", "you"], **where).stdout == "you\n"


@pytest.mark.parametrize("name", names())
def test_every_sub_command_tells_what_it_takes(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and said.startswith("usage:")
    assert said.startswith("usage: dust " + (name if name != "train" else "--cfg"))
    assert summary(name).partition(";")[0].rstrip(".") in " ".join(said.split())
    assert callable(importlib.import_module(module_of(name)).main)


def unexplained(parser):
    """What a help leaves open: options and words without a sentence, values without a name, empty choices."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from unexplained(one)
            continue
        name = f"{parser.prog} {action.option_strings or action.dest}"
        if not action.help:
            yield f"{name}: no help"
        if action.nargs != 0 and not action.metavar and (not action.choices or "" in action.choices):
            yield f"{name}: a value without a name"
    if not (parser.description or parser.usage):
        yield f"{parser.prog}: does not say what it does"


@pytest.mark.parametrize("name", [name for name in names() if name not in ("train", "tune")])
def test_every_option_is_explained_and_its_value_has_a_name(name, monkeypatch):
    """Those of its own sub-commands too; ``train`` and ``tune`` read words themselves and write their help."""
    parsers = []

    def keep(self, *words, **options):
        parsers.append(self)
        raise SystemExit(0)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", keep)
    with pytest.raises(SystemExit):
        importlib.import_module(module_of(name)).main(["--name", "x"])
    (parser,) = parsers
    assert not list(unexplained(parser))


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


def test_a_disk_and_a_right_are_said_in_a_sentence(capsys):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device", "out/a\x1b.csv")

    assert guarded(full) == 2
    assert capsys.readouterr().err == "error: out/a\\x1b.csv: No space left on device\n"

    def bug():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "forgotten.csv")

    with pytest.raises(FileNotFoundError):
        guarded(bug)

    def worker():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):  # not of this command's output
        guarded(worker)


def test_who_stops_reading_hears_no_complaint(tmp_path):
    (tmp_path / "many.py").write_text(
        "import sys\nfrom dust.cli.command import guarded\n"
        "def say():\n    for number in range(100_000):\n        print(number)\n"
        "sys.exit(guarded(say))\n"
    )
    for words, lines in (([str(tmp_path / "many.py")], 1), (["-m", "dust", "--help"], 0)):
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141
        process.stderr.close()
