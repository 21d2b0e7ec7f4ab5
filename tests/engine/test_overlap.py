"""The host beside the device, shown without one: the meta device plays it, of which nothing can be read at all.

So whatever asks for a number raises, but for the one way back (``sent_to_host``), which gives zeros here and notes who
waits for them.
"""

import copy
import gc
import json

import pytest
import torch
from torch import nn

from dust.datasets.loader import Loader
from dust.engine import overlap
from dust.engine.hooks import Hook
from dust.engine.inference import Inference
from dust.engine.overlap import Feed, Figures, Readback, seed_step
from dust.engine.run_dir import RunDir
from dust.engine.step import Diverged, OptimizerStep
from dust.engine.train import Trainer, build_trainer
from dust.tasks.classification import Classification
from dust.utils.meters import TrainMeter
from dust.utils.metrics import percent_wrong
from tests.runs import RICH

META = torch.device("meta")


class Clock:
    """What time it is, and for what was waited: (then, when that was sent)."""

    def __init__(self):
        self.now, self.waits = 0, []

    def send(self, tensor):
        assert tensor.device == META
        return torch.zeros(tensor.shape, dtype=tensor.dtype), Event(self, self.now)


class Event:
    def __init__(self, clock, sent):
        self.clock, self.sent = clock, sent

    def synchronize(self):
        self.clock.waits.append((self.clock.now, self.sent))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(overlap, "sent_to_host", clock.send)
    return clock


class Ticks(Hook):
    """The last of the hooks: a batch is over."""

    def __init__(self, clock):
        self.clock = clock

    def after_step(self, state, step):
        self.clock.now += 1


class Skipping(torch.optim.AdamW):
    """As a fused one, of which the meta device has none: it looks at the flag by itself, on the device."""

    _step_supports_amp_scaling = True

    def step(self, closure=None):
        assert self.__dict__.pop("found_inf").device == META
        return super().step(closure)


# --------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "more",
    [{}, {"GLOBAL_BATCH_SIZE": 2, "MIXUP__ENABLE": True, "TRAIN__BATCH_SIZE": 2}],
    ids=["plain", "rich"],
)
def test_a_training_step_waits_for_nothing_that_it_has_asked_for_itself(tiny, clock, monkeypatch, more):
    """But where a log line is due. What it waits for is of the step before, which keeps the host one step ahead."""
    monkeypatch.setattr("dust.engine.train.build_device", lambda cfg: META)
    monkeypatch.setattr(Trainer, "save", lambda self, **how: None)
    common = {"TRAIN__EVAL_PERIOD": 0, "TRAIN__BATCH_SIZE": 1, "LOG_PERIOD": 4, "SOLVER__CLIP_GRAD_L2NORM": 1.0}
    cfg = tiny(SOLVER__MAX_EPOCH=1, **{**common, **more})
    trainer = build_trainer(cfg, RunDir(cfg.OUTPUT_DIR))
    trainer.state.optimizer_step.optimizer = Skipping(trainer.state.model.parameters(), lr=0.01)
    trainer.hooks.append(Ticks(clock))
    trainer.fit()
    batches = 10 // cfg.TRAIN.BATCH_SIZE
    lines = {number for number in range(batches) if (number + 1) % 4 == 0 or number + 1 == batches}
    assert clock.now == batches and lines, "all were learnt from"
    quiet = [(then, sent) for then, sent in clock.waits if then not in lines]
    assert quiet and all(then == sent + 1 for then, sent in quiet)
    assert {then for then, sent in clock.waits if then == sent} == lines, "a line has the numbers of its own step"


@pytest.mark.parametrize(("bad", "saves", "met"), [(1, 0, 2), (2, 0, 2), (1, 1, 1), (3, 1, 3)])
def test_a_gradient_that_is_not_finite_is_met_before_anything_is_made_of_it(tiny, monkeypatch, caplog, bad, saves, met):
    """In a step with a log line or a checkpoint at once, in others with the next one; always by the name of the step
    that had it."""
    monkeypatch.setattr(OptimizerStep, "_defers", lambda self, flag: True)
    cfg = tiny(SOLVER__MAX_EPOCH=1, TRAIN__CHECKPOINT_PERIOD_ITERS=saves)
    trainer = build_trainer(cfg, RunDir(cfg.OUTPUT_DIR))
    parameters = list(trainer.state.model.parameters())
    trainer.state.optimizer_step.optimizer = torch.optim.AdamW(parameters, lr=0.01, fused=True)
    steps = []

    def spoil(gradient):
        steps.append(gradient)
        return gradient * float("nan") if len(steps) == bad else gradient

    parameters[0].register_hook(spoil)
    with caplog.at_level("INFO"), pytest.raises(Diverged, match=f"epoch 1, iteration {bad}: "):
        trainer.fit()
    assert len(steps) == met and caplog.text.count("train_iter") == (bad > 2)
    assert len(list(RunDir(cfg.OUTPUT_DIR).checkpoints.glob("*.pyth"))) == (bad > 1 and saves)


def test_a_step_leaves_no_tensors_to_the_collector(tiny):
    """So that memory does not grow from one look for garbage to the next."""

    class Look(Hook):
        def after_step(self, state, step):
            if step.iteration == step.iters:
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                gc.set_debug(0)
                found.extend(type(one).__name__ for one in gc.garbage if isinstance(one, torch.Tensor | nn.Module))
                gc.garbage.clear()

    found = []
    cfg = tiny(SOLVER__MAX_EPOCH=1, TRAIN__EVAL_PERIOD=0, **RICH)
    trainer = build_trainer(cfg, RunDir(cfg.OUTPUT_DIR))
    trainer.hooks.append(Look())
    trainer.fit()
    assert not found


def test_garbage_is_looked_for_at_set_steps(tiny, monkeypatch):
    class Look(Hook):
        def after_step(self, state, step):
            seen.append((gc.isenabled(), gc.get_freeze_count() > 0))

        def after_evaluation(self, state, result):
            seen.append("on" if gc.isenabled() else "off")

    collect, looks, seen = gc.collect, [], []
    monkeypatch.setattr(overlap, "GARBAGE_PERIOD", 2)
    cfg = tiny(SOLVER__MAX_EPOCH=1, TRAIN__BATCH_SIZE=2)
    trainer = build_trainer(cfg, RunDir(cfg.OUTPUT_DIR))
    trainer.hooks.append(Look())
    monkeypatch.setattr(gc, "collect", lambda *how: looks.append((len(seen), *how)) or collect(*how))
    trainer.fit()
    assert seen == [(False, True)] * 5 + ["on"]
    assert looks[:3] == [(0, 1), (2,), (4,)] and gc.isenabled() and not gc.get_freeze_count()


class Asked(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return gc.isenabled()


def test_workers_collect_as_always():
    gc.disable()
    try:
        from dust.datasets.loader import _start_worker

        assert [*Loader(Asked(), num_workers=1, worker_init_fn=_start_worker)] == [torch.tensor([True])] * 2
    finally:
        gc.enable()


def test_a_step_draws_what_it_always_drew():
    for seed in (3, 2**63 + 5):
        torch.manual_seed(seed)
        expected = torch.rand(3)
        torch.rand(2)
        seed_step(seed, torch.device("cpu"))
        assert torch.equal(torch.rand(3), expected)


# ---------------------------------------------------------------------------------------------------------- figures


def test_figures_come_in_order_and_what_is_not_measured_is_left_out(clock):
    nan = float("nan")
    figures = {"b": torch.tensor(1.5), "a": 2, "nothing": torch.tensor(nan), "loss": torch.tensor(nan)}
    known = Figures(figures, ["nothing", "b"])
    assert list(known) == ["b", "a", "loss"] and known["b"] == 1.5 and known["a"] == 2.0 and len(known) == 3
    away = Figures({"b": torch.zeros((), device=META), "a": 2.0, "c": torch.tensor(3)})
    assert not clock.waits and list(away.items()) == [("b", 0.0), ("a", 2.0), ("c", 3.0)]
    assert dict(away) == {"b": 0.0, "a": 2.0, "c": 3.0} and clock.waits == [(0, 0)], "they are waited for once"


def test_percentages_have_the_bits_that_python_gives_them():
    for right in range(8):
        hits = torch.arange(7) < right
        assert percent_wrong(hits).item() == 100.0 * (1.0 - hits.float().mean().item())


def test_what_was_read_is_what_was_sent_on_a_cpu():
    tensor = torch.arange(3)
    assert Readback(tensor).read() is tensor


class Late(dict):
    """Figures that are looked at too early if the next iteration is not there."""

    def __init__(self, number, seen):
        super().__init__(loss=float(number))
        self.number, self.seen = number, seen

    def keys(self):
        self.seen.append(self.number)
        return super().keys()

    def items(self):
        self.seen.append(self.number)
        return super().items()


def test_a_meter_looks_a_step_late_and_says_what_it_always_said(caplog):
    """Lines, means and what a checkpoint keeps are those of a meter that looks at once; going back forgets."""
    seen, late, plain = [], TrainMeter(5, 1, 2), TrainMeter(5, 1, 2)
    mark = None
    with caplog.at_level("INFO"):
        for number in range(5):
            if number == 3:
                mark = late.mark()
            for meter, stats in ((late, Late(number, seen)), (plain, {"loss": float(number)})):
                meter.watch.dt_net = meter.watch.dt_data = 0.5
                meter.update(stats, 0.1, number + 1)
                meter.log_iter(0, number)
            assert set(seen) == set(range(number + 1 if (number + 1) % 2 == 0 else number))
    assert late.state_dict() == plain.state_dict() and late.means() == plain.means()
    lines = [json.loads(record.message.split("json_stats: ")[1]) for record in caplog.records]
    assert [line["loss"] for line in lines[::2]] == [line["loss"] for line in lines[1::2]] == [0.5, 2.5]
    late.go_back(mark)
    assert late.state_dict() == {"sums": {"loss": 0 + 2 + 6.0}, "samples": {"loss": 6}}


# -------------------------------------------------------------------------------------------------------- inference


class Weigher(nn.Module):
    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def forward(self, video):
        self.clock.now += 1
        return {"logits": video.float().mean((2, 3, 4))}


@pytest.mark.parametrize("apart", [False, True])
def test_one_micro_batch_of_an_evaluation_is_in_flight(clock, apart):
    items = [
        {"inputs": {"video": torch.zeros(views, 3, 2, 4, 4, dtype=torch.uint8)}, "label": 0, "id": f"v{i}", "path": ""}
        for i, views in enumerate([3, 1, 2, 5])
    ]
    task = Classification(class_names=["a", "b", "c"])
    loop = Inference(Weigher(clock), task.forward, lambda batch, *, training: batch, META, 2, across_samples=not apart)
    records = list(loop(items))
    assert [(record["id"], len(record["outputs"]["logits"])) for record in records] == [
        ("v0", 3), ("v1", 1), ("v2", 2), ("v3", 5),
    ]  # fmt: skip
    last = clock.now
    assert clock.waits == [*((number + 1, number) for number in range(1, last)), (last, last)]


def test_nothing_is_in_flight_on_a_cpu_or_moved_there(clock):
    forwards, items = [], ({"inputs": {"x": torch.ones(1, 2)}, "label": 0, "id": str(i), "path": ""} for i in range(3))
    loop = Inference(
        nn.Identity(),
        lambda model, inputs: forwards.append(1) or inputs["x"],
        lambda batch, *, training: batch,
        torch.device("cpu"),
        1,
    )
    for done, _ in enumerate(loop(items), start=1):
        assert len(forwards) == done
    batch = {"inputs": {"video": torch.zeros(2)}, "label": {"a": torch.ones(1)}, "id": ["x"]}
    moved = Feed(torch.device("cpu"))(batch)
    assert moved["inputs"]["video"] is batch["inputs"]["video"] and moved["id"] == ["x"]
    away = Feed(META)(copy.copy(batch))
    assert away["label"]["a"].device == away["inputs"]["video"].device == META
