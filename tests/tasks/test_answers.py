"""However records are kept, and by however many processes, an evaluation says and writes the same, to the last bit."""

import pickle

import numpy as np
import pytest
import torch

from dust.tasks import answers
from dust.tasks.classification import Classification
from dust.tasks.probe import ProbeGrid
from dust.tasks.verb_noun import VerbNoun
from dust.utils import records
from dust.utils.metrics import METRIC_REGISTRY, multilabel_metrics, per_class_report
from dust.utils.records import Records, joined_records
from dust.utils.statistics import mean_intervals

COUNT, K = 60, 6
NAMES = [f"c{number}" for number in range(K)]


def logits(number, views=2, width=K):
    return torch.randn(views, width, generator=torch.Generator().manual_seed(number)).mul(4).round()  # with ties


def record(number, label, outputs):
    label = None if number == 7 else label
    return {"id": f"clip {number}", "path": f"v{number // 4}.mp4", "label": label, "outputs": outputs}


def single(number):
    return record(number, number * number % 5, {"logits": logits(number), "series": logits(number + 1000)})


def several(number):
    return record(number, torch.tensor([float((number + k) % 3 == 0 and k != 1) for k in range(K)]), logits(number))


def verb_noun(number):
    outputs = {"verb": logits(number, width=3), "noun": logits(number, width=3)}
    return record(number, {"verb": number % 3, "noun": number % 2}, outputs)


def heads(number):
    grid = torch.stack([logits(number + 100 * head, 1) for head in range(3)], dim=1)
    return record(number, number % K, {"logits": grid[:, 0], "heads": grid})


CASES = {
    "single": (lambda: Classification(class_names=NAMES, view_metrics=True).evaluation("test"), single),
    "top 2": (lambda: Classification(class_names=NAMES, predictions_top_k=2).evaluation("test"), single),
    "multi-label": (lambda: Classification(class_names=NAMES, multi_label=True).evaluation("test"), several),
    "verbs and nouns": (
        lambda: VerbNoun(class_names=NAMES, num_verbs=3, actions=[(0, 0), (1, 1), (2, 1)]).evaluation("test"),
        verb_noun,
    ),
    "heads": (lambda: ProbeGrid(heads=list("abc"), class_names=NAMES).evaluation("val"), heads),
}


def all_it_says(evaluation, folder):
    folder.mkdir()
    evaluation.write(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".csv"}
    said = [evaluation.metrics(), evaluation.intervals({f"clip {n}": "a" for n in range(9)}), evaluation.report()]
    return repr([*said, evaluation.calibration(), len(evaluation.records())]), files


@pytest.mark.parametrize("case", CASES)
def test_files_and_processes_change_nothing(case, tmp_path, monkeypatch):
    make, sample = CASES[case]
    whole = make()
    for number in range(COUNT):
        whole.update(sample(number))
    whole.replace_records(whole.records())
    wanted = all_it_says(whole, tmp_path / "whole")
    monkeypatch.setattr(answers, "BLOCK_CELLS", 4 * K)
    monkeypatch.setattr(records, "HELD_BYTES", 1)
    for shares in ([60], [1, 0, 29, 30]):
        parts, condensed, number = [], [], 0
        for rank, count in enumerate(shares):
            one = make()
            one.collect_into(Records(tmp_path / f"{rank}.records", 0))
            for _ in range(count):
                one.update(sample(number))
                number += 1
            one.records().close()
            parts.append(one.records().part())
            condensed.append(pickle.loads(pickle.dumps(one.condensed())))
        joined = make()
        joined.join(joined_records(parts), condensed)
        assert all_it_says(joined, tmp_path / f"{len(shares)} files") == wanted


def test_several_labels_of_many_clips_are_measured_some_classes_at_a_time(monkeypatch):
    make, sample = CASES["multi-label"]
    evaluation = make()
    for number in range(COUNT):
        evaluation.update(sample(number))
    labelled = [one for one in evaluation.records() if one["label"] is not None]
    labels = np.array([one["label"] for one in labelled])
    assert evaluation.metrics() == multilabel_metrics(np.stack([one["scores"] for one in labelled]), labels)
    monkeypatch.setattr(answers, "MOST_CELLS", 2 * COUNT)
    pieces = list(answers.by_class(lambda: labelled, lambda one: one["scores"], K))
    assert [piece.shape[1] for piece, _ in pieces] == [2, 2, 2]
    assert evaluation.metrics() == multilabel_metrics(np.stack([one["scores"] for one in labelled]), labels)
    said = np.stack([one["probabilities"] for one in labelled]) >= 0.5
    report = answers.multilabel_report(lambda: labelled, K)
    for name, column in per_class_report(said.astype(int), labels.astype(int), K).items():
        np.testing.assert_array_equal(report[name], column)


def test_what_is_left_out_of_a_very_large_test_is_said(monkeypatch, caplog):
    make, sample = CASES["multi-label"]
    evaluation = make()
    for number in range(COUNT):
        evaluation.update(sample(number))
    monkeypatch.setattr("dust.tasks.classification_evaluation.MOST_CELLS", COUNT * K - 1)
    assert evaluation.intervals({}) == {} and evaluation.report() == {}
    assert "60 clips x 6 classes: more than 359 scores, no intervals of several labels" in caplog.text
    monkeypatch.setattr(answers, "MOST_GROUPS", 10)
    for case in ("single", "verbs and nouns"):
        make, sample = CASES[case]
        evaluation = make()
        for number in range(COUNT):
            evaluation.update(sample(number))
        assert evaluation.intervals({}) == {} and evaluation.metrics()
        assert evaluation.intervals({f"clip {n}": "a" if n % 2 else "b" for n in range(COUNT)}), "few groups"
    assert "more than 10 groups of clips: the figures get no intervals" in caplog.text


def test_groups_are_numbered_by_their_names_across_blocks():
    numbers = answers.group_numbers([["a", "b"], ["b", "c", "a"]])
    assert numbers.tolist() == [0, 1, 1, 2, 0]
    values = np.array([1.0, 0, 0, 1, 1])
    assert mean_intervals(values, numbers) == mean_intervals(values, list("abbca"))


@METRIC_REGISTRY.register()
def sum_of_answers(scores, labels):
    return float(scores.sum()) + float(labels.sum())


def test_a_metric_of_the_users_own_sees_all_scores(tmp_path):
    evaluation = Classification(class_names=NAMES, metrics=["sum_of_answers"]).evaluation("test")
    evaluation.collect_into(Records(tmp_path / "0.records", 0))
    for number in range(20):
        evaluation.update(single(number))
    scores = np.stack([one["scores"] for one in evaluation.records() if one["label"] is not None])
    labels = [one["label"] for one in evaluation.records() if one["label"] is not None]
    assert evaluation.metrics()["sum_of_answers"] == float(scores.sum()) + sum(labels)
