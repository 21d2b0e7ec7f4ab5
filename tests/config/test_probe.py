"""What goes together in a probe's configuration, and what is said where it does not."""

import pytest

from dust.config import load_config
from dust.utils.errors import ConfigError
from tests.helpers import ROOT

BASE = {
    "MODEL.MODEL_NAME": "Probe", "PROBE.BACKBONE": "VJEPA2", "PROBE.BACKBONE_FROM": "x.pt", "PROBE.TOKENS_FROM": "t",
    "TRAIN.DATASET": "StoredTokens", "TASK": "ProbeGrid", "NUM_GPUS": 1,
}  # fmt: skip
GRID = {"PROBE.LRS": [0.1, 0.01]}
WRONG = [
    ({"PROBE.BACKBONE": ""}, "PROBE.BACKBONE is empty"),
    ({"PROBE.BACKBONE_FROM": ""}, "PROBE.BACKBONE_FROM is empty"),
    ({"PROBE.TOKENS_FROM": ""}, "PROBE.TOKENS_FROM is empty"),
    ({"MODEL.PRETRAINED": "y.pt"}, "MODEL.PRETRAINED y.pt: a Probe begins with"),
    ({"TRAIN.CHECKPOINT_FILE_PATH": "y.pt"}, "TRAIN.CHECKPOINT_FILE_PATH y.pt: a Probe begins with"),
    ({"PROBE.LORA_RANK": 2}, "stored tokens teach the backbone nothing"),
    ({"PROBE.UNFREEZE_BLOCKS": 2}, "stored tokens teach the backbone nothing"),
    ({"AUG.ENABLE": True}, "tokens are augmented when they are stored"),
    ({**GRID, "TASK": "Classification"}, "several heads are compared by ProbeGrid"),
    ({**GRID, "TRAIN.EVAL_PERIOD": 0}, "of several heads the validation chooses one"),
    ({**GRID, "SOLVER.CLIP_GRAD_L2NORM": 1.0}, "the norm is over all heads"),
    ({**GRID, "SOLVER.BASE_LR": 0.0}, "PROBE.LRS are taken relative to it"),
    ({**GRID, "NUM_GPUS": 2}, "a grid of heads is trained by one process"),
    ({**GRID, "EMA.ENABLED": True}, "a grid of heads is not averaged"),
    ({"PROBE.LRS": [0.1, 0.1]}, "each once"),
    ({"PROBE.LRS": [0.0, 0.1]}, "each once, and above 0"),
    ({"PROBE.WEIGHT_DECAYS": [-1.0]}, "each once, and at least 0"),
    ({"PROBE.HEAD": "knn", "SOLVER.MAX_EPOCH": 2}, "SOLVER.MAX_EPOCH 2: PROBE.HEAD knn keeps every clip once"),
    ({"PROBE.HEAD": "knn", "DATA_LOADER.DROP_LAST": True}, "set DATA_LOADER.DROP_LAST False"),
    ({"MODEL.MODEL_NAME": "TimeSformer"}, "StoredTokens are for model Probe"),
    ({"PROBE.LORA_TARGETS": ["o"]}, "one or more of q, k, v, proj, fc"),
    ({"FEATURES.ENABLE": True, "FEATURES.TOKEN_GRID": [0, 1, 1]}, "TOKEN_GRID.*each at least 1"),
    ({"FEATURES.ENABLE": True, "FEATURES.AUGMENTED_VIEWS": 2}, "AUGMENTED_VIEWS 2: is for FEATURES.LAYER tokens"),
    ({"FEATURES.ENABLE": True, "FEATURES.LAYER": "tokens", "FEATURES.FORMAT": "per_video"}, "FORMAT memmap or npz"),
    ({"FEATURES.ENABLE": True, "FEATURES.DTYPE": "bfloat16", "FEATURES.FORMAT": "per_video"}, "set float16"),
]


@pytest.mark.parametrize(("values", "said"), WRONG, ids=[said[:30] for _, said in WRONG])
def test_what_does_not_go_together(values, said):
    load_config(None, BASE)
    with pytest.raises(ConfigError, match=said):
        load_config(None, {**BASE, **values})


def test_recipes_stand_behind_any_backbone(tmp_path):
    """A recipe undoes what a backbone's own training had on, and keeps how its clips are read."""
    backbone = ROOT / "configs" / "Kinetics" / "MVITv2_S_16x4.yaml"
    for name in ("features", "attentive", "linear", "knn", "lora"):
        file = tmp_path / f"{name}.yaml"
        own = "" if name == "features" else "PROBE: {BACKBONE: MViT}\n"
        file.write_text(f"_BASE_: [{backbone}, {ROOT}/configs/Probe/{name}.yaml]\n{own}")
        cfg = load_config(file)
        assert (cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.MIXUP.ENABLE and cfg.TRAIN.ENABLE) == (16, 4, False)
        assert ("MViT" if name == "features" else "Probe") == cfg.MODEL.MODEL_NAME and not cfg.EMA.ENABLED
