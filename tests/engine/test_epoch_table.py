"""The table of epochs on a terminal: its figures, the reason for slowness, and the log that stays as it is."""

import io
import logging
import sys
from types import SimpleNamespace

import pytest

from dust.engine.epoch_table import EpochTable, build_epoch_table
from dust.engine.hooks import EpochEnd, EvaluationEnd, StepEnd
from dust.engine.run_dir import RunDir
from dust.engine.train import run_stage as train
from dust.utils.logging import log_json_stats, setup_logging
from dust.utils.meters import TrainMeter


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):

    def begin():  # within the test: between its set-up and its call pytest puts a console of its own in place
        console = Terminal()
        monkeypatch.setattr(sys, "stdout", console)
        return console

    yield begin
    for handler in list(logging.getLogger("dust").handlers):
        logging.getLogger("dust").removeHandler(handler)
        handler.close()


def an_epoch(table, meter, waiting, computing, loss, samples=8, steps=4):
    for step in range(1, steps + 1):
        meter.watch.dt_data, meter.watch.dt_net = waiting, computing
        table.after_step(None, StepEnd(step, steps, {"loss": loss, "top1_err": 50.0}, 0.1, samples, True))


def test_figures_and_the_reason_for_slowness():
    lines, meter = [], TrainMeter(4, 10, 5)
    table = EpochTable(meter, "top1_acc", lines.append, processes=2, columns=lambda: 80)
    state = SimpleNamespace(best={"value": 75.0})
    an_epoch(table, meter, 0.01, 0.09, 1.25)
    table.after_evaluation(state, EvaluationEnd({"top1_acc": 75.0}, True, None, None))
    table.after_epoch(state, EpochEnd(1, True, False))
    an_epoch(table, meter, 0.41, 0.59, 0.75)
    table.after_epoch(state, EpochEnd(2, False, False))
    assert lines[0].split() == ["epoch", "loss", "top1_acc", "best", "clips/s", "data", "eta"]
    assert lines[1].split()[:6] == ["1/10", "1.2500", "75.00*", "75.00", "160.0", "10%"]  # 2 processes of 8 in 0.1 s
    assert lines[2].split()[:6] == ["2/10", "0.7500", "-", "75.00", "16.0", "41%"]
    assert lines[3:] == ["    waiting 41% for data: more NUM_WORKERS, or dust prepare"]
    for epoch, waiting in enumerate((0.5, 0.6, 0.1, 0.7), 3):
        an_epoch(table, meter, waiting, 0.4, 0.75)
        table.after_epoch(state, EpochEnd(epoch, False, False))
    reasons = [line for line in lines[4:] if "waiting" in line]
    assert reasons == ["    waiting 64% for data: more NUM_WORKERS, or dust prepare"], "once, until it was better"


def test_the_best_epoch_may_be_that_of_the_lowest_loss():
    """As in masked pre-training: the column of validation has the name of another one."""
    lines, meter = [], TrainMeter(4, 10, 5)
    table = EpochTable(meter, "loss", lines.append, columns=lambda: 80)
    an_epoch(table, meter, 0.01, 0.09, 1.25)
    table.after_evaluation(None, EvaluationEnd({"loss": 0.5}, True, None, None))
    table.after_epoch(SimpleNamespace(best={"value": 0.5}), EpochEnd(1, True, False))
    assert lines[0].split()[:4] == ["epoch", "loss", "loss", "best"]
    assert lines[1].split()[:4] == ["1/10", "1.2500", "0.50*", "0.50"]


def test_a_line_stays_a_line_on_a_narrow_terminal():
    lines, room = [], [80]
    table = EpochTable(TrainMeter(4, 10, 5), "top1_acc", lines.append, columns=lambda: room[0])
    state = SimpleNamespace(best={"value": 75.0})
    for epoch, columns in enumerate((80, 50, 50, 20, 80), 1):
        room[0] = columns
        table.after_epoch(state, EpochEnd(epoch, False, False))
    assert [line.split() for line in lines if "epoch" in line] == [
        ["epoch", "loss", "top1_acc", "best", "clips/s", "data", "eta"],
        ["epoch", "loss", "top1_acc", "data", "eta"],
        ["epoch", "loss", "top1_acc"],
        ["epoch", "loss", "top1_acc", "best", "clips/s", "data", "eta"],
    ]
    assert [len(line) <= 80 for line in lines] == [True] * 9 and all(len(line) <= 50 for line in lines[2:5])


def test_an_epoch_without_a_clip_and_a_terminal_that_was_closed():
    def gone(line):
        raise BrokenPipeError

    table = EpochTable(TrainMeter(4, 10, 5), "f1", gone)
    table.after_epoch(SimpleNamespace(best={}), EpochEnd(1, False, False))
    assert table.rows == 1


def test_only_on_a_terminal(terminal, monkeypatch):
    terminal()
    assert len(build_epoch_table(TrainMeter(1, 1, 1), "f1")) == 1
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert build_epoch_table(TrainMeter(1, 1, 1), "f1") == []


def test_the_log_keeps_what_the_terminal_does_not_show(terminal, tmp_path):
    console = terminal()
    setup_logging(tmp_path)
    logger = logging.getLogger("dust.x")
    log_json_stats(logger, {"_type": "train_epoch", "loss": 1.0})
    logger.info("a line")
    assert "a line" in console.getvalue() and "json_stats" not in console.getvalue()
    log = (tmp_path / "stdout.log").read_text()
    assert 'json_stats: {"_type": "train_epoch", "loss": 1.0}' in log and "a line" in log


def test_a_training_writes_its_rows(terminal, tiny):
    console = terminal()
    cfg = tiny(SOLVER__MAX_EPOCH=2, TRAIN__EVAL_PERIOD=1)
    train(cfg, RunDir(cfg.OUTPUT_DIR))
    rows = [line.split() for line in console.getvalue().splitlines() if line.strip().startswith(("1/2", "2/2"))]
    assert len(rows) == 2 and rows[0][2].endswith("*") and float(rows[1][3]) >= float(rows[0][3])
