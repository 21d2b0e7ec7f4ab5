"""An augmentation of a user's own, in a file outside the package: trained with, stopped, resumed to the same bits."""

import importlib.util
import sys

import pytest
import torch

from dust.config import get_cfg
from dust.engine import run_net
from dust.utils.checkpoint import load_checkpoint
from tests.engine.test_run_net import words

OWN = '''
"""Noise of a random strength, alike for all frames; on demand Ctrl-C comes while a clip is augmented."""

import os
import signal

import torch

from dust.datasets.transforms.augment import AUGMENTATION_REGISTRY

calls = []


@AUGMENTATION_REGISTRY.register()
def noise_of_a_user(clip, rng, *, most=50.0):
    calls.append(rng.randint(0, 2**30))
    if len(calls) == int(os.environ.get("CTRL_C_AT", 0)):
        os.kill(os.getpid(), signal.SIGINT)
    noise = torch.from_numpy(rng.normal(0, most, clip.shape[1:]))
    return (clip + noise).clamp(0, 255).to(clip.dtype)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The words that make a run know the file."""
    path = tmp_path / "augmentation_of_a_user.py"
    path.write_text(OWN)
    if "IMPORTS" in get_cfg():
        yield ["IMPORTS", f"[{path}]"]
    else:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[path.stem])
        yield []
    del sys.modules[path.stem]


def run(clips, out, own, listed):
    argv = words(clips, out, AUG__ENABLE=True, AUG__LIST=listed, AUG__RE_PROB=0.0, TRAIN__BATCH_SIZE=5)
    return run_net.main([*argv, "TEST.ENABLE", "False", "TRAIN.EVAL_PERIOD", "0", *own])


def weights(out):
    return load_checkpoint(out / "checkpoints" / "checkpoint_epoch_00001.pyth")["model_state"]


def test_two_steps_and_an_exact_resume(clips, tmp_path, monkeypatch, own):
    listed = "[{noise_of_a_user: {most: 40}}, ColorJitter]"
    assert run(clips, tmp_path / "whole", own, listed) == 0
    drawn = sys.modules["augmentation_of_a_user"].calls
    assert len(drawn) == 10 and len(set(drawn)) == 10, "two steps of five clips, each with a stream of its own"
    whole = list(drawn)
    drawn.clear()
    with monkeypatch.context() as patch:
        patch.setenv("CTRL_C_AT", "3")  # while the first batch is read: the run stops behind its first step
        assert run(clips, tmp_path / "cut", own, listed) == 130
    assert drawn == whole[:5]
    assert run(clips, tmp_path / "cut", own, listed) == 0
    assert drawn == whole
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "cut")[name]), name
    assert run(clips, tmp_path / "without", own, "[ColorJitter]") == 0
    assert any(not torch.equal(t, weights(tmp_path / "without")[k]) for k, t in weights(tmp_path / "whole").items())
