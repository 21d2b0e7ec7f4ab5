"""What every evaluation has from its base class."""

import numpy as np
import pytest
import torch

from dust.config import load_config
from dust.tasks import build_task
from dust.tasks.task import DataInfo, Evaluation
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
