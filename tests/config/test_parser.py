"""The command line, and loading: types, precedence, and all problems in one error."""

import copy
import pickle

import pytest
from yacs.config import CfgNode

from dust.config import dump, flatten, get_cfg, load_config, notes, parse_args, with_values
from dust.config.parser import near_misses
from dust.config.values import same
from dust.utils.errors import ConfigError


def problems_of(*args):
    """The numbered lines of the error that loading raises."""
    with pytest.raises(ConfigError) as error:
        load_config(*args)
    head, *lines = str(error.value).split("\n")
    assert head.startswith(f"{len(lines)} problem")
    assert [line.split(".")[0].strip() for line in lines] == [str(i + 1) for i in range(len(lines))]
    return [line.split(". ", 1)[1] for line in lines]


@pytest.fixture
def yaml_file(tmp_path):
    def write(text, name="a.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


# ------------------------------------------------------------------------------------------------ the command line
@pytest.mark.parametrize(
    ("argv", "files", "opts"),
    [
        ("--cfg a.yaml", ["a.yaml"], []),
        ("--cfg a.yaml b.YML", ["a.yaml", "b.YML"], []),
        ("--cfg a.yaml --cfg b.yaml", ["a.yaml", "b.yaml"], []),
        ("--cfg=a.yaml K v", ["a.yaml"], ["K", "v"]),
        ("--cfg a.yaml K -1 L x.yaml", ["a.yaml"], ["K", "-1", "L", "x.yaml"]),
        ("--cfg a.yaml --opts K -1", ["a.yaml"], ["K", "-1"]),
        ("--cfg a.yaml K 1 --opts L 2", ["a.yaml"], ["K", "1", "L", "2"]),
        ("--opts K 1 --cfg a.yaml", ["a.yaml"], ["K", "1"]),
        ("K 1", [], ["K", "1"]),
        ("--cfg a.yaml K", ["a.yaml"], ["K"]),
        ("--cfg a.yaml K --weird", ["a.yaml"], ["K", "--weird"]),
    ],
)
def test_parse_args(argv, files, opts):
    args = parse_args(argv.split())
    assert (args.cfg_files, args.opts) == (files, opts)
    assert (args.shard_id, args.num_shards, args.init_method) == (None, None, None)


def test_values_and_files_with_spaces():
    args = parse_args(["--cfg", "my runs/a b.yaml", "OUTPUT_DIR", "my runs/1"])
    assert args.cfg_files == ["my runs/a b.yaml"]
    assert load_config(None, args.opts).OUTPUT_DIR == "my runs/1"


def test_flags_of_several_nodes_win_over_overrides():
    line = "--cfg a.yaml --num_shards 4 --shard_id=3 --init_method tcp://h:1 NUM_SHARDS 2"
    args = parse_args(line.split())
    assert (args.num_shards, args.shard_id, args.init_method) == (4, 3, "tcp://h:1")
    cfg = load_config(None, args.opts)
    assert (cfg.NUM_SHARDS, cfg.SHARD_ID) == (4, 3)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--cfg", "--cfg takes one or more files"),
        ("--cfg a.json", "not 'a.json'"),
        ("--cfg TRAIN.ENABLE True", "not 'TRAIN.ENABLE'"),
        ("--confg a.yaml", "unknown option --confg. Did you mean --cfg?"),
        ("--cfg a.yaml NUM_GPUS --opts A 1", "NUM_GPUS lacks its value"),
        ("--num_shards", "--num_shards lacks its value"),
        ("--num_shards two", "--num_shards 'two': must be a whole number"),
    ],
)
def test_parse_args_refuses(argv, says):
    with pytest.raises(ConfigError, match=says.replace(".", r"\.").replace("?", r"\?")):
        parse_args(argv.split())


def test_help_and_no_words(capsys):
    with pytest.raises(SystemExit) as help_exit:
        parse_args(["--cfg", "a.yaml", "--help"])
    assert help_exit.value.code == 0
    assert "--cfg FILE.yaml" in capsys.readouterr().out
    with pytest.raises(SystemExit) as empty_exit:
        parse_args([])
    assert empty_exit.value.code == 2
    assert "--cfg FILE.yaml" in capsys.readouterr().err


def test_a_missing_value_is_named_also_behind_shard_flags():
    args = parse_args(["--num_shards", "2", "TRAIN.BATCH_SIZE", "4", "NUM_GPUS"])
    assert problems_of(None, args.opts) == [
        "overrides come in pairs KEY VALUE, and NUM_GPUS seems to stand alone in: NUM_SHARDS 2 TRAIN.BATCH_SIZE 4 "
        "NUM_GPUS (quote a value that has spaces)"
    ]


# ------------------------------------------------------------------------------------------------ loading
def test_the_defaults_load_and_are_frozen():
    cfg = load_config(None)
    assert {key: value for key, value in flatten(cfg).items() if not same(value, flatten(get_cfg())[key])} == {}
    with pytest.raises(AttributeError):
        cfg.NUM_GPUS = 3
    with pytest.raises(AttributeError):
        cfg.TRAIN.ENABLE = False
    assert notes(cfg) == ()


def test_precedence_base_file_overrides_and_the_last_of_equal_keys(yaml_file):
    yaml_file("NUM_GPUS: 1\nTRAIN:\n  BATCH_SIZE: 2\n  EVAL_PERIOD: 3\nLOG_PERIOD: 4\n", "base.yaml")
    path = yaml_file("_BASE_: base.yaml\nTRAIN:\n  BATCH_SIZE: 20\nLOG_PERIOD: 40\n")
    cfg = load_config(path, ["LOG_PERIOD", "400", "LOG_PERIOD", "401"])
    assert (cfg.NUM_GPUS, cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.EVAL_PERIOD, cfg.LOG_PERIOD) == (1, 20, 3, 401)


def test_types_as_people_write_them(yaml_file):
    path = yaml_file(
        "SOLVER:\n  WEIGHT_DECAY: 1e-4\n  WARMUP_START_LR: 0\n  MAX_EPOCH: 30.0\n  CLIP_GRAD_L2NORM: null\n"
        "  STEPS: [0, 1]\nTRAIN: {ENABLE: TRUE}\nDATA:\n  TRAIN_JITTER_SCALES: (300, 400)\nTEST:\nOUTPUT_DIR: 007\n"
    )
    cfg = load_config(path, ["SOLVER.BETAS", "[0.8,0.9]", "MODEL.CLASS_WEIGHTS", "balanced"])
    assert cfg.SOLVER.WEIGHT_DECAY == 1e-4
    assert isinstance(cfg.SOLVER.WARMUP_START_LR, float)
    assert (cfg.SOLVER.MAX_EPOCH, type(cfg.SOLVER.MAX_EPOCH)) == (30, int)
    assert cfg.SOLVER.CLIP_GRAD_L2NORM is None
    assert cfg.TRAIN.ENABLE is True
    assert cfg.DATA.TRAIN_JITTER_SCALES == [300, 400]
    assert cfg.SOLVER.BETAS == (0.8, 0.9)
    assert cfg.MODEL.CLASS_WEIGHTS == "balanced"
    assert cfg.OUTPUT_DIR == "007"


def test_overrides_from_python():
    cfg = load_config(None, {"TRAIN.ENABLE": False, "DATA": {"NUM_FRAMES": 4}, "SOLVER.CLIP_GRAD_VAL": None})
    assert (cfg.TRAIN.ENABLE, cfg.DATA.NUM_FRAMES, cfg.SOLVER.CLIP_GRAD_VAL) == (False, 4, None)


def test_all_problems_come_at_once(yaml_file):
    path = yaml_file(
        "TRAIN:\n  BATCHSIZE: 4\n  EVAL_PERIOD: often\nSLOVER:\n  BASE_LR: 1\nMODEL: 5\nNUM_GPUS:\n  X: 1\n"
        "DATA:\n  TRAIN_JITTER_SCALES: 256\n  RESIZE: cv2\nMULTIGRID:\n  SHORT_CYCLE: True\nLOG_PERIOD: {}\n"
    )
    found = problems_of(path, ["train.enable", "True", "SHARD_ID", "3", "WANDB.MODE", "None"])
    assert found[:9] == [
        f"TRAIN.BATCHSIZE ({path}:2): unknown key; did you mean TRAIN.BATCH_SIZE?",
        f"TRAIN.EVAL_PERIOD ({path}:3): 'often' is not a whole number",
        f"SLOVER.BASE_LR ({path}:5): unknown key; did you mean SOLVER.BASE_LR?",
        f"MODEL ({path}:6): is a section, not a key; write its keys as MODEL.NAME",
        f"NUM_GPUS.X ({path}:8): NUM_GPUS is a key with a value, not a section",
        f"DATA.TRAIN_JITTER_SCALES ({path}:10): '256' is not a list; write [256]",
        f"LOG_PERIOD ({path}:14): is a key with a value, not a section",
        "train.enable (override): unknown key; upper and lower case count: TRAIN.ENABLE",
        "WANDB.MODE (override): None is read as no value; write '' for an empty text, or another word",
    ]
    assert sorted(found[9:]) == [
        "DATA.RESIZE 'cv2': choose swscale, torch",
        "MULTIGRID.SHORT_CYCLE True: multigrid training is not in dust; remove the key (default: False)",
        "SHARD_ID 3: must be below NUM_SHARDS 1 (nodes count from 0)",
    ]


def test_a_wrong_value_causes_no_second_problem():
    found = problems_of(None, ["SOLVER.LR_POLICY", "steps_with_relative_lrs", "SOLVER.STEPS", "0", "SOLVER.LRS", "[1]"])
    assert found == ["SOLVER.STEPS (override): '0' is not a list; write [0.0]"]


def test_an_override_mends_a_wrong_file(yaml_file):
    path = yaml_file("TRAIN:\n  BATCH_SIZE: many\nMULTIGRID:\n  LONG_CYCLE: True\n")
    assert load_config(path, ["TRAIN.BATCH_SIZE", "2", "MULTIGRID.LONG_CYCLE", "false"]).TRAIN.BATCH_SIZE == 2


def test_an_unreadable_file_hides_no_wrong_override(yaml_file):
    found = problems_of(yaml_file("- 1\n"), ["NUM_GPU", "1", "TRAIN.ENABLE=True", "b.yaml", "--cfg"])
    assert "the file holds a list" in found[0]
    assert found[1] == "NUM_GPU (override): unknown key; did you mean NUM_GPUS?"
    assert found[2] == "b.yaml (override): a configuration file stands right behind --cfg, before the overrides"
    advice = "overrides are written KEY VALUE, with a space and no =: TRAIN.ENABLE True"
    assert found[3] == f"TRAIN.ENABLE=True (override): {advice}"
    assert len(found) == 4


@pytest.mark.parametrize(
    ("words", "advised"),
    [
        (["MODEL.NUM_CLASSES=5"], ["MODEL.NUM_CLASSES 5"]),
        (["NUM_GPUS", "0", "MODEL.NUM_CLASSES=5", "OUTPUT_DIR", "a=b"], ["MODEL.NUM_CLASSES 5"]),
        (["MODEL.NUM_CLASSES=5", "NUM_GPUS=0"], ["MODEL.NUM_CLASSES 5", "NUM_GPUS 0"]),
        (["MODEL.NUM_CLASSES=", "5"], ["MODEL.NUM_CLASSES 5"]),
        (["MODEL.NUM_CLASSES", "=", "5", "NUM_GPUS", "0"], ["MODEL.NUM_CLASSES 5"]),
        (["--MODEL.NUM_CLASSES=5"], ["MODEL.NUM_CLASSES 5"]),
    ],
)
def test_a_key_joined_to_its_value_is_answered_with_how_to_write_it(words, advised):
    found = problems_of(None, words)
    assert len(found) == len(advised)
    for line, advice in zip(found, advised, strict=True):
        assert line.endswith(f"overrides are written KEY VALUE, with a space and no =: {advice}")


def test_joined_keys_and_a_lone_word_give_the_advice_too():
    (line,) = problems_of(None, ["NUM_GPUS", "MODEL.NUM_CLASSES=5", "OUTPUT_DIR"])
    assert "OUTPUT_DIR" in line or "KEY VALUE" in line


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("TRAIN.BATCHSIZE", "TRAIN.BATCH_SIZE"),
        ("TEST.BATCH_SIZ", "TEST.BATCH_SIZE"),
        ("TRIAN.ENABLE", "TRAIN.ENABLE"),
        ("TRAIN.NUM_FRAMES", "DATA.NUM_FRAMES"),
        ("NUM_FRAMES", "DATA.NUM_FRAMES"),
        ("SOLVER.LR", "SOLVER.LRS"),
        ("OUTPUTDIR", "OUTPUT_DIR"),
        ("output_dir", "OUTPUT_DIR"),
        ("DATA.PATH_TO_DATA", "DATA.PATH_TO_DATA_DIR"),
        ("TIMESFORMER.ATTENTION", "TIMESFORMER.ATTENTION_TYPE"),
        ("MODEL.NAME", "MODEL.MODEL_NAME"),
        ("X3D.CHANNELWISE_3X3X3", "X3D.CHANNELWISE_3x3x3"),
        ("TEST.VIEWS", "TEST.NUM_ENSEMBLE_VIEWS"),
        ("TEST.CROPS", "TEST.NUM_SPATIAL_CROPS"),
        ("SOLVER.EPOCHS", "SOLVER.MAX_EPOCH"),
        ("SEED", "RNG_SEED"),
        ("SERIES.LEN", "SERIES.LENGTH"),
        ("SOLVER.OPTIMIZER", "SOLVER.OPTIMIZING_METHOD"),
        ("TIMESFORMER.DROPOUT", "TIMESFORMER.DROP_RATE"),
        ("SWIN.DEPTHS", "VIDEO_SWIN.DEPTHS"),
    ],
)
def test_near_misses(key, near):
    assert near in near_misses(key, list(flatten(get_cfg())))


@pytest.mark.parametrize("key", ["FUSION.DEPTH", "MODEL.DEPTH", "DEPTH", "COLOUR_MIXER.WIDTH", "TIMESFORMER.WIDTH"])
def test_keys_of_another_system_are_not_meant(key):
    """Those that share no more than a word with it."""
    assert near_misses(key, list(flatten(get_cfg()))) == []


def test_nothing_near_gives_no_hint():
    assert problems_of(None, ["QQQQ.ZZZZ", "1"]) == ["QQQQ.ZZZZ (override): unknown key"]


def test_a_section_of_somebodys_own_beside_imports_is_told_where_values_go():
    own, misspelt = problems_of(None, ["IMPORTS", "[parts.py]", "QQQQ.ZZZZ", "1", "DATA.NUM_FRAME", "8"])
    assert own.endswith("unknown key (files of IMPORTS add classes, not keys: write values of your own into the file)")
    assert "DATA.NUM_FRAMES" in misspelt and "IMPORTS" not in misspelt


def test_a_dump_loads_to_the_same_configuration(tmp_path):
    cfg = load_config(None, ["MIXUP.ENABLED", "True", "SOLVER.CLIP_GRAD_VAL", "1e-3", "OUTPUT_DIR", "a: b # c"])
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    again = load_config(path)
    assert again.dump() == cfg.dump()
    assert flatten(again) == flatten(cfg)


@pytest.mark.parametrize(
    "text", ["", "x " * 200, "12:30", "it's", 'a "b" ' * 30, "C:\\clips", "ü " * 60, "日本 " * 40, "\x7f"]
)
def test_a_dump_is_what_yacs_writes(text):
    values = {"OUTPUT_DIR": text, "DATA.EXTRA_COLUMNS": [text, "no"], "SOLVER.BASE_LR": 1e-5, "IMPORTS": []}
    cfg = with_values(get_cfg(), values)
    assert dump(cfg) == CfgNode.dump(cfg)


def test_notes_travel_with_copies(yaml_file):
    cfg = load_config(yaml_file("MODEL:\n  LOSS_FUNC: bce\n"))
    expected = ("MODEL.LOSS_FUNC bce -> bce_logit: models return logits",)
    assert notes(cfg) == notes(copy.deepcopy(cfg)) == notes(pickle.loads(pickle.dumps(cfg))) == expected
    assert pickle.loads(pickle.dumps(cfg)) == cfg


def test_notes_are_logged(caplog):
    with caplog.at_level("INFO", logger="dust"):
        load_config(None, ["DATA.DECODING_BACKEND", "torchvision"])
    assert "DATA.DECODING_BACKEND torchvision has no effect: DATA.DECODER says what decodes" in caplog.text
