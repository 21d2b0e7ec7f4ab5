"""docs/EXTENDING.md as it stands: every example runs, from outside the package and inside a copy of it."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from dust.synthetic.motion import generate_motion
from tests.helpers import ROOT
from tests.processes import zygote

PAGE = (ROOT / "docs" / "EXTENDING.md").read_text(encoding="utf-8")


def blocks(language, first=""):
    return [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.S) if text.startswith(first)]


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A folder of somebody's own, with what the page tells to write there."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "my_parts.py").write_text("\n\n".join(blocks("python", "# my_parts.py")))
    for name in ("my.yaml", "second.yaml"):
        (text,) = blocks("yaml", f"# {name}")
        (folder / name).write_text(text)
    generate_motion(folder / "clips", classes=2, clips=8, size=40, frames=16)
    return folder


@pytest.mark.slow
def test_everything_from_outside_in_one_run_and_a_second_stage(mine):
    zygote().finish(["--cfg", "my.yaml", "second.yaml"], cwd=str(mine))
    report = json.loads((mine / "runs" / "mine" / "results" / "test.json").read_text())
    assert 0 <= report["metrics"]["worst_class_acc"] <= report["metrics"]["top1_acc"]
    log = (mine / "runs" / "mine" / "stdout.log").read_text()
    assert '"entropy"' in log and re.search(r"MeanColour <- .*my_parts\.py:", log) and "CountingReader" in log
    steps = [int(line.split()[-2]) for line in (mine / "runs" / "mine" / "diary.txt").read_text().splitlines()]
    assert steps == [steps[0], 2 * steps[0], 3 * steps[0]] and steps[0] > 0
    second = (mine / "runs" / "second" / "stdout.log").read_text()
    assert "of the model's" in second and "tensors fit" in second


@pytest.mark.slow
def test_the_hook_of_the_page_resumes_with_the_run(mine):
    out = ["--cfg", "my.yaml", "OUTPUT_DIR", "runs/cut"]
    zygote().finish([*out, "SOLVER.MAX_EPOCH", "2"], cwd=str(mine))
    zygote().finish(out, cwd=str(mine))
    assert (mine / "runs" / "cut" / "diary.txt").read_text() == (mine / "runs" / "mine" / "diary.txt").read_text()


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the tree with the page's diff in it, and without the two lines."""
    tree = tmp_path_factory.mktemp("copy") / "tree"
    names = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT).stdout
    if not names:
        pytest.skip("the copy is made by git, and this is no checkout")
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/data/"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    (diff,) = blocks("diff")
    subprocess.run(["git", "apply"], input=diff, text=True, check=True, cwd=tree)
    generate_motion(tree / "clips", classes=4, clips=3, size=40, frames=16)
    return tree


def add_line(path, line, before):
    """Put a line into a list of a file, once."""
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, f"{line}{before}", 1))


def asked(tree, *words):
    """What a training by the page's YAML says."""
    config = str(tree / "configs" / "quickstart" / "colour_mixer.yaml")
    folders = ["OUTPUT_DIR", str(tree / "runs"), "DATA.PATH_TO_DATA_DIR", str(tree / "clips")]
    environ = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dust", "--cfg", config, *folders, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=tree, env=environ)


@pytest.mark.slow
def test_a_model_with_keys_and_what_is_said_where_a_line_is_missing(copy):
    forgotten = asked(copy)
    assert forgotten.returncode == 2 and "COLOUR_MIXER" in forgotten.stderr
    add_line(copy / "dust" / "config" / "defaults.py", "colour_mixer, ", "fusion, keystep")
    add_line(copy / "dust" / "config" / "defaults.py", "colour_mixer.SYSTEM, ", "timesformer.SYSTEM")
    forgotten = asked(copy)
    assert forgotten.returncode == 2 and "no model is called 'ColourMixer'" in forgotten.stderr
    add_line(copy / "dust" / "models" / "__init__.py", "    colour_mixer,\n", "    dual_swin,\n")
    case = '    ("ColourMixer", {"num_frames": 4, "num_classes": 5}, _VIDEO),\n'
    assert case.strip() in PAGE
    add_line(copy / "tests" / "models" / "small_models.py", case, '    ("VideoMAEPretrain", _PRETRAIN')
    environ = {**os.environ, "PYTHONPATH": str(copy)}
    tests = ["tests/models/test_colour_mixer.py", "tests/config/test_schema.py", "tests/test_architecture.py"]
    tests += ["tests/models/test_models.py", "tests/test_protocols.py", "tests/test_configs.py"]
    tests += ["tests/deploy/test_export.py"]
    # of the walls and of what is asked of all models, what the files of the diff can break; of the keys, its own, and
    # what holds for all together
    touched = ["-m", "not slow", "-k", "colour or circle or crumbs or has_a_case or why_not or schema and not ["]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *touched, *tests]
    run = subprocess.run(command, capture_output=True, text=True, cwd=copy, env=environ)
    assert run.returncode == 0, run.stdout[-3000:]


def test_every_kind_of_the_plan_has_a_section():
    titles = re.findall(r"^## (.*)$", PAGE, re.M)
    kinds = (
        "A model",
        "A dataset",
        "A task",
        "A metric",
        "An augmentation",
        "A hook",
        "A decoder",
        "A stage of training",
    )
    assert set(kinds) <= set(titles)
