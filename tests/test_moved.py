"""Old paths are doors to the new ones for one release."""

import importlib
import subprocess
import sys

import pytest

import dust
from dust.moved import MOVED
from tests.helpers import ROOT


@pytest.mark.parametrize("old", MOVED)
def test_an_old_module_is_the_new_one(old):
    new = importlib.import_module(f"dust.{MOVED[old]}")
    spec = new.__spec__
    sys.modules.pop(f"dust.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"dust.{old} is now dust.{MOVED[old]}"):
        assert importlib.import_module(f"dust.{old}") is new
    assert new.__spec__ is spec and new.__name__ == f"dust.{MOVED[old]}"
    assert not (ROOT / "dust" / old.replace(".", "/")).with_suffix(".py").exists()


#: What somebody's own code may import, as version 0.1 spelt it.
CODE = """
from dust.datasets.decoder import VideoReader
from dust.datasets.video import VideoDataset, SSv2
from dust.datasets.tracks import PointTracks
from dust.datasets.keystep import KeyFrames
from dust.datasets.manifest import read_manifest, write_class_list, Clip
from dust.models.layers import Attention, Block
from dust.models.timesformer import TimeSformer
from dust.models.keystep_stream import StepStream
from dust.utils.checkpoint import load_weights, load_checkpoint
from dust.utils.features import FeatureStore, FeatureWriter
from dust.utils.weights import LoadReport
from dust.utils.psr_metrics import score_recording
from dust.engine.keystep_stream import open_stream
from dust.engine.launch import launch
print("fine")
"""


def test_the_paths_of_the_last_release_work():
    run = subprocess.run([sys.executable, "-W", "error", "-c", "pass"], cwd=ROOT)
    assert run.returncode == 0
    said = subprocess.run([sys.executable, "-W", "always", "-c", CODE], capture_output=True, text=True, cwd=ROOT)
    assert said.stdout == "fine\n", said.stderr
    assert "dust.datasets.decoder is now dust.decode.reader" in said.stderr


def test_dust_offers_what_users_ask_for_most():
    assert dust.VideoReader.__module__ == "dust.decode.reader"
    assert callable(dust.load_weights) and callable(dust.build_model) and callable(dust.load_config)
    assert {"VideoReader", "load_config"} <= set(dir(dust))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = dust.nothing


def test_a_module_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="dust.datasets.nothing"):
        importlib.import_module("dust.datasets.nothing")
