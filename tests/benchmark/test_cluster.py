"""The simulated cluster's numbers are those that one works out by hand."""

import pytest
import torch

from dust.benchmark.cluster import (
    GIB,
    Assumptions,
    Node,
    Recipe,
    accumulation,
    all_reduce_s,
    benchmark_cluster,
    bus_bandwidth,
    exposed_s,
    gather_s,
    memory_bytes,
    node_of,
    reading_s,
    simulate,
    step_seconds,
)
from dust.benchmark.step_cost import StepCost, _Held, count_step
from dust.config import load_config
from dust.utils.errors import ConfigError, DustError
from tests.benchmark.commands import main, run_tool
from tests.helpers import ROOT

NODE = Node("X", peak=100e12, memory=80e9, nvlink=100e9, nic=10e9, gpus=8, nics=4)
COST = StepCost(
    parameters=1_000_000_000,
    trainable=500_000_000,
    largest_block=100_000_000,
    forward_flops=10_000_000_000_000,
    backward_flops=20_000_000_000_000,
    activation_bytes=3_000_000_000,
    state_bytes=8.0,
)
RECIPE = Recipe(batch=4, global_batch=256, lr=0.1, epochs=10, clips=2600)
#: 30 TFLOP at 30 % of 100 TFLOP/s: one second per batch, two thirds of it backward.
ASSUMED = Assumptions(achieved=0.3, link=0.5, overlap=0.0, overhead=1e9, startup_s=100.0)
FSDP = Recipe(**{**RECIPE.__dict__, "parallel": "fsdp"})
TIMESFORMER = str(ROOT / "configs" / "Kinetics" / "TimeSformer_divST_8x32_224.yaml")
QUICK = str(ROOT / "configs" / "quickstart" / "video.yaml")


def with_overlap(share):
    return Assumptions(**{**ASSUMED.__dict__, "overlap": share})


def test_the_slowest_link_counts():
    assert bus_bandwidth(NODE, 8, 0.5) == 50e9  # NVLink
    assert bus_bandwidth(NODE, 16, 0.5) == 20e9  # four cards of 10 GB/s
    fast = Node(**{**NODE.__dict__, "nics": 16})
    assert bus_bandwidth(fast, 16, 0.5) == 50e9  # cards that outdo NVLink do not help


def test_volumes_are_those_of_nccl_tests():
    assert all_reduce_s(1e9, 4, 50e9) == pytest.approx(2 * 3 / 4 / 50)
    assert gather_s(1e9, 4, 50e9) == pytest.approx(3 / 4 / 50)
    assert all_reduce_s(1e9, 1, 50e9) == gather_s(1e9, 1, 50e9) == 0


def test_what_is_not_hidden_is_at_least_the_last_bucket():
    size = 100 * 2**20  # four buckets
    assert exposed_s(1.0, 0.2, size) == pytest.approx(0.8)
    assert exposed_s(1.0, 0.9, size) == pytest.approx(0.25)
    assert exposed_s(1.0, 9.0, 2**20) == 1.0  # a single bucket has nothing to hide behind
    assert exposed_s(0.0, 1.0, 0) == 0.0


@pytest.mark.parametrize("gpus, batches", [(1, 64), (8, 8), (16, 4), (48, 1), (64, 1), (512, 1)])
def test_accumulation_is_what_training_does(gpus, batches):
    assert accumulation(RECIPE, gpus) == batches


def test_ddp_exchanges_once_per_step():
    computing, exchanging, exposed = step_seconds(COST, RECIPE, NODE, ASSUMED, 16)
    assert computing == pytest.approx(4.0)
    assert exchanging == exposed == pytest.approx(2 * 15 / 16 * 2.0 / 20)  # 2 GB of gradients
    # behind 15 % of the last backward of 2/3 s
    assert step_seconds(COST, RECIPE, NODE, with_overlap(0.15), 16)[2] == pytest.approx(0.1875 - 0.1)
    assert step_seconds(COST, RECIPE, NODE, with_overlap(1.0), 16)[2] == pytest.approx(0.1875 * 25 * 2**20 / 2e9)


def test_fsdp_gathers_for_every_batch():
    computing, exchanging, exposed = step_seconds(COST, FSDP, NODE, ASSUMED, 16)
    gathers, scatter = 2 * 15 / 16 * 2.0 / 20, 15 / 16 * 2.0 / 20  # 2 GB of 16-bit weights, 2 GB of gradients
    assert computing == pytest.approx(4.0)
    assert exchanging == exposed == pytest.approx(4 * gathers + scatter)


def test_one_gpu_exchanges_nothing():
    for recipe in (RECIPE, FSDP):
        assert step_seconds(COST, recipe, NODE, ASSUMED, 1)[1:] == (0.0, 0.0)


def test_a_measured_step_replaces_the_derived_one():
    measured = Assumptions(**{**ASSUMED.__dict__, "step_s": 0.5})
    assert step_seconds(COST, RECIPE, NODE, measured, 16)[0] == pytest.approx(4 * 0.5)


def test_memory():
    weights_gradients_state = 4e9 + (4 + 8) * 0.5e9
    assert memory_bytes(COST, RECIPE, 16, ASSUMED) == weights_gradients_state + 3e9 + 1e9
    with_average = Recipe(**{**RECIPE.__dict__, "ema": True})
    assert memory_bytes(COST, with_average, 16, ASSUMED) == weights_gradients_state + 4e9 + 3e9 + 1e9
    shared = weights_gradients_state / 16 + 2 * 2 * 0.1e9  # two blocks are whole, 16 bits a value
    assert memory_bytes(COST, FSDP, 16, ASSUMED) == pytest.approx(shared + 3e9 + 1e9)


def test_a_row():
    row = simulate(COST, RECIPE, NODE, ASSUMED, 16, decode_s=0.04)
    assert (row["accumulate"], row["global_batch"], row["base_lr"]) == (4, 256, 0.1)
    assert row["steps"] == 10 * 10  # 2600 clips are ten batches and a rest
    assert row["clips_per_s"] == pytest.approx(256 / 4.1875)
    assert row["efficiency"] == pytest.approx(4 / 4.1875)
    assert row["hours"] == pytest.approx((100 + 100 * 4.1875) / 3600)
    assert row["gpu_hours"] == pytest.approx(16 * (100 + 100 * 4.1875) / 3600)
    assert row["decode_cores_per_gpu"] == pytest.approx(256 / 4.1875 / 16 * 0.04)
    larger = simulate(COST, RECIPE, NODE, ASSUMED, 128, decode_s=0.04)
    assert (larger["accumulate"], larger["global_batch"], larger["base_lr"]) == (1, 512, 0.2)


def test_reading_is_that_of_the_recipe():
    """A straight line through the three that were measured, and RandAugment of every frame of every view."""
    plain = {"AUG.ENABLE": False, "DATA.TARGET_FPS": 30}
    for frames, rate, measured in ((8, 8, 0.0404), (8, 32, 0.0557), (16, 4, 0.0437)):
        cfg = load_config(QUICK, {**plain, "DATA.NUM_FRAMES": frames, "DATA.SAMPLING_RATE": rate})
        assert reading_s(cfg) == (pytest.approx(measured, abs=5e-4), 0.0)
    whole = reading_s(load_config(QUICK, {**plain, "DATA.NUM_FRAMES": 64, "DATA.SAMPLING_RATE": 30}))[0]
    assert whole == pytest.approx(0.032 + 10 * 0.0024 + 64 * 0.0004), "no span is longer than the clip"
    huge = load_config(str(ROOT / "configs" / "VideoMAE" / "finetune_k400_huge.yaml"))
    assert huge.AUG.NUM_SAMPLE == 2 and reading_s(huge)[1] == pytest.approx(2 * 16 * 4 * 0.00055)


# --- what is counted ----------------------------------------------------------------------------------------------


def test_flops_of_a_training_step_are_those_of_the_formula():
    """Backward: twice every matrix product, but the patch embedding's input needs no gradient, and fused attention
    computes its scores again (5 products for 2)."""
    T, N, D = 8, 196, 768
    cost = count_step(load_config(TIMESFORMER), 1)
    embedding = 2 * T * N * 3 * 16 * 16 * D
    attention = 2 * 12 * (N * 2 * T * T * D + T * 2 * (N + 1) ** 2 * D)
    assert cost.forward_flops == 391_660_560_384  # see test_benchmark.py
    assert cost.backward_flops == 2 * cost.forward_flops - embedding + attention // 2
    assert cost.parameters == cost.trainable == 121_566_352
    assert cost.state_bytes == 4  # SGD's momentum


@pytest.mark.slow
def test_activations_follow_batch_precision_and_checkpointing():
    base = ["TRAIN.MIXED_PRECISION", "False", "TIMESFORMER.DEPTH", "4"]
    one, whole, three = (count_step(load_config(QUICK, base), batch) for batch in (4, 8, 12))
    two = whole.activation_bytes
    assert two - one.activation_bytes == three.activation_bytes - two > 0
    half = count_step(load_config(QUICK, [*base, "TRAIN.MIXED_PRECISION", "True"]), 8)
    again = count_step(load_config(QUICK, [*base, "MODEL.ACT_CHECKPOINT", "True"]), 8)
    assert half.activation_bytes < 0.9 * two
    assert again.activation_bytes < 0.6 * two
    # each block again, up to the last product whose result is needed
    assert 0.6 * whole.forward_flops < again.backward_flops - whole.backward_flops <= whole.forward_flops
    assert whole.state_bytes == 8  # AdamW


def test_repeated_augmentation_multiplies_the_work():
    cfg = [load_config(QUICK, ["AUG.ENABLE", "True", "AUG.NUM_SAMPLE", str(count)]) for count in (1, 2)]
    once, twice = (count_step(one, 2) for one in cfg)
    assert twice.forward_flops == 2 * once.forward_flops


def test_frozen_experts_have_no_gradients_and_less_backward():
    cost = count_step(load_config(str(ROOT / "configs" / "CAST" / "ssv2.yaml"), ["CAST.DEPTH", "4"]), 1)
    assert cost.trainable < 0.25 * cost.parameters
    assert cost.backward_flops < 1.7 * cost.forward_flops


def test_what_is_held_at_once():
    with _Held() as held:
        first = torch.zeros(1000)  # 4000 bytes
        second = first + 1
        del first
        third = second.view(10, 100)  # the same memory
        assert held.now == 4000
        fourth = third * 2
        del second, third, fourth
    assert held.peak == 8000 and held.now == 0


def test_report_and_bad_input():
    cfg = load_config(QUICK)
    report = benchmark_cluster(cfg, node=node_of("H100"), assumed=Assumptions(), gpus=[8, 16], clips=5000)
    assert [row["gpus"] for row in report.figures] == [8, 16]
    assert report.settings["batch_per_gpu"] == 16 and report.figures[1]["global_batch"] == 256
    assert any("assumed" in note for note in report.notes)
    sizes = {"node": node_of("H100"), "assumed": Assumptions()}
    with pytest.raises(ConfigError, match="--clips 100"):
        benchmark_cluster(cfg, gpus=[512], clips=100, **sizes)
    with pytest.raises(ConfigError, match="--gpus 0"):
        benchmark_cluster(cfg, gpus=[0], **sizes)
    with pytest.raises(ConfigError, match=r"--achieved 1\.5"):
        benchmark_cluster(cfg, node=node_of("H100"), assumed=Assumptions(achieved=1.5))
    with pytest.raises(ConfigError, match="--gpu H101"):
        node_of("H101")
    small = Node(**{**NODE.__dict__, "memory": GIB})
    with pytest.raises(DustError, match="--batch 64: needs"):
        benchmark_cluster(cfg, node=small, assumed=Assumptions(), batch=64, clips=10**6)


def test_cluster_command(tmp_path, capsys):
    words = ["cluster", "--cfg", QUICK, "--gpus", "1,8", "--batch", "2", "--clips", "1000", "--step-ms", "100"]
    result, text = run_tool(tmp_path, capsys, *words, "TRAIN.BATCH_SIZE", "4")
    one, eight = result["figures"]
    assert (one["gpus"], one["global_batch"], one["exchange_ms"]) == (1, 4, 0)  # two batches of 2 make a step of 4
    assert one["compute_ms"] == pytest.approx(200) and eight["compute_ms"] == pytest.approx(100)
    assert eight["global_batch"] == 16 and "measured 100.0 ms" in text
    assert main([*words[:4], "8,x"]) == 2
    assert "--gpus 8,x" in capsys.readouterr().err
