"""What every evaluation has from its base class."""

import contextlib

import numpy as np
import pytest
import torch

from dust.config import load_config
from dust.tasks import build_task
from dust.tasks.build import TASK_REGISTRY
from dust.tasks.classification import Classification
from dust.tasks.contrastive import Contrastive
from dust.tasks.keystep import KeyStep
from dust.tasks.masked import Masked
from dust.tasks.probe import ProbeGrid
from dust.tasks.task import DataInfo, Evaluation
from dust.tasks.tstl import GroupSelection, Routing
from dust.tasks.verb_noun import VerbNoun
from dust.utils.errors import ConfigError


class Mean(Evaluation):
    """All that a subclass needs."""

    def keep(self, record):
        return {"id": record["id"], "value": record["outputs"].mean().item()}

    def metrics(self):
        return {"mean": float(np.mean([record["value"] for record in self.records()]))}


def test_records_are_collected_and_replaced_in_the_base():
    one, two = Mean(), Mean()
    for number, evaluation in enumerate((one, two, two)):
        evaluation.update({"id": f"v{number}", "outputs": torch.full((2, 3), float(number))})
    gathered = [record for part in (one, two) for record in part.records()]
    assert gathered == [{"id": "v0", "value": 0.0}, {"id": "v1", "value": 1.0}, {"id": "v2", "value": 2.0}]
    one.replace_records(gathered)
    assert one.metrics() == {"mean": 1.0} and two.metrics() == {"mean": 1.5}
    assert (one.figures(), one.report()) == ({}, {})


def test_items_run_through_the_loop_once_unless_an_evaluation_says_more():
    class Twice(Mean):
        def infer(self, loop, items):
            return loop(loop(items))

    def loop(items):
        return ({**item, "outputs": item["outputs"] + 1} for item in items)

    items = [{"id": "v", "outputs": torch.zeros(1)}]
    assert [record["outputs"].item() for record in Mean().infer(loop, items)] == [1]
    assert [record["outputs"].item() for record in Twice().infer(loop, items)] == [2]


def test_a_subclass_must_say_what_it_keeps():
    class Nothing(Evaluation):
        def metrics(self):
            return {}

    with pytest.raises(TypeError, match="keep"):
        Nothing()


def test_metrics_that_a_task_would_not_measure_are_refused():
    cfg = load_config(None, ["TASK", "Masked", "TEST.METRICS", "[mine]"])
    with pytest.raises(ConfigError, match="TEST.METRICS mine: the task Masked measures its own metrics alone"):
        build_task(cfg, DataInfo(["a", "b"]))


B, K = 6, 5
HARD = torch.tensor([0, 1, 2, 3, 1, 0])
SOFT = torch.rand(B, K, generator=torch.Generator().manual_seed(1))
PAIRS = {"verb": HARD, "noun": HARD % 3}


def scores(*names):
    generator = torch.Generator().manual_seed(0)
    found = {name: torch.randn(B, K, generator=generator) for name in names}
    return found if len(found) > 1 else found[names[0]]


def states(loss):
    names, found = list("abcde"), scores("embedding", "projection", "logits")
    return Contrastive(class_names=names, loss=loss), found, HARD


CASES = {
    "Classification": (Classification(class_names=list("abcde")), scores("logits"), HARD),
    "Classification, soft": (Classification(class_names=list("abcde")), scores("logits", "series"), SOFT),
    "Classification, focal": (Classification(class_names=list("abcde"), loss="focal"), scores("logits"), HARD),
    "Classification, several": (
        Classification(class_names=list("abcde"), multi_label=True, loss="bce_logit"), scores("logits"), SOFT.round(),
    ),
    "ProbeGrid": (ProbeGrid(heads=["series"], class_names=list("abcde")), scores("logits", "series"), HARD),
    "GroupSelection": (
        GroupSelection(class_names=list("abcde"), triplet_weight=0.5), scores("logits", "features"), HARD,
    ),
    "Routing": (Routing(groups=((0, 1), (2, 3, 4)), class_names=list("abcde")), scores("logits", "selector"), HARD),
    "VerbNoun": (VerbNoun(class_names=[*map(str, range(2 * K))], num_verbs=K), scores("verb", "noun"), PAIRS),
    "KeyStep": (KeyStep(class_names=list("abcde")), scores("logits"), SOFT.round()),
    "Masked": (Masked(), {"loss": torch.tensor(0.5)}, HARD),
    **{f"Contrastive, {loss}": states(loss) for loss in ("supcon", "simclr", "batch_hard", "batch_all", "ce")},
}  # fmt: skip


def on_meta(value):
    return {key: one.to("meta") for key, one in value.items()} if isinstance(value, dict) else value.to("meta")


@pytest.mark.parametrize("case", CASES)
def test_losses_and_statistics_stay_on_the_device(monkeypatch, case):
    """On the meta device whatever would wait for a device raises: item(), numpy(), nonzero(), a comparison in an if."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **how: contextlib.nullcontext())  # which it does not have
    task, outputs, label = CASES[case]
    ids = list("aabbcc")
    here = [find(outputs, {"label": label, "id": ids}) for find in (task.losses, task.stats)]
    there = [find(on_meta(outputs), {"label": on_meta(label), "id": ids}) for find in (task.losses, task.stats)]
    assert [list(one) for one in here] == [list(one) for one in there] and here[0]
    for one in here + there:
        assert all(isinstance(value, torch.Tensor) and value.ndim == 0 for value in one.values())
    assert all(value.device.type == "meta" for one in there for value in one.values())


def test_every_task_is_among_them():
    ours = {name for name in TASK_REGISTRY if TASK_REGISTRY.get(name).__module__.startswith("dust.")}
    assert {case.partition(",")[0] for case in CASES} == ours
