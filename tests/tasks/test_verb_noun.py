"""Verbs, nouns and actions against ranking all pairs one clip after the other."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dust.tasks.task import DataInfo
from dust.tasks.verb_noun import VerbNoun
from dust.utils.errors import ConfigError
from tests.helpers import csv_dicts

V, N = 7, 9
NAMES = [*(f"verb:{i}" for i in range(V)), *(f"noun:{i}" for i in range(N))]
CLIPS = 60


def clips(views=1):
    torch.manual_seed(0)
    for index in range(CLIPS):
        outputs = {"verb": 2 * torch.randn(views, V), "noun": 2 * torch.randn(views, N)}
        label = {"verb": int(torch.randint(V, ())), "noun": int(torch.randint(N, ()))}
        for kind, value in label.items():
            outputs[kind][:, value] += 2
        yield {"id": f"c{index}", "path": f"c{index}.MP4", "label": label, "outputs": outputs}


def measured(actions=(), views=1, **arguments):
    evaluation = VerbNoun(class_names=NAMES, num_verbs=V, actions=actions, **arguments).evaluation("test")
    for record in clips(views):
        evaluation.update(record)
    return evaluation


def rank(score, of):
    return sorted(score, key=score.get, reverse=True).index(of)


def test_three_rules_against_all_pairs_in_turn():
    seen = [(v, n) for v, n in product(range(V), range(N)) if (v * n + v) % 3]
    metrics = measured(seen).metrics()
    right = {key: [] for key in ("action", "action_seen", "action_both")}
    for record in clips():
        p = {kind: record["outputs"][kind][0].double().softmax(0).tolist() for kind in ("verb", "noun")}
        pair = (record["label"]["verb"], record["label"]["noun"])
        score = {(v, n): p["verb"][v] * p["noun"][n] for v, n in product(range(V), range(N))}
        right["action"].append(rank(score, pair))
        right["action_seen"].append(rank({key: score[key] for key in seen}, pair) if pair in seen else 99)
        right["action_both"].append(
            max(rank(dict(enumerate(p["verb"])), pair[0]), rank(dict(enumerate(p["noun"])), pair[1]))
        )
    for name, ranks in right.items():
        for k in (1, 5):
            assert metrics[f"{name}_top{k}_acc"] == pytest.approx(100 * np.mean([r < k for r in ranks])), (name, k)
    assert metrics["action_top1_acc"] == metrics["action_both_top1_acc"] < metrics["action_top5_acc"]
    assert metrics["action_top5_acc"] < metrics["action_both_top5_acc"]
    assert set(metrics) == {
        f"{kind}_top{k}_acc" for kind in ("verb", "noun", "action", "action_seen", "action_both") for k in (1, 5)
    }


def test_an_action_that_training_never_saw_is_wrong_among_those_seen():
    evaluation = VerbNoun(class_names=NAMES, num_verbs=V, actions=[[0, 0], [1, 1]]).evaluation("test")
    outputs = {"verb": torch.eye(V)[:1] * 9, "noun": torch.eye(N)[1:2] * 9}
    evaluation.update({"id": "a", "path": "a", "label": {"verb": 0, "noun": 1}, "outputs": outputs})
    metrics = evaluation.metrics()
    assert (metrics["action_top1_acc"], metrics["action_seen_top1_acc"], metrics["action_seen_top5_acc"]) == (100, 0, 0)
    assert "action_seen_top1_acc" not in measured().metrics()


def test_views_are_averaged():
    twice = measured(views=3, ensemble_space="probs")
    for record, own in zip(clips(3), twice.records(), strict=True):
        mean = record["outputs"]["noun"].double().softmax(1).mean(0)
        np.testing.assert_allclose(own["noun"], mean, atol=1e-6)


def test_losses_and_statistics():
    task = VerbNoun(class_names=NAMES, num_verbs=V, label_smoothing=0.1)
    outputs = {"verb": torch.randn(4, V), "noun": torch.randn(4, N)}
    label = {"verb": torch.tensor([0, 1, 2, 3]), "noun": torch.tensor([8, 7, 6, 5])}
    losses = task.losses(outputs, {"label": label})
    cross_entropy = torch.nn.functional.cross_entropy
    for kind in ("verb", "noun"):
        torch.testing.assert_close(
            losses[f"{kind}_loss"], cross_entropy(outputs[kind], label[kind], label_smoothing=0.1)
        )
    outputs["verb"] = torch.eye(V)[[0, 1, 2, 6]]
    soft = {"verb": 0.6 * torch.eye(V)[:4] + 0.4 * torch.eye(V)[1:5], "noun": torch.eye(N)[[8, 7, 6, 5]]}
    assert task.stats(outputs, {"label": label})["verb_top1_err"] == 25.0
    assert task.stats(outputs, {"label": soft})["verb_top1_err"] == 25.0


def test_files(tmp_path):
    evaluation = measured()
    (path,) = evaluation.write(tmp_path)
    rows = csv_dicts(path)
    first = next(clips())
    assert rows[0]["verb"] == f"verb:{first['label']['verb']}" and len(rows) == CLIPS
    assert rows[0]["noun_prediction"] == f"noun:{first['outputs']['noun'][0].argmax()}"
    unlabelled = VerbNoun(class_names=NAMES, num_verbs=V).evaluation("test")
    unlabelled.update({**first, "label": None})
    assert unlabelled.metrics() == {} and unlabelled.write(tmp_path)


def test_what_the_configuration_and_the_data_say():
    cfg = SimpleNamespace(
        CAST=SimpleNamespace(NUM_VERBS=V, NUM_NOUNS=N), MODEL=SimpleNamespace(LABEL_SMOOTHING=0.1),
        DATA=SimpleNamespace(ENSEMBLE_METHOD="sum"), TEST=SimpleNamespace(ENSEMBLE_SPACE="probs"),
    )  # fmt: skip
    task = VerbNoun(**VerbNoun.from_config(cfg, DataInfo(NAMES)))
    assert (len(task.names["verb"]), len(task.names["noun"])) == (V, N)
    assert task.label_classes == {"verb": V, "noun": N}
    with pytest.raises(ConfigError, match="the data name 3 classes, CAST.NUM_VERBS 7 and CAST.NUM_NOUNS 9 make 16"):
        VerbNoun.from_config(cfg, DataInfo(["a", "b", "c"]))
