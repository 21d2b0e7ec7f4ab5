"""The keys of SlowFast's own models, and its own YAMLs: which load, which are refused, and why.

``python -m tests.config.test_slowfast docs/CONFIG.md`` writes the table of them again.
"""

import functools
import sys
from itertools import groupby
from pathlib import Path

import pytest
import torch

from dust.config import load_config, notes
from dust.config.slowfast import MODELS, READ_BY
from dust.models import build_model
from dust.models.optimizer import construct_optimizer
from dust.tasks import build_task
from dust.tasks.task import DataInfo
from dust.utils.errors import ConfigError
from tests.helpers import ROOT, golden_json

PAGE = ROOT / "docs" / "CONFIG.md"
BEGIN = "<!-- SlowFast's files: written by python -m tests.config.test_slowfast docs/CONFIG.md -->\n"
END = "<!-- end of SlowFast's files -->\n"
WANTED = ("configs/Kinetics/", "configs/SSv2/", "configs/Charades/")
#: What tells best why a file is refused, where several things are wrong.
TELLING = ("DETECTION.ENABLE", "MASK.ENABLE", "TASK", "DEMO.ENABLE", "TRAIN.DATASET", "MVIT.REV.ENABLE",
           "MULTIGRID.LONG_CYCLE")  # fmt: skip


def files():
    """{name of a file: its keys and values}; None for one that is not YAML."""
    facts = golden_json("slowfast_yamls")
    return {
        name: None if places is None else dict(facts["settings"][place] for place in places)
        for name, places in facts["files"].items()
    }


FILES = files()


@functools.cache
def why_not(name):
    """Why a file is refused, in one line; empty if it loads."""
    if FILES[name] is None:
        return "not valid YAML"
    try:
        load_config(None, FILES[name])
    except ConfigError as error:
        problems = [line.split(". ", 1)[1] for line in str(error).splitlines()[1:]]
        first = [text for key in TELLING for text in problems if text.startswith(f"{key} ")]
        return [*first, *problems][0].split(" (default")[0]
    return ""


def table():
    """A line for each folder and reason."""
    reasons = {name: why_not(name) for name in FILES}
    lines = [f"Of commit {golden_json('slowfast_yamls')['commit'][:8]}; {sum(not r for r in reasons.values())} of "
             f"{len(FILES)} load.", "", "| folder | files | dust |", "|---|---|---|"]  # fmt: skip
    for folder, names in groupby(sorted(FILES), key=lambda name: name.rsplit("/", 1)[0]):
        by_reason: dict[str, list[str]] = {}
        for name in names:
            by_reason.setdefault(reasons[name], []).append(Path(name).stem)
        for reason, stems in sorted(by_reason.items()):
            lines.append(f"| `{folder}` | {', '.join(f'`{stem}`' for stem in stems)} | {reason or 'loads'} |")
    return "\n".join(lines)


def replaced(text):
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n\n{END}{rest.partition(END)[2]}"


def test_the_table_is_not_stale():
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert replaced(text) == text, "python -m tests.config.test_slowfast docs/CONFIG.md"


def test_sixty_of_those_for_kinetics_ssv2_and_charades_load():
    wanted = [name for name in FILES if name.startswith(WANTED)]
    assert len(FILES) == 111 and len(wanted) == 68
    assert len([name for name in wanted if not why_not(name)]) == 62
    others = {name: why_not(name) for name in FILES if not name.startswith(WANTED)}
    assert [name for name, reason in others.items() if not reason] == [  # a Slow from a file of weights; a prediction
        *(f"configs/contrastive_ssl/finetune_SSv2_Slow_R50_syn{number}.yaml" for number in (0, 8)),
        "demo/Kinetics/SLOWFAST_8x8_R50.yaml",
    ]


LOAD = [name for name in FILES if name.startswith(WANTED) and not why_not(name)]


def smaller(settings):
    """Such a configuration on a CPU, at a size that takes no time: the same kinds of layers in the same places."""
    cfg = load_config(None, settings)
    values = {**settings, "NUM_GPUS": 0, "NUM_SHARDS": 1, "TRAIN.ENABLE": True, "TRAIN.BATCH_SIZE": 4}
    values |= {"DATA.TRAIN_CROP_SIZE": 32, "DATA.TEST_CROP_SIZE": 32, "DATA.TRAIN_JITTER_SCALES": [32, 40]}
    values |= {"RESNET.WIDTH_PER_GROUP": 8, "MODEL.NUM_CLASSES": 3}
    values["DATA.NUM_FRAMES"] = 2 * cfg.SLOWFAST.ALPHA if cfg.MODEL.MODEL_NAME == "SlowFast" else 4
    if cfg.MODEL.MODEL_NAME == "X3D":
        values |= {"X3D.WIDTH_FACTOR": 0.5, "X3D.DEPTH_FACTOR": 1.0, "X3D.DIM_C5": 16}
    if cfg.MODEL.MODEL_NAME == "MViT":
        values |= {"MVIT.EMBED_DIM": 8 * cfg.MVIT.NUM_HEADS}
    return load_config(None, values)


def one_step(cfg):
    """Make a step of its optimizer on random clips; the loss before it."""
    torch.manual_seed(0)
    model = build_model(cfg).train()
    names = [str(number) for number in range(cfg.MODEL.NUM_CLASSES)]
    task, optimizer = build_task(cfg, DataInfo(names, [1] * len(names))), construct_optimizer(model, cfg)
    video = torch.randn(2, 3, cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_CROP_SIZE)
    label = torch.tensor([0, 2])
    if cfg.DATA.MULTI_LABEL or cfg.MIXUP.ENABLE:
        label = torch.nn.functional.one_hot(label, len(names)).float()
    batch = {"inputs": {"video": video}, "label": label, "id": ["a", "b"]}
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    loss = sum(task.losses(task.forward(model, batch["inputs"]), batch).values())
    loss.backward()
    optimizer.step()
    assert any(not torch.equal(value, before[name]) for name, value in model.named_parameters())
    return loss.item()


REPRESENTATIVE = [
    "configs/Kinetics/SLOWFAST_NLN_8x8_R50.yaml", "configs/Kinetics/c2/C2D_NOPOOL_8x8_R50.yaml",
    "configs/Kinetics/I3D_8x8_R50_IN1K.yaml", "configs/Kinetics/pytorchvideo/X3D_S.yaml",
    "configs/SSv2/MVITv2_S_16x4.yaml", "configs/Kinetics/pytorchvideo/MVIT_B_16x4_CONV.yaml",
    "configs/Charades/SLOWFAST_16x8_R50.yaml",
]  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in REPRESENTATIVE else pytest.mark.slow) for name in LOAD]
)
def test_what_loads_is_built_whole_and_learns_when_small(name):
    with torch.device("meta"):
        model = build_model(load_config(None, FILES[name]))
    assert sum(parameter.numel() for parameter in model.parameters()) > 3e6
    assert 0 < one_step(smaller(FILES[name])) < 20


def test_what_slowfast_means_is_said():
    said = "\n".join(notes(load_config(None, FILES["configs/Kinetics/c2/C2D_NOPOOL_8x8_R50.yaml"])))
    assert (
        "MODEL.ARCH slow_c2d: what ResNet_nopool means" in said and "MODEL.MODEL_NAME ResNet_nopool -> ResNet" in said
    )
    assert "TEST.ENSEMBLE_SPACE probs: views of a ResNet are joined as SlowFast does it" in said
    assert "TRAIN.CHECKPOINT_TYPE caffe2 has no effect: the file itself shows what it is" in said
    cfg = load_config(None, FILES["configs/SSv2/SLOWFAST_16x8_R50.yaml"])
    said = "\n".join(notes(cfg))
    assert "SOLVER.LRS [0.001, 0.0001, 1e-05] are never reached: SOLVER.STEPS has 3" in said
    assert cfg.SOLVER.LRS == [1.0, 0.1, 0.01]
    cfg = load_config(None, {**FILES["configs/SSv2/MVITv2_L_40x3.yaml"], "TRAIN.CHECKPOINT_FILE_PATH": "k400.pyth"})
    assert cfg.TRAIN.CHECKPOINT_EPOCH_RESET and "TRAIN.CHECKPOINT_IN_INIT True -> " in "\n".join(notes(cfg))
    assert (
        load_config(None, {"MODEL.MODEL_NAME": "X3D", "TEST.ENSEMBLE_SPACE": "logits"}).TEST.ENSEMBLE_SPACE == "logits"
    )


def test_an_empty_value_means_what_it_means_to_slowfast(tmp_path):
    path = tmp_path / "theirs.yaml"
    path.write_text("AUG:\n  COLOR_JITTER:\nDATA:\n  PATH_TO_DATA_DIR:\nMVIT:\n  POOL_KVQ_KERNEL: None\n")
    cfg = load_config(path)
    assert (cfg.AUG.COLOR_JITTER, cfg.DATA.PATH_TO_DATA_DIR, cfg.MVIT.POOL_KVQ_KERNEL) == (0.0, "", [])
    path.write_text("TRAIN:\n  BATCH_SIZE:\n")
    with pytest.raises(ConfigError, match="TRAIN.BATCH_SIZE .*: has no value; its default is 64"):
        load_config(path)


@pytest.mark.parametrize("model", ["TimeSformer", *MODELS])
def test_keys_that_a_model_does_not_read_are_said_to_have_no_effect(model):
    others = {"SLOWFAST.BETA_INV": 4, "RESNET.STRIDE_1X1": True, "X3D.DIM_C1": 16, "MVIT.MLP_RATIO": 2.0,
              "MODEL.DROPOUT_RATE": 0.3, "BN.NUM_BATCHES_PRECISE": 9}  # fmt: skip
    said = "\n".join(notes(load_config(None, {"MODEL.MODEL_NAME": model, **others, "DATA.TEST_CROP_SIZE": 224})))
    for key, value in others.items():
        section = max((part for part in READ_BY if key.startswith(part)), key=len)
        assert (f"{key} {value} has no effect: " in said) == (model not in READ_BY[section]), key
    assert notes(load_config(None, {"MODEL.MODEL_NAME": "MyNet", **others})) == ()


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        page.write_text(replaced(page.read_text(encoding="utf-8")), encoding="utf-8")
