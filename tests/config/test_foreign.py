"""What foreign configurations mean: aliases, refusals, TimeSformer's defaults; and SlowFast's style of use."""

import textwrap

import pytest

from dust.config import accumulation_steps, assert_and_infer_cfg, flatten, get_cfg, load_config, notes
from dust.config.foreign import FOREIGN_KEYS, REFUSED, REFUSED_FOR_MODELS, REFUSED_FOR_OURS, REFUSED_WITH_BATCH_NORM
from dust.utils.errors import ConfigError
from tests.helpers import golden_json

TIMESFORMER_YAML = """
TRAIN:
  DATASET: kinetics
  BATCH_SIZE: 8
MODEL:
  MODEL_NAME: vit_base_patch16_224
  ARCH: vit
  DROPOUT_RATE: 0.5
DATA:
  TEST_CROP_SIZE: 224
  INPUT_CHANNEL_NUM: [3]
TEST:
  DATASET: Ssv2
"""


def write(tmp_path, text):
    path = tmp_path / "foreign.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def other_value(default):
    """A value of the same type that is not the default."""
    if isinstance(default, bool):
        return not default
    if isinstance(default, (int, float)):
        return default + 1 if abs(default) < float("inf") else 0.0
    if isinstance(default, str):
        return default + "x"
    return [*default, default[0]] if default else ["x"]


def loads(key, value, model="TimeSformer"):
    return load_config(None, {key: value, "MODEL.MODEL_NAME": model})


# ------------------------------------------------------------------------------------------------ names
def test_a_configuration_of_timesformers_gets_our_names_and_its_own_defaults(tmp_path):
    cfg = load_config(write(tmp_path, TIMESFORMER_YAML))
    assert cfg.MODEL.MODEL_NAME == "TimeSformer"
    assert (cfg.TRAIN.DATASET, cfg.TEST.DATASET) == ("VideoDataset", "SSv2")
    assert (cfg.GLOBAL_BATCH_SIZE, accumulation_steps(cfg)) == (64, 8)
    text = "\n".join(notes(cfg))
    assert "GLOBAL_BATCH_SIZE 64: each optimizer step sums 8 batches of 8 clips" in text
    assert "training starts from random weights" in text
    assert "has no effect" not in text


def test_an_explicit_global_batch_size_wins(tmp_path):
    cfg = load_config(write(tmp_path, TIMESFORMER_YAML), ["GLOBAL_BATCH_SIZE", "0"])
    assert (cfg.GLOBAL_BATCH_SIZE, accumulation_steps(cfg)) == (0, 1)


def test_our_own_name_brings_no_accumulation():
    assert load_config(None, ["MODEL.MODEL_NAME", "TimeSformer"]).GLOBAL_BATCH_SIZE == 0


@pytest.mark.parametrize(
    ("size", "batch", "shards", "steps", "note"),
    [
        (64, 8, 1, 8, "sums 8 batches of 8 clips"),
        (64, 8, 4, 2, "sums 2 batches of 32 clips"),
        (64, 24, 1, 2, "sums 2 batches of 24 clips = 48 clips"),
        (64, 128, 1, 1, "sums 1 batch of 128 clips = 128 clips"),
        (0, 8, 1, 1, None),
    ],
)
def test_accumulation(size, batch, shards, steps, note):
    cfg = load_config(None, {"GLOBAL_BATCH_SIZE": size, "TRAIN.BATCH_SIZE": batch, "NUM_SHARDS": shards})
    assert accumulation_steps(cfg) == steps
    assert [text.split("step ")[1] for text in notes(cfg)] == ([note] if note else [])


@pytest.mark.parametrize("name", ["kinetics", "Kinetics"])
def test_datasets_with_a_capital_or_without(name):
    assert load_config(None, ["TRAIN.DATASET", name]).TRAIN.DATASET == "VideoDataset"


@pytest.mark.parametrize("name", ["ava", "Ava", "imagenet", "Imagenet"])
def test_datasets_that_we_lack_are_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"TRAIN.DATASET {name}: .* is not in dust"):
        load_config(None, ["TRAIN.DATASET", name])
    load_config(None, ["TRAIN.DATASET", name, "TRAIN.ENABLE", "False"])


def test_names_of_the_users_own_are_left_to_the_registries():
    cfg = load_config(None, ["MODEL.MODEL_NAME", "MyNet", "TRAIN.DATASET", "MyData", "TASK", "MyTask"])
    assert (cfg.MODEL.MODEL_NAME, cfg.TRAIN.DATASET, cfg.TASK) == ("MyNet", "MyData", "MyTask")


def test_other_aliases():
    cfg = load_config(None, ["TASK", "", "SOLVER.OPTIMIZING_METHOD", "MT_AdamW", "MODEL.LOSS_FUNC", "bce"])
    assert (cfg.TASK, cfg.SOLVER.OPTIMIZING_METHOD, cfg.MODEL.LOSS_FUNC) == ("Classification", "adamw", "bce_logit")
    with pytest.raises(ConfigError, match="TASK ssl: contrastive training is not in dust"):
        load_config(None, ["TASK", "ssl"])


def test_pretrained_has_two_names():
    assert load_config(None, {"TIMESFORMER.PRETRAINED_MODEL": "a.pyth"}).MODEL.PRETRAINED == "a.pyth"
    cfg = load_config(None, {"TIMESFORMER.PRETRAINED_MODEL": "a.pyth", "MODEL.PRETRAINED": "b.pyth"})
    assert cfg.MODEL.PRETRAINED == "b.pyth"
    assert "TIMESFORMER.PRETRAINED_MODEL a.pyth: not used" in notes(cfg)[0]


def test_mixup_has_two_names():
    assert load_config(None, {"MIXUP.ENABLED": True}).MIXUP.ENABLE is True
    assert load_config(None, {"MIXUP.ENABLE": True}).MIXUP.ENABLED is True
    assert load_config(None, {"MIXUP.ENABLED": False, "MIXUP.ENABLE": False}).MIXUP.ENABLE is False
    with pytest.raises(ConfigError, match="they disagree; remove MIXUP.ENABLED"):
        load_config(None, {"MIXUP.ENABLED": True, "MIXUP.ENABLE": False})


# ------------------------------------------------------------------------------------------------ values
@pytest.mark.parametrize("key", sorted(FOREIGN_KEYS & set(golden_json("slowfast_keys"))))
def test_every_foreign_key_is_accepted_at_its_foreign_defaults(key):
    for default in golden_json("slowfast_keys")[key]:
        loads(key, default)


@pytest.mark.parametrize("key", sorted({**REFUSED, **REFUSED_FOR_OURS}))
def test_what_dust_does_not_do_is_refused_by_name(key):
    value = other_value(flatten(get_cfg())[key])
    with pytest.raises(ConfigError) as error:
        loads(key, value)
    assert f"{key} {value}: {({**REFUSED, **REFUSED_FOR_OURS})[key]}" in str(error.value)


@pytest.mark.parametrize("key", sorted(REFUSED_FOR_OURS))
def test_what_a_model_of_the_users_own_may_read_is_passed_on(key):
    value = other_value(flatten(get_cfg())[key])
    assert flatten(loads(key, value, model="MyNet"))[key] == value


@pytest.mark.parametrize("key", sorted(REFUSED_WITH_BATCH_NORM))
def test_batch_norm_statistics_matter_only_where_there_are_batch_norms(key):
    assert f"{key} True has no effect" in notes(loads(key, True))[0]
    for model in ("MyNet", "SlowFast", "ResNet", "X3D"):
        with pytest.raises(ConfigError, match=f"{key} True: .* not in dust"):
            loads(key, True, model=model)


@pytest.mark.parametrize(
    ("key", "model"), [(key, model) for key, (models, _) in REFUSED_FOR_MODELS.items() for model in models]
)
def test_what_a_model_of_slowfasts_lacks_here_is_refused_for_it_alone(key, model):
    value = other_value(flatten(get_cfg())[key])
    with pytest.raises(ConfigError) as error:
        loads(key, value, model=model)
    assert f"{key} {value}: {REFUSED_FOR_MODELS[key][1]}" in str(error.value)
    assert flatten(loads(key, value, model="MyNet"))[key] == value


QUIET = {"MIXUP.ENABLED", "DATA.DECODING_BACKEND", "DEMO.ENABLE"}  # DEMO.ENABLE is taken: see the last test


@pytest.mark.parametrize(
    "key", sorted(FOREIGN_KEYS - set(REFUSED) - set(REFUSED_FOR_OURS) - set(REFUSED_WITH_BATCH_NORM) - QUIET)
)
def test_every_other_foreign_value_is_said_to_have_no_effect(key):
    cfg = loads(key, other_value(flatten(get_cfg())[key]))
    (note,) = notes(cfg)
    assert note.startswith(f"{key} ")
    assert " has no effect: " in note


def test_keys_of_architectures_are_passed_to_a_model_of_the_users_own():
    cfg = loads("RESNET.DEPTH", 101, model="MyNet")
    assert cfg.RESNET.DEPTH == 101
    assert notes(cfg) == ()


def test_what_slowfasts_files_set_beside_a_timesformer_is_accepted():
    loads("DATA.INPUT_CHANNEL_NUM", [3, 3])
    for backend in ("pyav", "torchvision", "decord"):
        loads("DATA.DECODING_BACKEND", backend)
    loads("MODEL.HEAD_ACT", "None")
    with pytest.raises(ConfigError, match="DATA.DECODING_BACKEND 'cv2': choose pyav"):
        loads("DATA.DECODING_BACKEND", "cv2")


def test_a_slowfast_is_not_silently_replaced_by_the_default_model():
    cfg = load_config(None, ["MODEL.ARCH", "slowfast"])  # SlowFast's own default, which its YAMLs leave out
    assert cfg.MODEL.MODEL_NAME == "SlowFast" and "MODEL.MODEL_NAME SlowFast: what MODEL.ARCH" in notes(cfg)[0]
    for words in (["MODEL.ARCH", "x3d"], ["MODEL.ARCH", "slowfast", "MODEL.MODEL_NAME", "TimeSformer"]):
        with pytest.raises(ConfigError, match=f"MODEL.ARCH {words[1]}: asks for a model of SlowFast's"):
            load_config(None, words)


def test_refusals_are_found_where_a_default_is_spelt_otherwise():
    for value in ("none", "null", "~"):
        load_config(None, ["MIXUP.CUTMIX_MINMAX", value])
    load_config(None, ["TRAIN.KILL_LOSS_EXPLOSION_FACTOR", "0", "MULTIGRID.SHORT_CYCLE", "FALSE"])
    with pytest.raises(ConfigError, match="MIXUP.CUTMIX_MINMAX"):
        load_config(None, ["MIXUP.CUTMIX_MINMAX", "[0.2, 0.8]"])


# ------------------------------------------------------------------------------------------------ SlowFast's own style
def test_slowfasts_style_of_use(tmp_path):
    cfg = get_cfg()
    cfg.merge_from_file(str(write(tmp_path, TIMESFORMER_YAML)))
    cfg.merge_from_list(["NUM_GPUS", "0"])
    cfg = assert_and_infer_cfg(cfg)
    assert flatten(cfg) == flatten(load_config(write(tmp_path, TIMESFORMER_YAML), ["NUM_GPUS", "0"]))
    assert cfg.is_frozen()
    assert assert_and_infer_cfg(cfg.clone()) == cfg


def test_slowfasts_style_of_use_reports_everything():
    cfg = get_cfg()
    cfg.MULTIGRID.SHORT_CYCLE = True
    cfg.DATA.RESIZE = "cv2"
    with pytest.raises(ConfigError, match=r"(?s)2 problems .*MULTIGRID.SHORT_CYCLE.*DATA.RESIZE"):
        assert_and_infer_cfg(cfg)


def test_slowfasts_demo_is_a_prediction(tmp_path):
    file = write(tmp_path, "DEMO: {ENABLE: True, INPUT_VIDEO: a.mp4, OUTPUT_FILE: out/b.mp4, DISPLAY_WIDTH: 640}\n")
    cfg = load_config(file)
    assert cfg.PREDICT.ENABLE and cfg.PREDICT.SOURCES == ["a.mp4"]
    assert cfg.PREDICT.OVERLAY and cfg.PREDICT.OUTPUT == "out"
    said = " ".join(notes(cfg))
    assert "DEMO.ENABLE True -> PREDICT.ENABLE True" in said and "DEMO.DISPLAY_WIDTH 640 has no effect" in said
    assert load_config(None, {"DEMO.ENABLE": True, "DEMO.WEBCAM": 1}).PREDICT.SOURCES == ["camera:1"]
    own = load_config(None, {"DEMO.ENABLE": True, "PREDICT.ENABLE": True, "PREDICT.SOURCES": ["mine.mp4"]})
    assert own.PREDICT.SOURCES == ["mine.mp4"]
    with pytest.raises(ConfigError, match=r"PREDICT.SOURCES"):
        load_config(None, {"DEMO.ENABLE": True})
    with pytest.raises(ConfigError, match="detection is not in dust"):
        load_config(None, {"DEMO.PREDS_BOXES": "boxes.csv"})
