"""CAST's three stages and VideoMAE's two in one command each, on clips that no expert of CAST can tell alone."""

import json

import pytest

from dust.engine import run_net
from dust.models.cast_weights import HASH
from dust.synthetic.motion_appearance import generate_motion_appearance
from dust.utils.checkpoint import find_latest
from tests.helpers import ROOT, metrics_of

QUICK = ROOT / "configs" / "quickstart"
ALL_STAGES = ("cast_spatial", "cast_temporal", "cast")
FEW = ["SOLVER.MAX_EPOCH", "1", "SOLVER.WARMUP_EPOCHS", "0", "TRAIN.EVAL_PERIOD", "0", "TRAIN.BATCH_SIZE", "12"]


@pytest.fixture(scope="module")
def few_clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few") / "data"
    generate_motion_appearance(folder, clips=4, frames=8)
    return folder


def run(stages, data, out, *more):
    files = [str(QUICK / f"{stage}.yaml") for stage in stages]
    folder = out if len(files) > 1 else out / stages[0]
    words = ["DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(folder), "DATA_LOADER.NUM_WORKERS", "0"]
    return run_net.main(["--cfg", *files, *words, *more])


@pytest.mark.slow
def test_cast_keeps_what_it_trains_and_knows_its_experts(few_clips, tmp_path, capsys):
    assert run(ALL_STAGES, few_clips, tmp_path, *FEW) == 0
    _, saved = find_latest(tmp_path / "cast" / "checkpoints")
    names = set(saved["model_state"])
    assert HASH in names and saved["frozen_sha256"] == bytes(saved["model_state"][HASH].tolist()).hex()
    assert not {name for name in names if "attn." in name or name.startswith(("patch_embed", "clip_conv1"))}
    before = metrics_of(tmp_path / "cast")
    again = ["TRAIN.ENABLE", "False"]
    assert run(("cast",), few_clips, tmp_path, *FEW, *again) == 0 and metrics_of(tmp_path / "cast") == before
    capsys.readouterr()
    anew = ["TRAIN.AUTO_RESUME", "False", "RNG_SEED", "7", "TEST.ENABLE", "False"]
    assert run(("cast_temporal",), few_clips, tmp_path, *FEW, *anew) == 0
    assert run(("cast",), few_clips, tmp_path, *FEW, *again) == 2
    assert "was trained on other experts" in capsys.readouterr().err


@pytest.mark.slow
def test_verbs_and_nouns_are_mixed_learnt_and_tested(few_clips, tmp_path):
    """EPIC-KITCHENS' form of data from csv to figures; with MixUp a label is soft, of each kind's own classes."""
    videos = sorted(few_clips.rglob("*.mp4"))
    data = tmp_path / "epic"
    (data / "videos").mkdir(parents=True)
    rows = []
    for index, video in enumerate(videos[:24]):
        (data / "videos" / f"P01_01_{index}.MP4").symlink_to(video)
        rows.append(f"P01_01_{index},{index % 3},{index % 4}\n")
    for split in ("train", "val", "test"):
        (data / f"{split}.csv").write_text("clip_id,verb,noun\n" + "".join(rows))
    words = ["TASK", "VerbNoun", "TRAIN.DATASET", "EpicKitchens", "TEST.DATASET", "EpicKitchens"]
    words += ["MODEL.NUM_CLASSES", "7", "CAST.COMPOSITION", "True", "CAST.NUM_VERBS", "3", "CAST.NUM_NOUNS", "4"]
    words += ["CAST.SPATIAL_FROM", "", "CAST.TEMPORAL_FROM", "", "CAST.FREEZE", "False", "MIXUP.ENABLE", "True"]
    assert run(("cast",), data, tmp_path, *FEW, *words) == 0
    measured = metrics_of(tmp_path / "cast")
    assert set(measured) == {
        f"{kind}_top{k}_acc" for kind in ("verb", "noun", "action", "action_seen", "action_both") for k in (1, 5)
    }
    assert measured["verb_top5_acc"] == measured["noun_top5_acc"] == 100.0  # of three and of four classes


@pytest.mark.slow
@pytest.mark.quickstart
def test_both_experts_together_are_far_better_than_either(tmp_path):
    generate_motion_appearance(tmp_path / "data")
    assert run(ALL_STAGES, tmp_path / "data", tmp_path / "runs") == 0
    spatial, temporal, both = (metrics_of(tmp_path / "runs" / stage)["top1_acc"] for stage in ALL_STAGES)
    assert max(spatial, temporal) <= 62.0
    assert both >= max(spatial, temporal) + 15.0


@pytest.mark.slow
@pytest.mark.quickstart
def test_pre_training_lowers_its_loss_and_hands_on_its_encoder(tmp_path):
    generate_motion_appearance(tmp_path / "data")
    out = tmp_path / "runs"
    assert run(("videomae_pretrain", "videomae_finetune"), tmp_path / "data", out) == 0
    log = (out / "videomae_pretrain" / "stdout.log").read_text().splitlines()
    losses = [json.loads(line.split("json_stats: ")[1])["loss"] for line in log if '"train_epoch"' in line]
    assert losses[-1] < 0.3 * losses[0]
    assert metrics_of(out / "videomae_pretrain")["loss"] < 0.3 * losses[0]
    assert metrics_of(out / "videomae_finetune")["top1_acc"] > 80.0


@pytest.mark.slow
@pytest.mark.quickstart
def test_tstl_trains_both_stages_and_tests(tmp_path):
    generate_motion_appearance(tmp_path / "data")
    assert run(("tstl_selector", "tstl_experts", "tstl_test"), tmp_path / "data", tmp_path / "runs") == 0
    measured = metrics_of(tmp_path / "runs" / "tstl_test")
    assert measured["top1_acc"] > 80 and measured["selector_acc"] > 80 and measured["oracle_acc"] > 80
    assert {f"expert_acc.{group}" for group in range(4)} <= set(measured) and measured["forwards_per_clip"] == 2
