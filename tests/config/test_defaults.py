"""The keys and their defaults, against the 351 that SlowFast and TimeSformer have with a plain default."""

import subprocess
import sys

import pytest

from dust.config import flatten, get_cfg
from dust.config.defaults import OWN_KEYS
from dust.config.foreign import (
    FOREIGN_KEYS,
    NO_EFFECT,
    REFUSED,
    REFUSED_FOR_MODELS,
    REFUSED_FOR_OURS,
    REFUSED_WITH_BATCH_NORM,
)
from dust.config.values import same
from tests.helpers import golden_json

#: Where a default of ours is not one of theirs, and on purpose (docs/CONFIG.md).
DIFFERENT = {
    "TASK": "Classification",
    "TRAIN.DATASET": "VideoDataset",
    "TEST.DATASET": "VideoDataset",
    "MODEL.MODEL_NAME": "TimeSformer",
    "MODEL.ARCH": "vit",
    "DATA.INPUT_CHANNEL_NUM": [3],
    "DATA.PATH_LABEL_SEPARATOR": "",
    "GLOBAL_BATCH_SIZE": 0,
    "MVIT.POOL_KVQ_KERNEL": [],  # None there
    "MVIT.POOL_KV_STRIDE_ADAPTIVE": [],
}


def _infinity_as_text(value):
    return str(value) if value in (float("inf"), float("-inf")) else value


def test_every_foreign_key_is_known_at_one_of_its_foreign_defaults():
    theirs, ours = golden_json("slowfast_keys"), flatten(get_cfg())
    assert len(theirs) == 351
    assert set(theirs) <= set(ours)
    different = {
        key: ours[key]
        for key, defaults in theirs.items()
        if not any(same(_infinity_as_text(ours[key]), default) for default in defaults)
    }
    assert different == DIFFERENT


def test_own_and_foreign_keys_are_all_keys_and_do_not_overlap():
    assert set(flatten(get_cfg())) == OWN_KEYS | FOREIGN_KEYS
    assert not OWN_KEYS & FOREIGN_KEYS


def test_foreign_keys_are_not_ours_unless_slowfast_has_them_too():
    others = {"AVA.FRAME_DIR", "AVA.FRAME_LIST_DIR", "AVA.ANNOTATION_DIR", "DEMO.COMMON_CLASS_NAMES"}
    others |= {"PREFETCH.NUM_LOADERS"}  # of its YAMLs; no code reads it
    assert set(golden_json("slowfast_keys")) | others >= FOREIGN_KEYS


@pytest.mark.parametrize("table", [REFUSED, REFUSED_FOR_MODELS, REFUSED_FOR_OURS, REFUSED_WITH_BATCH_NORM])
def test_what_is_refused_is_a_foreign_key(table):
    assert set(table) <= FOREIGN_KEYS


def test_what_has_no_effect_is_a_foreign_key_or_section():
    for name in NO_EFFECT:
        assert any(key == name or key.startswith(name + ".") for key in FOREIGN_KEYS), name


def test_get_cfg_gives_a_copy():
    cfg = get_cfg()
    cfg.TRAIN.BATCH_SIZE = 1
    cfg.DATA.MEAN.append(9)
    assert get_cfg().TRAIN.BATCH_SIZE == 64
    assert get_cfg().DATA.MEAN == [0.45, 0.45, 0.45]


def test_import_needs_no_torch():
    code = "import sys, dust.config; print(sorted({'torch', 'numpy', 'fvcore', 'timm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
