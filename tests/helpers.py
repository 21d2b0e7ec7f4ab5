"""What several tests need: golden files, and the real clips where a checkout has them beside it."""

import contextlib
import csv
import importlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
VIDEOS = SHARED / "videos"
#: Where golden files lie. The first holds one case of each fact; the second, beside some checkouts, holds them all.
DATA, ALL_GOLDEN = ROOT / "tests" / "data", SHARED / "golden"

needs_videos = pytest.mark.skipif(not VIDEOS.is_dir(), reason="needs the real clips of ../shared/videos")


def golden_file(name: str) -> Path:
    """The file of tests/data or of ../shared/golden; the test that asks is skipped where neither has it."""
    for folder in (DATA, ALL_GOLDEN):
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"{name} is neither in tests/data nor in ../shared/golden")


def golden_json(name: str):
    return json.loads(golden_file(f"{name}.json").read_text(encoding="utf-8"))


def golden_tensors(name: str):
    """(facts, tensors) of one golden case."""
    return golden_json(name), load_file(golden_file(f"{name}.safetensors"))


def part(tensors, *names):
    """The tensors whose keys begin with one of the names and a dot, without that."""
    return {key.split(".", 1)[1]: value for key, value in tensors.items() if key.split(".", 1)[0] in names}


def randomised(model):
    """All parameters random, so that what starts at zero counts too; in eval mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def noise_of(*shape):
    """The same noise every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def csv_dicts(path) -> list[dict]:
    """The rows of a csv file with a header."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def csv_lists(path) -> list[list[str]]:
    """All rows of a csv file, its header too."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def contents(folder: Path) -> dict[str, bytes]:
    """{path below the folder: bytes} of all files in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def metrics_of(folder: Path) -> dict[str, float]:
    """What a test of the run in ``folder`` measured."""
    return json.loads((folder / "results" / "test.json").read_text())["metrics"]


def touch(folder: Path, *names: str) -> None:
    """Empty files below a folder, and the folders that they lie in."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


@dataclass(frozen=True)
class Done:
    """What a command has come to, as subprocess.run tells it."""

    returncode: int
    stdout: str
    stderr: str


def tool(name: str, *words) -> Done:
    """``tools/NAME.py WORDS`` in this process: a file of tools/ calls the main that it imports, and no more."""
    door = (ROOT / "tools" / f"{name}.py").read_text(encoding="utf-8")
    (module,) = re.findall(r"^from ([\w.]+) import main$", door, re.M)
    return command(module, *words)


def command(module: str, *words) -> Done:
    """``main`` of a module with these words, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = importlib.import_module(module).main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
    return Done(code or 0, out.getvalue(), err.getvalue())
