"""The words of `dust tune`; its trials are in tests/analysis/tuning, tests/faults and tests/slurm."""

import json

import pytest

from dust.analysis.status import read_status
from dust.analysis.tuning.outcome import write_tables
from dust.analysis.tuning.study import JOURNAL, Study, build_plan
from dust.cli import tune
from dust.config import load_config
from tests.runs import TINY, command_line

SPACE = {"TUNE.SPACE": "[{SOLVER.BASE_LR: [0.1, 0.2]}]"}


@pytest.fixture
def words(clips, tmp_path):
    """``words(KEY=value)``: a command line that writes into this test's folder."""
    (tmp_path / "study.yaml").write_text("LOG_PERIOD: 3\n")

    def make(**keys):
        values = {**TINY, **SPACE, "DATA.PATH_TO_DATA_DIR": clips, "OUTPUT_DIR": tmp_path / "study"}
        values.update({key.replace("__", "."): value for key, value in keys.items()})
        return ["--cfg", str(tmp_path / "study.yaml"), *command_line(values)]

    return make


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"TUNE__SPACE": "[]"}, "TUNE.SPACE is empty"),
        ({"TEST__ENABLE": False}, "both must be True"),
        ({"TRAIN__AUTO_RESUME": False}, "TRAIN.AUTO_RESUME False"),
        ({"NUM_SHARDS": 2}, "NUM_SHARDS 2"),
        ({"TUNE__METRIC": "top1"}, "TUNE.METRIC top1: is not measured; choose one of top1_acc"),
        ({"MODEL__NUM_CLASSES": 7}, "NUM_CLASSES"),
    ],
)
def test_what_cannot_be_tuned_is_said_before_there_is_a_study(words, tmp_path, capsys, keys, text):
    assert tune.main(words(**keys)) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "study" / JOURNAL).exists()


def test_ranks_files_and_flags_that_cannot_be(words, tmp_path, capsys, monkeypatch):
    assert tune.main(["--slurm", "--show", *words()]) == 2
    assert "choose one" in capsys.readouterr().err
    (tmp_path / "more.yaml").write_text("LOG_PERIOD: 3\n")
    assert tune.main(["--cfg", str(tmp_path / "study.yaml"), str(tmp_path / "more.yaml"), *words()[2:]]) == 2
    assert "takes one configuration" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    assert tune.main(words()) == 2
    assert "leave torchrun" in capsys.readouterr().err


def test_a_study_is_shown(words, tmp_path, capsys):
    assert tune.main(["--show", *words()]) == 2
    assert "no study has begun" in capsys.readouterr().err
    line = words()
    study = Study(tmp_path / "study", build_plan(load_config(line[1], line[2:])))
    study.take()
    study.complete(0, 71.5, [60.0, 80.25])
    assert tune.main(["--show", *words()]) == 0
    said = capsys.readouterr().out
    assert "1 complete, 19 not begun" in said and "best: trial 0, top1_acc 71.50 [60.00, 80.25] on val" in said


def test_the_status_of_a_trial_that_was_pruned(words, tmp_path):
    line = words(TUNE__PRUNER="median")
    cfg = load_config(line[1], line[2:])
    study = Study(tmp_path / "study", build_plan(cfg))
    folder = study.take().folder
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "stdout.log").write_text("x\n")
    assert read_status(folder).state == "interrupted"
    study.report(0, 1, 50.0)
    study.prune(0)
    write_tables(study)
    assert read_status(folder).state == "pruned"
    assert json.loads((folder / "trial.json").read_text())["epochs"] == 1


def test_slurm_gets_an_array_of_workers_with_one_task_each(words, tmp_path, capsys, monkeypatch):
    asked = {}

    def submit_jobs(args, specs, command):
        asked.update(specs=specs, name=args.name, command=command)
        return ["job 1_0"]

    monkeypatch.setattr("dust.engine.submit.submit_jobs", submit_jobs)
    line = words(TUNE__JOBS=3, NUM_PROCS_PER_NODE=2, DATA_LOADER__NUM_WORKERS=4)
    assert tune.main(["--slurm", "--partition", "gpu", *line]) == 0
    first, second, third = asked["specs"]
    assert first.argv[:4] == ("tune", "--worker", "--cfg", line[1]) and first.argv[-2:] == ("TUNE.JOBS", "1")
    assert third.name == "tune_study_2" and first.argv == second.argv
    run = first.runs[0]
    assert (run.nodes, run.processes, run.workers + 1) == (1, 1, 11), "both processes of a trial, with their workers"
    assert asked["command"] is tune.SubmittedWorker
    assert "dust tune --show --cfg" in capsys.readouterr().out
