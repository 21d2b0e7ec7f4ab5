"""The benchmark's commands on a tiny model, and what their figures must be."""

import json

import numpy as np

from benchmarks.__main__ import main
from tests.helpers import ROOT

CFG = str(ROOT / "configs" / "quickstart" / "video.yaml")
TINY = ["TIMESFORMER.DEPTH", "1", "TIMESFORMER.EMBED_DIM", "32", "TIMESFORMER.PATCH_SIZE", "16"]
TINY += ["DATA.TRAIN_CROP_SIZE", "32", "DATA.TEST_CROP_SIZE", "32", "DATA.TRAIN_JITTER_SCALES", "[32, 36]"]
TINY += ["DATA.NUM_FRAMES", "4", "TRAIN.BATCH_SIZE", "2", "DATA_LOADER.NUM_WORKERS", "0"]


def run_tool(tmp_path, capsys, *words):
    """(JSON, printed text) of one command line."""
    file = tmp_path / "figures.json"
    assert main([*words, "--json", str(file)]) == 0
    return json.loads(file.read_text()), capsys.readouterr().out


def positive(row, *names):
    for name in names:
        assert np.isfinite(row[name]) and row[name] > 0, name
