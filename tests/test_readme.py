"""What the README tells people to run is what there is."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from dust.cli.main import module_of, names
from dust.cli.train import take_repeats
from dust.config import load_config, parse_args
from dust.synthetic.motion import TOUR
from dust.zoo import ENTRIES
from tests.helpers import ROOT, command, tool


def test_blocks_end_where_they_begin():
    """A fence in the middle of a line turns all that follows inside out."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "dust/datasets/DATASET.md"]:
        lines = [line.strip() for line in page.read_text(encoding="utf-8").splitlines()]
        assert sum(line.startswith("```") for line in lines) % 2 == 0, page
        assert not [line for line in lines if line.endswith("```") and line != "```"], page


PAGES = [
    "README.md",
    "MODEL_ZOO.md",
    "docs/COMMANDS.md",
    "docs/CONFIG.md",
    "docs/ARCHITECTURE.md",
    "docs/BACKBONES.md",
    "docs/CAST.md",
    "docs/CLUSTER.md",
    "docs/DUST.md",
    "docs/TRACKS.md",
    "docs/KEYSTEP.md",
    "docs/PREDICT.md",
    "docs/SERVE.md",
    "docs/PROBE.md",
    "docs/TRUST.md",
    "docs/ANNOTATIONS.md",
    "docs/EXPORT.md",
    "docs/BENCHMARKS.md",
    "docs/SERIES.md",
    "docs/RESULTS.md",
    "dust/datasets/DATASET.md",
]
COMMAND = re.compile(r"^(?:\$ )?((?:make|dust|python) .*)$", re.M)


def blocks(page, language):
    return re.findall(rf"^\s*```{language}\n(.*?)^\s*```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


def commands():
    for page in PAGES:
        for block in blocks(page, "bash"):
            text = re.sub(r"\\\n\s*", " ", block)
            for line in text.splitlines():
                line = line.split("  #")[0].strip()
                if line.startswith(("make ", "dust ", "python ")):
                    yield pytest.param(line, id=f"{page}: {line[:60]}")


def expanded(line):
    """The words as a shell would hand them on: {1,2} expanded, and * where it finds something, so nothing here."""
    if not any(mark in line for mark in "{*"):
        return shlex.split(line)
    result = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], cwd="/", capture_output=True, text=True, check=True
    )
    return result.stdout.split("\0")[:-1]


def help_of(words, *sub):
    """What ``dust NAME [SUB] --help``, or that of a file of tools/, prints."""
    if words[0] == "dust":
        return command(module_of(words[1]), *sub, "--help")
    return tool(Path(words[1]).stem, *sub, "--help")


@pytest.mark.parametrize("line", commands())
def test_a_command_of_a_page_exists(line, tmp_path, monkeypatch):
    """In an empty folder, as somebody who installed dust by pip runs it; make and tools/ want a checkout."""
    words = expanded(line)
    monkeypatch.chdir(tmp_path)
    if words[0] == "dust" and words[1] in ("--help", "--version"):
        return
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
    elif (words[0] == "dust" and words[1] not in set(names()) - {"train"}) or words[1] == "tools/run_net.py":
        rest = words[1:] if words[0] == "dust" else words[2:]
        if {"--folds", "--seeds"} & set(rest):
            _, _, rest = take_repeats(rest)
        args = parse_args(rest)
        for file in args.cfg_files:
            load_config(file, args.opts)
    else:
        sub = words[2:3] if len(words) > 2 and re.fullmatch(r"[a-z0-9][\w-]*", words[2]) else []
        result = help_of(words, *sub)
        assert result.returncode == 0, result.stderr
        usage = re.sub(r"\[[^\]]*\]", "", result.stdout.split("\n\n")[0])  # what stands outside brackets is required
        for choice in re.findall(r"\(([^)]*)\)", usage):
            assert set(re.findall(r"--[\w-]+", choice)) & set(words), f"{' '.join(words[1:3])} needs one of {choice}"
        for flag in re.findall(r"--[\w-]+", re.sub(r"\([^)]*\)", "", usage)):
            assert flag in words, f"{' '.join(words[1:3])} needs {flag}"
        for flag in (word for word in words[3:] if word.startswith("--") and word != "--"):
            assert flag in result.stdout, f"{flag} is no flag of {' '.join(words[1:3])}"


@pytest.mark.parametrize(
    "page", ["README.md", "docs/DUST.md", "docs/TRACKS.md", "docs/KEYSTEP.md", "docs/PREDICT.md", "docs/SERIES.md"]
)
def test_the_pages_python_is_python(page):
    names = set()
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                names |= {(node.module, alias.name) for alias in node.names}
    assert names
    for module, name in names:
        assert hasattr(__import__(module, fromlist=[name]), name)


LINKING = ["README.md", "CONTRIBUTING.md", "docs/CAST.md", "docs/CLUSTER.md", "docs/CONFIG.md", "docs/DUST.md"]
LINKING += ["docs/TRACKS.md", "docs/PREDICT.md", "docs/SERVE.md", "docs/TRUST.md", "docs/ANNOTATIONS.md"]
LINKING += ["docs/SERIES.md", "docs/RESULTS.md"]


@pytest.mark.parametrize("page", LINKING)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target


def test_the_pre_trained_timesformer_is_pre_trained():
    """Every training of that section begins from weights that the zoo has."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## A pre-trained TimeSformer on your clips")[1]
    lines = [line for line in section.split("```")[1].splitlines() if line.startswith("dust --cfg")]
    configs = [load_config(str(ROOT / args.cfg_files[0]), args.opts) for args in map(parse_args, map(words_of, lines))]
    training = [cfg for cfg in configs if cfg.TRAIN.ENABLE]
    assert training and all(cfg.MODEL.PRETRAINED.removeprefix("zoo://") in ENTRIES for cfg in training)


def words_of(line):
    return expanded(line)[1:]


def test_the_first_picture_is_of_the_first_commands():
    """Its size, and that what the README and `make demo` ask the quickstart's model is there and named alike."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = text[: text.index("\n## ")]
    (picture,) = re.findall(r"!\[[^\]]+\]\((\S+)\)", first)
    with Image.open(ROOT / picture) as image:
        assert image.format == "JPEG" and min(image.size) >= 200
    assert (ROOT / picture).stat().st_size < 120_000
    (asked,) = [words_of(line)[1:] for line in first.splitlines() if line.startswith("dust predict")]
    assert asked[1] == f"data/quickstart/{TOUR}" and "runs/quickstart/tour/tour.overlay.mp4" in first
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)[1]
    assert " ".join(asked) in recipe.replace("$(DATA)", "data/quickstart")
