"""DUST's four stages in one command, on generated data of which neither modality alone tells the class."""

import numpy as np
import pytest

from dust.engine import run_net
from dust.synthetic.fusion import generate_dust
from dust.utils.features import FeatureStore
from tests.helpers import ROOT, metrics_of
from tests.processes import zygote

STAGES = [str(ROOT / "configs" / "quickstart" / f"dust_stage{number}.yaml") for number in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dust") / "data"
    generate_dust(folder, samples=128, seed=1)
    return folder


def argv(data, out, *more):
    smaller = ["TRAIN.BATCH_SIZE", "16", "DATA_LOADER.NUM_WORKERS", "0", "SOLVER.MAX_EPOCH", "8"]
    return ["--cfg", *STAGES, "DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(out), *smaller, *more]


def metrics(out, stage):
    return metrics_of(out / f"dust_stage{stage}")


@pytest.mark.slow
def test_each_modality_is_at_most_a_half_and_both_are_enough(data, tmp_path, capsys):
    out = tmp_path / "runs"
    assert run_net.main(argv(data, out)) == 0
    assert max(metrics(out, 1)["top1_acc"], metrics(out, 2)["top1_acc"]) <= 50.0
    fused = metrics(out, 4)
    assert fused["top1_acc"] > 95.0
    assert fused["video_top1_acc"] <= 50.0 and fused["series_top1_acc"] <= 50.0
    _rerun(data, out, capsys)


def _rerun(data, out, capsys):
    """Finished stages are left alone; one that lost its results is tested again; another stage 1 is not mixed in."""
    capsys.readouterr()
    assert run_net.main(argv(data, out)) == 0
    assert capsys.readouterr().out.count("finished already") == 4
    (out / "dust_stage4" / "results" / "test.json").unlink()
    assert run_net.main(argv(data, out)) == 0
    assert capsys.readouterr().out.count("finished already") == 3
    for path in (out / "dust_stage1" / "checkpoints").iterdir():
        path.unlink()
    assert run_net.main(argv(data, out, "SOLVER.BASE_LR", "0.001")) == 2
    said = capsys.readouterr().err
    assert "SOLVER.BASE_LR: 0.002 -> 0.001" in said and "dust_stage2" in said
    store = FeatureStore.open(out / "dust_stage3" / "features", "train")
    assert len(store) == 128 and np.isfinite(store.features).all()


def test_a_stage_before_the_one_it_needs(data, tmp_path, capsys):
    for number, named in ((3, "FEATURES.CHECKPOINT_FILE_PATH dust_stage1"), (4, "FUSION.SERIES_FROM dust_stage2")):
        words = ["--cfg", STAGES[number - 1], "DATA.PATH_TO_DATA_DIR", str(data)]
        assert run_net.main([*words, "OUTPUT_DIR", str(tmp_path / f"dust_stage{number}")]) == 2
        said = capsys.readouterr().err
        assert named in said and "Run that stage first" in said


@pytest.mark.slow
def test_stage_4_takes_width_and_weights_from_stage_2(data, tmp_path):
    out = tmp_path / "runs"
    few = ["SOLVER.MAX_EPOCH", "1", "SOLVER.WARMUP_EPOCHS", "0", "TRAIN.EVAL_PERIOD", "0"]
    common = ["DATA.PATH_TO_DATA_DIR", str(data), "DATA.NUM_FRAMES", "2", "DATA_LOADER.NUM_WORKERS", "0", *few]

    def run(number, *more):
        words = ["--cfg", STAGES[number - 1], "OUTPUT_DIR", str(out / f"dust_stage{number}"), *common, *more]
        return zygote().start(words).wait() if "NUM_PROCS_PER_NODE" in more else run_net.main(words)

    assert run(1) == run(2, "SERIES_SWIN.EMBED_DIM", "12", "SERIES_SWIN.DEPTHS", "[1,1]") == 0
    assert run(3, "NUM_PROCS_PER_NODE", "2") == 0, "the number of processes of the other stages does no harm"
    assert run(4, "SOLVER.BASE_LR", "0.0", "SOLVER.WARMUP_START_LR", "0.0") == 0
    from dust.utils.checkpoint import find_latest

    (_, series), (_, fused) = (find_latest(out / f"dust_stage{number}" / "checkpoints") for number in (2, 4))
    body = {key: value for key, value in series["model_state"].items() if not key.startswith("head.")}
    for key, value in body.items():
        np.testing.assert_array_equal(fused["model_state"][f"series_backbone.{key}"], value)
    assert "EMBED_DIM: 12" in fused["cfg"]
    # a fusion that was never trained has a random head: it is not tested, although its series backbone is there
    untrained = ["--cfg", STAGES[3], "OUTPUT_DIR", str(out / "untrained"), *common, "TRAIN.ENABLE", "False"]
    assert run_net.main([*untrained, "SERIES_SWIN.EMBED_DIM", "12"]) == 2
    # without stage 2 the finished stage still tests; with a stage 3 of another checkpoint it refuses
    (out / "dust_stage2").rename(out / "elsewhere")
    assert run(4, "TRAIN.ENABLE", "False") == 0
    (out / "elsewhere").rename(out / "dust_stage2")
    assert run(1, "TRAIN.AUTO_RESUME", "False", "RNG_SEED", "5") == 0
    assert run(4) == 2
