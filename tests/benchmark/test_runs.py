"""Benchmarks of real trainings: scaling, saving and resuming. Names, counts and arithmetic; no times."""

import numpy as np
import pytest
import torch

from benchmarks.memory import benchmark_memory
from benchmarks.saving import saving_cost
from benchmarks.scaling import clips_per_second
from dust.benchmark import in_memory
from dust.benchmark.in_memory import Stamps, in_memory_config, train_in_memory
from dust.engine.train import Trainer
from dust.utils.errors import DustError
from tests import runs as smallest
from tests.benchmark.commands import CFG, TINY, main, positive, run_tool

SMALLEST = {**smallest.TINY, "TRAIN.BATCH_SIZE": 1, "TRAIN.EVAL_PERIOD": 0, "SOLVER.MAX_EPOCH": 20}


@pytest.fixture
def here(monkeypatch):
    """Trainings of a single process run in this one."""
    monkeypatch.setattr(in_memory, "in_own_process", lambda function, argument: function(argument))


def test_steps_are_counted_where_all_processes_work():
    steady = Stamps(wall=[0.0, 1.0, 2.0, 3.0, 4.0], cpu=[])
    assert clips_per_second([steady], 1, batch=8) == pytest.approx(8.0)
    # the second begins half a second later and is twice as fast: 2.5 and 5 batches between 1.5 and 4.0
    late = Stamps(wall=[1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5], cpu=[])
    assert clips_per_second([steady, late], 1, batch=8) == pytest.approx((2.5 + 5.0) * 4 / 2.5)


def test_the_cost_of_saving_is_told_from_the_steps_around_it():
    # a save after every 4 batches (period 2): its step takes 1.5 s instead of 1 s, the one behind it 1.1 s
    steps = [1, 1, 1, 1.5, 1.1, 1, 1, 1.5, 1.1, 1, 1, 1.5]
    costs = saving_cost([0.0, *np.cumsum(steps)], period=2)
    assert len(costs) == 2  # the last save has nothing behind it to be compared with
    for share, pause in costs:
        assert share == pytest.approx(0.6 / 2.6) and pause == pytest.approx(0.5)


@pytest.mark.slow
def test_memory_is_read_over_the_steps_that_were_asked_for(clips):
    words = [str(word) for key, value in SMALLEST.items() for word in (key, value)]
    report = benchmark_memory(None, [*words, "DATA.PATH_TO_DATA_DIR", str(clips)], steps=100)
    assert [row["steps"] for row in report.figures] == list(range(5, 101, 5))
    assert all(row["resident_mb"] > 10 for row in report.figures) and "growth_mb_per_1000_steps" in report.notes[0]
    with pytest.raises(DustError, match=r"raise SOLVER\.MAX_EPOCH"):
        benchmark_memory(None, [*words, "DATA.PATH_TO_DATA_DIR", str(clips), "SOLVER.MAX_EPOCH", "3"], steps=100)


def test_training_in_memory_is_dusts_own(here, monkeypatch):
    """Every batch has its stamp, and the training is the one that run_net runs: Trainer.fit with its optimizer."""
    trained = []
    fit = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda self: (fit(self), trained.append(self))[0])
    (stamps,) = train_in_memory(in_memory_config(CFG, TINY), 4)
    assert len(stamps.wall) == len(stamps.cpu) == 4
    assert sorted(stamps.wall) == stamps.wall and sorted(stamps.cpu) == stamps.cpu
    (trainer,) = trained
    assert trainer.state.updates == 4 and trainer.state.epoch == 1
    batch = next(iter(trainer.loader))
    assert batch["inputs"]["video"].dtype is torch.uint8 and batch["inputs"]["video"].shape == (2, 3, 4, 32, 32)


@pytest.mark.slow
def test_scaling_command(here, tmp_path, capsys):
    words = ["scaling", "--cfg", CFG, *TINY, "--steps", "2", "--warmup", "1", "--rounds", "1"]
    result, _ = run_tool(tmp_path, capsys, *words)
    rows = {row["case"]: row for row in result["figures"]}
    assert list(rows) == [
        "1 process",
        "2 processes without exchange",
        "2 processes, same batch each",
        "2 processes, same global batch",
    ]
    assert [row["batch"] for row in rows.values()] == [2, 4, 4, 2]
    for row in rows.values():
        positive(row, "clips_per_s", "times", "fastest", "fastest_times", "ms_per_step", "cpu_ms")
    assert rows["1 process"]["times"] == rows["1 process"]["fastest_times"] == 1


def test_checkpoint_command(here, tmp_path, capsys, monkeypatch):
    written = []
    save = Trainer.save

    def noted(trainer, **options):
        if trainer.state.iteration:
            written.append(trainer.state.iteration)
        return save(trainer, **options)

    monkeypatch.setattr(Trainer, "save", noted)
    words = ["checkpoint", "--cfg", CFG, *TINY, "--period", "2", "--saves", "2", "--rounds", "1"]
    result, _ = run_tool(tmp_path, capsys, *words)
    names = [row["checkpoint"] for row in result["figures"]]
    assert names == ["full", "full, asynchronous", "sharded", "sharded, asynchronous"]
    assert written == 4 * [4, 8, 12]  # where saving_cost looks for them
    for row in result["figures"]:
        assert row["saves"] == 2 and np.isfinite([row["share_percent"], row["pause_ms"], row["cpu_percent"]]).all()
        positive(row, "step_ms")


@pytest.mark.slow
def test_resume_command(data, tmp_path, capsys):
    words = ["resume", "--cfg", CFG, "--rounds", "1", "DATA.PATH_TO_DATA_DIR", str(data), "MODEL.NUM_CLASSES", "2"]
    words += [*TINY, "TRAIN.BATCH_SIZE", "1", "TRAIN.EVAL_PERIOD", "0"]
    result, _ = run_tool(tmp_path, capsys, *words)
    (row,) = result["figures"]
    positive(row, "imports_s", "resumed_s", "first_step_s")
    assert row["resumed_s"] <= row["first_step_s"]
    assert row["beyond_imports_s"] == pytest.approx(row["first_step_s"] - row["imports_s"])


@pytest.mark.parametrize(
    "words, message",
    [
        (["scaling", "--cfg", CFG, "--processes", "1"], "--processes 1"),
        (["checkpoint", "--cfg", CFG, "--period", "1"], "--period 1"),
        (["resume", "--cfg", CFG, "--rounds", "0"], "--rounds 0"),
    ],
)
def test_counts_that_are_too_small_are_refused(capsys, words, message):
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_a_training_that_fails_is_told(here):
    with pytest.raises(DustError):
        train_in_memory(in_memory_config(CFG, [*TINY, "SOLVER.OPTIMIZING_METHOD", "no_such"]), 2)
