"""A tiny data set of real mp4s, and the configuration of a tiny run on it."""

import av
import numpy as np
import pytest

from dust.config import load_config

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


def write_clip(path, value, frames=12, size=32, seed=0):
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


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A csv folder: dark and bright clips, 10 train, 4 val, 4 test."""
    root = tmp_path_factory.mktemp("clips")
    number = 0
    for split, count in (("train", 10), ("val", 4), ("test", 4)):
        lines = ["path,label"]
        for index in range(count):
            name = f"clip_{number}.mp4"
            write_clip(root / name, 60 if index % 2 else 190, seed=number)
            lines.append(f"{name},{'dark' if index % 2 else 'bright'}")
            number += 1
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def tiny(clips, tmp_path):
    """``tiny(KEY=VALUE...)`` -> a frozen cfg writing into this test's folder; dots of keys are double underscores."""

    def make(output="run", **overrides):
        values = {**TINY, "DATA.PATH_TO_DATA_DIR": str(clips), "OUTPUT_DIR": str(tmp_path / output)}
        values.update({key.replace("__", "."): value for key, value in overrides.items()})
        return load_config(None, values)

    return make
