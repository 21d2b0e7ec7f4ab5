"""What several tests need: golden files, and the real clips where a checkout has them beside it."""

import json
from pathlib import Path

import pytest
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
