"""What the benchmark of frozen experts says of sizes, which formulas know. No times."""

import pytest
import torch

from benchmarks.experts import (
    ALL_LEARN,
    AS_BUILT,
    HIDDEN_KEPT,
    ExpertsRun,
    benchmark_experts,
    measure_attention,
    measure_cast,
    measure_tstl,
    naive_attend,
)
from dust.models import cast
from dust.models.videomae_vit import attend
from dust.utils.errors import ConfigError, DustError
from dust.utils.tstl_grouping import Grouping, write_grouping
from tests.helpers import ROOT

QUICK = ROOT / "configs" / "quickstart"
SMALL = ("CAST.EMBED_DIM", "64", "CAST.DEPTH", "2", "NUM_GPUS", "0")


def run(name, *overrides, **settings):
    return ExpertsRun(str(QUICK / f"{name}.yaml"), (*SMALL, *overrides), **{"rounds": 1, "steps": 1, **settings})


def test_what_a_training_step_of_cast_keeps(monkeypatch):
    monkeypatch.setattr(cast, "frozen_hidden", cast.frozen_hidden)  # which the measurement replaces
    rows = {name: measure_cast(run("cast", variant=name)) for name in (AS_BUILT, HIDDEN_KEPT, ALL_LEARN)}
    kept = [rows[name]["kept_mib"] * 2**20 for name in (AS_BUILT, HIDDEN_KEPT, ALL_LEARN)]
    # four frames of 16 patches, in the spatial stream with class tokens; hidden layers are 4 x 64 numbers wide
    hidden = 4 * 4 * 64 * (4 * 16 + 4 * 17)
    assert kept[1] - kept[0] == 2 * hidden  # of each of two blocks
    assert kept[2] - kept[1] >= 2 * hidden + 4 * 64 * (4 * 16 + 4 * 17)  # and inputs of frozen layers
    assert len({row["optimized_m"] for row in rows.values()}) == 1  # whatever else has gradients


def test_memory_and_files_of_tstl(tmp_path):
    write_grouping(tmp_path / "g.json", Grouping(tuple(tuple(range(g, 12, 4)) for g in range(4))))
    rows, settings = measure_tstl(run("tstl_test", "TSTL.GROUPING", str(tmp_path / "g.json"), experts=3, clips=4))
    found = {row["what"]: row for row in rows}
    assert found["TSTL's tensors"]["mib"] <= found["trunk + 5 x trained"]["mib"]
    assert found["file of an expert"]["mib"] < found["file of a whole CAST"]["mib"]
    assert found["one CAST"]["ratio"] == 1.0 and found["TSTL"]["cpu_s"] > 0
    assert (settings["groups"], settings["experts"], settings["clips"]) == (4, 3, 4)
    with pytest.raises(DustError, match="--experts 5: at most 4, the groups, and 8, the clips"):
        measure_tstl(run("tstl_test", "TSTL.GROUPING", str(tmp_path / "g.json"), experts=5))


def test_both_forms_of_attention_say_the_same():
    q, k, v = torch.randn(3, 2, 9, 24).unbind(0)
    torch.testing.assert_close(naive_attend(q, k, v, 4), attend(q, k, v, 4))
    rows, settings = measure_attention(run("videomae_finetune"))
    assert [row["what"] for row in rows] == ["dust", "naive softmax(q k) v"]
    assert 0 < float(settings["relative_difference"]) < 1e-4


def test_what_it_cannot_measure():
    with pytest.raises(DustError, match="--rounds 0: at least 1; --clips 0: at least 1"):
        benchmark_experts(run("cast", rounds=0, clips=0))
    with pytest.raises(ConfigError, match="MODEL.MODEL_NAME CLIPVisual: the benchmark is of CAST, TSTL, VideoMAE"):
        benchmark_experts(run("cast_spatial"))
