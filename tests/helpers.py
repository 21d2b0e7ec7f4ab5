"""What several tests need: golden files, and the real clips where a checkout has them beside it."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
VIDEOS = ROOT.parent / "shared" / "videos"

needs_videos = pytest.mark.skipif(not VIDEOS.is_dir(), reason="needs the real clips of ../shared/videos")


def golden_json(name: str):
    return json.loads((DATA / f"{name}.json").read_text())


def golden_tensors(name: str):
    """(facts, tensors) of one golden case."""
    return golden_json(name), load_file(DATA / f"{name}.safetensors")
