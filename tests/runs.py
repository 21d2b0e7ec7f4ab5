"""Tiny runs: their settings, how they are started and cut, and whether two came to the same end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import torch

from dust.engine.learner import Learner
from dust.engine.run_dir import RunDir
from dust.engine.train import build_trainer
from dust.utils.checkpoint import list_checkpoints, load_checkpoint
from tests.helpers import ROOT
from tests.processes import zygote

TINY = {
    "MODEL.MODEL_NAME": "TimeSformer",
    "MODEL.NUM_CLASSES": 2,
    "DATA.NUM_FRAMES": 2,
    "DATA.SAMPLING_RATE": 2,
    "DATA.TRAIN_JITTER_SCALES": [20, 24],
    "DATA.TRAIN_CROP_SIZE": 16,
    "DATA.TEST_CROP_SIZE": 16,
    "TIMESFORMER.PATCH_SIZE": 8,
    "TIMESFORMER.EMBED_DIM": 16,
    "TIMESFORMER.DEPTH": 2,
    "TIMESFORMER.NUM_HEADS": 2,
    "TIMESFORMER.DROP_RATE": 0.1,
    "TRAIN.BATCH_SIZE": 3,
    "TRAIN.EVAL_PERIOD": 1,
    "TRAIN.CHECKPOINT_PERIOD": 1,
    "TEST.BATCH_SIZE": 4,
    "TEST.NUM_ENSEMBLE_VIEWS": 2,
    "TEST.NUM_SPATIAL_CROPS": 3,
    "SOLVER.OPTIMIZING_METHOD": "adamw",
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.MAX_EPOCH": 3,
    "SOLVER.WARMUP_EPOCHS": 0.5,
    "SOLVER.WARMUP_START_LR": 0.001,
    "DATA_LOADER.NUM_WORKERS": 0,
    "NUM_GPUS": 0,
    "RNG_SEED": 3,
    "LOG_PERIOD": 2,
}
#: Everything random at once: augmentation, mixing, dropout, drop-path, averaging, accumulation with a short last group.
RICH = {
    "AUG__ENABLE": True,
    "AUG__AA_TYPE": "rand-m7-n2-mstd0.5-inc1",
    "AUG__RE_PROB": 0.5,
    "AUG__NUM_SAMPLE": 2,
    "MIXUP__ENABLE": True,
    "EMA__ENABLED": True,
    "EMA__DECAY": 0.9,
    "GLOBAL_BATCH_SIZE": 6,
    "DATA_LOADER__DROP_LAST": False,
}
#: Nothing random that depends on the process: what is left is rounding. (Adam would make steps of it, where a gradient
#: is nothing else: at the bias of the keys.)
PLAIN = {
    "SOLVER__OPTIMIZING_METHOD": "sgd",
    "SOLVER__BASE_LR": 0.1,
    "TIMESFORMER__DROP_RATE": 0.0,
    "TIMESFORMER__DROP_PATH_RATE": 0.0,
    "TRAIN__BATCH_SIZE": 4,
    "DATA_LOADER__DROP_LAST": False,
    "SOLVER__MAX_EPOCH": 2,
    "EMA__ENABLED": True,
    "EMA__DECAY": 0.9,
}


def write_noise(path, value, frames=12, size=32, seed=0):
    """A clip of noise around a brightness; ``size`` pixels square, 12 fps, h264."""
    rng = np.random.RandomState(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"crf": "28"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            noise = np.clip(rng.normal(value, 20, (size, size, 3)), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())


# ------------------------------------------------------------------------------------------------- command lines


def command_line(values: dict) -> list[str]:
    """Keys and values as words; two underscores of a key are a dot."""
    return [str(word) for key, value in values.items() for word in (key.replace("__", "."), value)]


def words(clips, out, **overrides) -> list[str]:
    """The command line of a tiny run of one epoch."""
    values = {**TINY, "DATA.PATH_TO_DATA_DIR": clips, "OUTPUT_DIR": out, "SOLVER.MAX_EPOCH": 1}
    values.update({key.replace("__", "."): value for key, value in overrides.items()})
    return command_line(values)


def start(argv, **kwargs) -> subprocess.Popen:
    """A run as a user starts it: a new interpreter, which takes seconds to import what a run needs."""
    command = [sys.executable, str(ROOT / "tools" / "run_net.py"), *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, **kwargs)


def run(clips, out, count, *, spawn=False, **more) -> Path:
    """One plain run in ``count`` processes, to its end; ``spawn`` as in tests/zygote.py."""
    settings = {**PLAIN, "NUM_PROCS_PER_NODE": count, **more}
    zygote().finish(words(clips, out, **settings), spawn=spawn)
    return out


def weights(out: Path, epoch: int = 2) -> dict:
    return load_checkpoint(out / "checkpoints" / f"checkpoint_epoch_{epoch:05d}.pyth")


def epochs(out: Path) -> list[tuple]:
    """(epoch, loss, error) of each epoch of training, by the log."""
    lines = (out / "stdout.log").read_text().splitlines()
    lines = [json.loads(line.split("json_stats: ")[1]) for line in lines if '"train_epoch"' in line]
    return [(line["epoch"], line["loss"], line["top1_err"]) for line in lines]


# ------------------------------------------------------------------------------------------------- in this process


def train(cfg) -> dict:
    """Train; what the last checkpoint holds."""
    build_trainer(cfg, RunDir(cfg.OUTPUT_DIR)).fit()
    return final(cfg)


def final(cfg) -> dict:
    return load_checkpoint(RunDir(cfg.OUTPUT_DIR).checkpoints / f"checkpoint_epoch_{cfg.SOLVER.MAX_EPOCH:05d}.pyth")


def final_of(out: Path) -> dict:
    return load_checkpoint(list_checkpoints(out / "checkpoints")[-1])


class StopAfter:
    """Sends this process a signal once so many batches were trained on."""

    def __init__(self, monkeypatch, batches, signum=signal.SIGINT):
        original, self.seen = Learner._micro_step, 0

        def step(trainer, batch):
            self.seen += 1
            if self.seen == batches:
                os.kill(os.getpid(), signum)
            return original(trainer, batch)

        monkeypatch.setattr(Learner, "_micro_step", step)


# ------------------------------------------------------------------------------------------------- the same or not


def assert_same(a, b, path=""):
    """Equal to the bit, whatever it is made of."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{index}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def assert_same_run(a, b):
    for part in ("model_state", "ema_state", "optimizer_state", "meter", "best", "least_errors", "updates", "epoch"):
        assert_same(a[part], b[part], part)


def assert_close_weights(one: dict, two: dict, parts=("model_state", "ema_state")) -> None:
    """The same but for the rounding of sums in another order."""
    for part in parts:
        assert one[part].keys() == two[part].keys()
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, atol=2e-6, rtol=1e-5)
