import math

import pytest
import torch

from dust.utils.lr_policy import LRSchedule
from tests.helpers import golden_json


@pytest.mark.parametrize("case", golden_json("pysf_lr_policy"), ids=lambda case: case["solver"]["LR_POLICY"])
def test_slowfast_policies(case):
    solver = case["solver"]
    schedule = LRSchedule(
        policy=solver["LR_POLICY"],
        base_lr=solver["BASE_LR"],
        end_lr=solver["COSINE_END_LR"],
        max_epoch=solver["MAX_EPOCH"],
        steps=tuple(solver["STEPS"]),
        lrs=tuple(solver["LRS"]),
        warmup_epochs=solver["WARMUP_EPOCHS"],
        warmup_start_lr=solver["WARMUP_START_LR"],
        cosine_after_warmup=solver["COSINE_AFTER_WARMUP"],
    )
    assert [schedule.at(epoch) for epoch in case["epoch"]] == pytest.approx(case["lr"], rel=1e-9)


@pytest.mark.parametrize("case", golden_json("videomae_cosine_schedule")["cases"], ids=str)
def test_videomae_cosine(case):
    args = case["args"]
    schedule = LRSchedule(
        policy="videomae_cosine",
        base_lr=args["base_value"],
        end_lr=args["final_value"],
        max_epoch=args["epochs"],
        warmup_epochs=args["warmup_epochs"],
        warmup_start_lr=args.get("start_warmup_value", 0.0),
    )
    iters = args["niter_per_ep"]
    rates = [schedule.at_iteration(epoch, i, iters) for epoch in range(args["epochs"]) for i in range(iters)]
    assert rates == pytest.approx(case["values"], rel=1e-9, abs=1e-15)


def test_dust_linear_cosine():
    golden = golden_json("dust_lr_schedule")
    args = golden["args"]
    schedule = LRSchedule(
        policy="dust_linear_cosine",
        base_lr=args["lr"],
        end_lr=args["eta_min"],
        max_epoch=args["num_epochs"],
        warmup_epochs=args["end_of_linear"],
    )
    rates = [schedule.at_iteration(epoch, 1, 2) for epoch in range(args["num_epochs"])]
    assert rates == pytest.approx(golden["lr_per_epoch"], rel=1e-9)


def test_an_iteration_is_a_fraction_of_its_epoch():
    schedule = LRSchedule(
        policy="steps_with_relative_lrs", base_lr=1.0, max_epoch=4, steps=(0, 2, 3), lrs=(1, 0.1, 0.01)
    )
    rates = [schedule.at_iteration(epoch, i, 2) for epoch in range(4) for i in range(2)]
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="steps_with_relative_lrs"):
        LRSchedule(policy="poly", base_lr=1.0, max_epoch=1).at(0)


@pytest.mark.parametrize(("base", "end", "period"), [(0.1, 0.0, 5), (1e-3, 1e-5, 40)])
def test_restarts_are_those_of_torch(base, end, period):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=period, eta_min=end)
    schedule = LRSchedule(policy="cosine_restart", base_lr=base, end_lr=end, max_epoch=100, period=period)
    for iteration in range(0, 90 * 7, 5):
        theirs.step(iteration / 7)
        assert schedule.at_iteration(*divmod(iteration, 7), 7) == pytest.approx(optimizer.param_groups[0]["lr"])
    # the slow way: walk through the periods one after the other
    for epoch in (0.0, 2.5, period - 1e-9, float(period), 3 * period + 1.25):
        left = epoch
        while left >= period:
            left -= period
        slow = end + (base - end) / 2 * (1 + math.cos(math.pi * left / period))
        assert schedule.at(epoch) == pytest.approx(slow)


def test_restarts_begin_behind_the_warm_up():
    options = {"policy": "cosine_restart", "base_lr": 1.0, "max_epoch": 30, "period": 5.0, "warmup_epochs": 3.0}
    after = LRSchedule(**options, warmup_start_lr=0.1, cosine_after_warmup=True)
    assert [after.at(epoch) for epoch in (0, 3, 8, 13)] == [pytest.approx(rate) for rate in (0.1, 1.0, 1.0, 1.0)]
    assert after.at(1.5) == pytest.approx(0.55) and after.at(5.5) == pytest.approx(0.5)
    from_zero = LRSchedule(**options, warmup_start_lr=0.1)
    assert from_zero.at(5) == 1.0 and from_zero.at(3) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.6)))
