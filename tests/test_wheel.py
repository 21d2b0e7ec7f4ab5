"""The wheel alone, installed into an empty folder: all that a user needs, without a checkout and without network."""

import json
import os
import shutil
import subprocess
import sys

import pytest

import dust
from tests.benchmark.commands import TINY
from tests.helpers import ROOT, csv_dicts

pytestmark = pytest.mark.slow
PARTS = ("dust", "configs", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
MORE = ["DATA.PATH_TO_DATA_DIR", "clips", "MODEL.NUM_CLASSES", "2", "OUTPUT_DIR", "runs/tiny"]
MORE += ["SOLVER.MAX_EPOCH", "2", "SOLVER.WARMUP_EPOCHS", "0"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that pip has installed the wheel into. What it requires comes from this environment."""
    pytest.importorskip("setuptools", "70.1", reason="building a wheel needs setuptools")
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "target"))
    for part in PARTS:  # a copy, so that nothing is written into the checkout
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, source)
    alone = ("--quiet", "--no-index", "--no-deps", "--disable-pip-version-check")
    pip(source, "wheel", *alone, "--no-build-isolation", "--wheel-dir", wheels, ".")
    (wheel,) = wheels.iterdir()
    pip(source, "install", *alone, "--no-compile", "--target", target, wheel)
    return target


def pip(folder, *words):
    run = [sys.executable, "-m", "pip", *map(str, words)]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def dust_in(folder, installed):
    """``dust`` as it was installed, in a folder."""
    env = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}

    def dust_command(*words, code=0):
        command = [sys.executable, installed / "bin" / "dust", *words]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout + done.stderr

    return dust_command


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The folder in which all is done, empty at first."""
    return tmp_path_factory.mktemp("here")


@pytest.fixture(scope="module")
def run(here, installed):
    return dust_in(here, installed)


@pytest.fixture(scope="module")
def trained(here, run):
    """What gen-data says; two epochs are trained on its clips."""
    said = run("gen-data", "video", "clips", "--classes", "2", "--clips", "5", "--size", "36", "--frames", "12")
    (here / "mine.yaml").write_text("_BASE_: configs/quickstart/video.yaml\nRNG_SEED: 5\n")
    run("--cfg", "mine.yaml", *TINY, *MORE)
    return said


def test_the_wheel_holds_the_package_and_its_configurations_alone(installed):
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"dust", "dust_video", "bin"}
    inside = {path.relative_to(installed / "dust") for path in (installed / "dust").rglob("*") if path.is_file()}
    package = {path.relative_to(ROOT / "dust") for path in (ROOT / "dust").rglob("*") if path.is_file()}
    configs = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*") if path.is_file()}
    assert inside == {path for path in package if "__pycache__" not in path.parts} | configs


def test_from_an_empty_folder(run, trained, here):
    assert run("--version") == f"dust {dust.__version__}\n"
    names = [line.split()[0] for line in run("configs", "list").splitlines()]
    assert names == [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "configs").rglob("*.yaml"))]
    assert "dust --cfg configs/quickstart/video.yaml" in trained
    results = here / "runs" / "tiny" / "results"
    report = json.loads((results / "test.json").read_text())
    assert len(csv_dicts(results / "predictions.csv")) == report["counts"]["samples"] == 2
    assert (here / "runs/tiny/checkpoints/checkpoint_epoch_00002.pyth").is_file()
    assert {path.name for path in here.iterdir()} == {"clips", "mine.yaml", "runs"}, "nothing else was written here"


def test_a_file_of_the_working_folder_comes_first(installed, tmp_path):
    (tmp_path / "configs" / "quickstart").mkdir(parents=True)
    (tmp_path / "configs" / "quickstart" / "video.yaml").write_text("NO_SUCH_KEY: 1\n")
    said = dust_in(tmp_path, installed)("--cfg", "configs/quickstart/video.yaml", code=2)
    assert "NO_SUCH_KEY" in said


def test_it_answers(run, trained, here):
    """The test's list, with the test's numbers; and a timeline with an overlay."""
    run("predict", "runs/tiny", "clips/test.csv", "-o", "answers", "--device", "cpu")
    answered, tested = (csv_dicts(here / folder / "predictions.csv") for folder in ("answers", "runs/tiny/results"))
    assert [{**row, "label": ""} for row in tested] == answered
    (clip,) = [row["path"] for row in answered[:1]]
    run("predict", "runs/tiny", clip, "--timeline", "--overlay", "-o", "long", "--device", "cpu")
    assert {path.suffix for path in (here / "long").iterdir()} == {".csv", ".json", ".mp4", ".png"}


@pytest.mark.parametrize("name", ["model.pt2", "model.onnx"])
def test_it_is_exported(run, trained, here, name):
    if name.endswith(".onnx"):
        for library in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(library, reason=f"the extra export is not installed: {library}")
    said = run("export", "runs/tiny", "-o", name, "--measure", "eager")
    assert "written:" in said and json.loads((here / f"{name}.json").read_text())["agreement"]["clips"] == 2
    if name.endswith(".onnx"):
        run("predict", name, "clips/test.csv", "-o", "exported", "--device", "cpu")
        ours, original = (csv_dicts(here / folder / "predictions.csv") for folder in ("exported", "runs/tiny/results"))
        assert [row["prediction"] for row in ours] == [row["prediction"] for row in original]
