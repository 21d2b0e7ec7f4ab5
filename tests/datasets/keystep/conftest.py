"""A small generated procedure, and a configuration of stage 2 on it."""

import pytest

from dust.config import load_config
from dust.datasets.keystep.layouts import read_procedures
from dust.synthetic.keystep import generate_procedure


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("assembly")
    generate_procedure(root, recordings=6, parts=3, size=32, mishaps=0.5)
    return root


@pytest.fixture(scope="package")
def data(folder):
    return read_procedures(folder, "train")


@pytest.fixture
def cfg(folder, tmp_path):
    def make(**overrides):
        values = {
            "DATA.PATH_TO_DATA_DIR": str(folder),
            "DATA.TRAIN_CROP_SIZE": 16,
            "OUTPUT_DIR": str(tmp_path / "stage2"),
            "MODEL.MODEL_NAME": "TemporalEncoder",
            "MODEL.NUM_CLASSES": 3,
            "TRAIN.BATCH_SIZE": 2,
            "TEST.BATCH_SIZE": 5,
            "NUM_GPUS": 0,
            "DATA_LOADER.NUM_WORKERS": 0,
            "KEYSTEP.FRAMES": 8,
            "KEYSTEP.SKIP_FACTOR": 1,
            "KEYSTEP.EMBED_DIM": 4,
            "KEYSTEP.SAMPLER.SEP": 10.0,
            "KEYSTEP.SAMPLER.N_ITER": 4,
            "KEYSTEP.CONTRAST.KEY_FRAMES": 5,
            "KEYSTEP.CONTRAST.N_CLASSES": 3,
            "KEYSTEP.CONTRAST.N_ITERS": 2,
        }
        return load_config(None, values | {key.replace("__", "."): value for key, value in overrides.items()})

    return make
