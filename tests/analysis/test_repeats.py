"""Folds are pooled as one test, seeds get a mean and an interval; both by one command that goes on."""

import json
import shutil

import numpy as np
import pytest

from dust.analysis.curation import curate
from dust.analysis.predictions import read_results
from dust.analysis.repeats import pool_folds, summarise_seeds, text_of_seeds
from dust.cli import train as train_command
from dust.cli.main import main
from dust.utils.errors import DataError
from dust.utils.files import write_csv
from dust.utils.metrics import classification_metrics
from tests.analysis.test_compare import CLASSES, run
from tests.helpers import csv_dicts
from tests.runs import words


def test_pooled_folds_are_one_test(tmp_path):
    rng = np.random.default_rng(0)
    labels, right = rng.integers(0, 3, 60), rng.random(60) < 0.7
    scores = []
    for fold in range(3):
        part = np.arange(20) + 20 * fold
        ids = [f"=c{index}" for index in part]  # which a spreadsheet would take for a formula
        scores.append(run(tmp_path / f"fold_{fold}", labels[part], right[part], ids=ids, seed=fold))
        write_csv(tmp_path / f"fold_{fold}" / "results" / "groups.csv", ["id", "group"], [[one, fold] for one in ids])
    folders = [tmp_path / f"fold_{fold}" for fold in range(3)]
    metrics = pool_folds(folders, tmp_path / "pooled")
    for name, value in classification_metrics(np.concatenate(scores), labels).items():
        assert metrics[name] == pytest.approx(value, abs=1e-4)
    found = read_results(tmp_path / "pooled")
    assert found.ids == [f"=c{index}" for index in range(60)] and len(set(found.groups)) == 3
    assert found.report["metrics"] == metrics and found.report["intervals"].keys() == metrics.keys()
    with pytest.raises(DataError, match="in several rows"):
        pool_folds([folders[0], folders[0]], tmp_path / "twice")


def test_pooled_recordings(tmp_path):
    for fold in range(2):
        (tmp_path / f"f{fold}" / "results").mkdir(parents=True)
        recordings = {f"r{fold}{n}": {"f1": 0.5 + 0.25 * fold, "pos": 1.0, "tau_s": None} for n in range(3)}
        (tmp_path / f"f{fold}" / "results" / "test.json").write_text(json.dumps({"recordings": recordings}))
    assert pool_folds([tmp_path / "f0", tmp_path / "f1"], tmp_path / "all") == {"pos": 1.0, "f1": 0.625}


def test_seeds_by_the_book(tmp_path):
    for seed, value in enumerate((90.0, 92.0, 94.0)):
        (tmp_path / str(seed) / "results").mkdir(parents=True)
        (tmp_path / str(seed) / "results" / "test.json").write_text(json.dumps({"metrics": {"top1_acc": value}}))
    found = summarise_seeds([tmp_path / str(seed) for seed in range(3)])["top1_acc"]
    assert (found["mean"], found["sd"]) == (92.0, 2.0)
    assert found["high"] - found["mean"] == pytest.approx(4.3027 * 2 / 3**0.5, rel=1e-4)  # Student's t, 2 degrees
    assert "92.00" in text_of_seeds({"top1_acc": found})


def test_out_of_fold_answers_judge_labels(tmp_path):
    """One label in ten is another one than what the models, which are right, say."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 200)
    given = truth.copy()
    flipped = rng.choice(200, 20, replace=False)
    given[flipped] = (truth[flipped] + 1) % 3
    scores = rng.random((200, 3)) * 0.3
    scores[np.arange(200), truth] += 1
    scores /= scores.sum(axis=1, keepdims=True)
    rows = [[f"c{n}", CLASSES[given[n]], CLASSES[scores[n].argmax()], *scores[n]] for n in range(200)]
    (tmp_path / "run" / "results").mkdir(parents=True)
    write_csv(
        tmp_path / "run" / "results" / "predictions.csv",
        ["id", "label", "prediction", *(f"prob_{name}" for name in CLASSES)],
        rows,
    )
    (tmp_path / "run" / "results" / "test.json").write_text('{"pooled_from": {}}')
    found = curate(tmp_path / "run", "no lists are read")
    named = {one.index for one in found.issues}
    assert len(named & set(flipped)) >= 18 and len(named) <= 22 and set(found.splits) == {"train"}


@pytest.mark.slow
def test_the_command_runs_folds_and_seeds_and_goes_on(clips, tmp_path, capfd):
    own = [*words(clips, tmp_path / "folds"), "SOLVER.MAX_EPOCH", "1", "TRAIN.EVAL_PERIOD", "0"]
    assert main(["train", *own, "--folds", "2"]) == 0
    rows = csv_dicts(tmp_path / "folds" / "pooled" / "results" / "predictions.csv")
    assert len(rows) == 10 and len({row["id"] for row in rows}) == 10
    assert "all folds together" in capfd.readouterr().out
    assert main(["train", *own, "--folds=2"]) == 0
    assert "fold_1: finished already" in capfd.readouterr().out
    own = [*words(clips, tmp_path / "seeds"), "SOLVER.MAX_EPOCH", "1", "TRAIN.EVAL_PERIOD", "0", "RNG_SEED", "4"]
    assert main(["train", *own, "--seeds", "2"]) == 0
    found = json.loads((tmp_path / "seeds" / "seeds.json").read_text())
    assert len(found["top1_acc"]["values"]) == 2 and (tmp_path / "seeds" / "seed_5" / "results").is_dir()


def test_a_folder_in_somebodys_home(clips, tmp_path, monkeypatch):
    """The configuration knows it without ~, the words of the command line with it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    ran = []
    monkeypatch.setattr(train_command.run_net, "main", lambda words: ran.append(words[-1]) or 5)
    own = ["train", *words(clips, "~/runs"), "TEST.ENABLE", "True"]
    assert main([*own, "--seeds", "2"]) == 5
    assert ran == [str(tmp_path / "runs" / "seed_3")]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--folds", "1"], "--folds 1: a whole number of runs, at least 2"),
        (["--folds"], r"--folds (nothing)"),
        (["--seeds=x"], "--seeds x"),
        (["--folds", "2", "--seeds", "2"], "give one of them"),
        (["--folds", "2", "TEST.ENABLE", "False"], "tests nothing"),
        (["--seeds", "2", "PREDICT.ENABLE", "True", "PREDICT.SOURCES", "[a.mp4]"], "predicts nothing"),
        (["--folds", "20"], "10 groups cannot make 20 parts"),
    ],
)
def test_words_that_cannot_be_done(clips, tmp_path, capsys, more, says):
    assert main(["train", *words(clips, tmp_path / "run"), *more]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", ["number", "labels"])
def test_other_folds_are_no_finished_ones(clips, tmp_path, monkeypatch, capsys, change):
    shutil.copytree(clips, tmp_path / "data")
    monkeypatch.setattr(train_command.run_net, "main", lambda words: 5)
    own = ["train", *words(tmp_path / "data", tmp_path / "runs")]
    assert main([*own, "--folds", "2"]) == 5 and main([*own, "--folds", "2"]) == 5
    if change == "labels":
        text = (tmp_path / "data" / "train.csv").read_text()
        (tmp_path / "data" / "train.csv").write_text(text.replace("clip_0.mp4,bright", "clip_0.mp4,dark"))
    assert main([*own, "--folds", "3" if change == "number" else "2"]) == 2
    assert "holds other folds" in capsys.readouterr().err
