"""One configuration that stands for all experts of TSTL."""

import pytest

from dust.config import get_cfg, load_config, notes
from dust.config.expand import expand, words_of
from dust.utils.errors import ConfigError, DataError
from dust.utils.tstl_grouping import Grouping, write_grouping

SIZE = ["DATA.TEST_CROP_SIZE", "224"]


def cfg_of(tmp_path, **tstl):
    write_grouping(tmp_path / "g.json", Grouping(((0, 1, 2), (3, 4))))
    cfg = get_cfg()
    cfg.MODEL.NUM_CLASSES, cfg.OUTPUT_DIR = 5, str(tmp_path / "runs" / "experts_stage")
    cfg.TSTL.GROUPING = str(tmp_path / "g.json")
    for key, value in tstl.items():
        cfg.TSTL[key] = value
    return cfg


def test_a_configuration_without_groups_is_itself(tmp_path):
    cfg = cfg_of(tmp_path)
    assert expand(cfg) == [cfg] and expand(cfg)[0] is cfg and words_of(cfg, cfg) == []


@pytest.mark.parametrize("groups", ["all", ["all"], [0, 1]])
def test_one_run_for_each_group(tmp_path, groups):
    cfg = cfg_of(tmp_path, GROUPS=groups)
    cfg.freeze()
    runs = expand(cfg)
    assert [run.TSTL.GROUP for run in runs] == [0, 1] and [run.TSTL.GROUPS for run in runs] == [[], []]
    assert [run.MODEL.NUM_CLASSES for run in runs] == [3, 2]
    assert [run.OUTPUT_DIR for run in runs] == [f"{cfg.OUTPUT_DIR}/experts/group_{i}" for i in range(2)]
    assert all(run.is_frozen() for run in runs) and groups == cfg.TSTL.GROUPS
    assert [words_of(cfg, run) for run in runs] == [["TSTL.GROUPS", "[0]"], ["TSTL.GROUPS", "[1]"]]
    assert expand(runs[1]) == [runs[1]]


def test_the_grouping_may_lie_in_the_data_folder(tmp_path):
    cfg = cfg_of(tmp_path, GROUPS="all", GROUPING="g.json")
    with pytest.raises(DataError, match="g.json: cannot be read"):
        expand(cfg)
    cfg.DATA.PATH_TO_DATA_DIR = str(tmp_path)
    assert len(expand(cfg)) == 2


def test_some_groups_and_heads_of_all_classes(tmp_path):
    (run,) = expand(cfg_of(tmp_path, GROUPS=[1], EXPERT_CLASSES="all"))
    assert (run.TSTL.GROUP, run.MODEL.NUM_CLASSES) == (1, 5)


def test_stages_are_found_from_where_an_expert_runs(tmp_path):
    from dust.utils.stages import stage_path

    cfg = cfg_of(tmp_path, GROUPS=[0])
    cfg.CAST.SPATIAL_FROM, cfg.CAST.TEMPORAL_FROM = "spatial", "zoo://videomae_b_ssv2"
    cfg.CAST.TRUNK_FROM, cfg.MODEL.PRETRAINED = str(tmp_path / "trunk.pyth"), ""
    (run,) = expand(cfg)
    (tmp_path / "runs" / "spatial").mkdir(parents=True)
    assert stage_path(run.CAST.SPATIAL_FROM, run.OUTPUT_DIR).resolve() == tmp_path / "runs" / "spatial"
    assert run.CAST.TEMPORAL_FROM == "zoo://videomae_b_ssv2"
    assert (str(tmp_path / "trunk.pyth"), "") == (run.CAST.TRUNK_FROM, run.MODEL.PRETRAINED)


@pytest.mark.parametrize("groups", [[2], [-1], [0, 0], ["some"], ["all", 0]])
def test_groups_that_are_not_there(tmp_path, groups):
    with pytest.raises(ConfigError, match="write all, or numbers from 0 to 1"):
        expand(cfg_of(tmp_path, GROUPS=groups))


def test_a_grouping_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="none.json: cannot be read"):
        expand(cfg_of(tmp_path, GROUPS=["all"], GROUPING=str(tmp_path / "none.json")))


def test_what_loading_said_stays_with_each_run(tmp_path):
    cfg = cfg_of(tmp_path)
    text = f"TSTL: {{GROUPING: {tmp_path / 'g.json'}, GROUPS: [0, 1]}}\nGLOBAL_BATCH_SIZE: 128\n"
    (tmp_path / "c.yaml").write_text(text)
    cfg = load_config(tmp_path / "c.yaml", ["MODEL.MODEL_NAME", "CAST", "CAST.TRUNK_FROM", "x", *SIZE])
    assert notes(cfg) and [notes(run) for run in expand(cfg)] == [notes(cfg)] * 2
