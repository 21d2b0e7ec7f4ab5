import json

import numpy as np
import pytest
import torch

from dust.config import load_config
from dust.tasks import build_task
from dust.tasks.classification import Classification, ClassificationEvaluation
from dust.tasks.task import DataInfo, metric_names
from tests.helpers import csv_dicts

NAMES = ["left", "right", "up"]


def evaluation(**kwargs):
    return Classification(class_names=NAMES, **kwargs).evaluation("test")


def record(index, label, outputs):
    return {"id": f"clip{index}", "path": f"/x/clip {index}.mp4", "label": label, "outputs": outputs}


def test_summed_logits_rank_as_the_sum_and_give_the_mean_views_probabilities():
    views = torch.tensor([[1.0, 2.0, 0.0], [3.0, -1.0, 0.5]])
    scores, probabilities = evaluation().ensemble(views)
    torch.testing.assert_close(scores, views.sum(0))
    torch.testing.assert_close(probabilities, views.mean(0).softmax(0))


def test_probability_space_averages_softmaxes():
    views = torch.tensor([[1.0, 2.0, 0.0], [3.0, -1.0, 0.5]])
    scores, probabilities = evaluation(ensemble_space="probs").ensemble(views)
    torch.testing.assert_close(scores, views.softmax(1).sum(0))
    torch.testing.assert_close(probabilities, views.softmax(1).mean(0))


@pytest.mark.parametrize("space", ["logits", "probs"])
def test_a_temperature_softens_without_another_order(space):
    views, ours = torch.tensor([[1.0, 2.0, 0.0], [3.0, -1.0, 0.5]]), evaluation(ensemble_space=space)
    plain = ours.ensemble(views)
    ours.temperature = 2.5
    scores, soft = ours.ensemble(views)
    torch.testing.assert_close(scores, plain[0])
    torch.testing.assert_close(soft, (plain[1].log() / 2.5).softmax(0))
    several = evaluation(multi_label=True)
    several.temperature = 2.5
    torch.testing.assert_close(several.ensemble(views)[1], (views.mean(0) / 2.5).sigmoid())


def test_max_starts_below_every_logit():
    views = torch.tensor([[-5.0, -2.0, -3.0], [-4.0, -6.0, -3.5]])
    scores, _ = evaluation(ensemble_method="max").ensemble(views)
    assert scores.tolist() == [-4.0, -2.0, -3.0]


def test_views_are_also_measured_one_by_one():
    """Of two clips, one of three views and one of a single view: whole clips count alike, views count alike."""
    ours = evaluation(view_metrics=True, ensemble_space="probs")
    sure, unsure, wrong = [4.0, 0.0, 0.0], [0.0, 0.6, 0.5], [0.0, 0.0, 4.0]
    ours.update(record(0, 0, torch.tensor([sure, sure, unsure])))
    ours.update(record(1, 1, torch.tensor([wrong])))
    figures, intervals = ours.metrics(), ours.intervals({})
    assert figures["top1_acc"] == 50.0 and figures["view_top1_acc"] == 50.0
    assert figures["view_macro_f1"] == pytest.approx(100 * 0.8 / 3)
    assert intervals["view_top1_acc"].low <= 50.0 <= intervals["view_top1_acc"].high
    assert {"view_top1_acc", "view_macro_f1"} <= set(metric_names(ours))
    assert not any(name.startswith("view_") for name in evaluation().metric_names())


def test_files_of_a_single_label_test(tmp_path):
    torch.manual_seed(0)
    ours = evaluation()
    logits = torch.randn(20, 2, 3)
    for index in range(20):
        ours.update(record(index, index % 3, logits[index]))
    written = {path.name for path in ours.write(tmp_path)}
    assert written == {"predictions.csv", "per_class.csv", "confusion_matrix.png"}
    table = csv_dicts(tmp_path / "predictions.csv")
    assert list(table[0]) == ["id", "path", "label", "prediction", "prob_left", "prob_right", "prob_up"]
    expected = logits.mean(1).softmax(1)
    for index, row in enumerate(table):
        assert row["label"] == NAMES[index % 3]
        assert row["prediction"] == NAMES[int(expected[index].argmax())]
        assert float(row["prob_up"]) == pytest.approx(float(expected[index, 2]), rel=1e-4)
    assert ours.confusion_matrix().sum() == 20
    correct = np.trace(ours.confusion_matrix())
    assert ours.metrics()["top1_acc"] == pytest.approx(100 * correct / 20)
    json.dumps(ours.metrics())


def test_multi_label(tmp_path):
    ours = evaluation(multi_label=True, loss="bce_logit")
    for index in range(6):
        label = torch.zeros(3)
        label[index % 3] = label[0] = 1
        ours.update(record(index, label, (label[None] - 0.5) * 8))
    assert ours.metrics() == {"map": 100.0}
    ours.write(tmp_path)
    assert csv_dicts(tmp_path / "predictions.csv")[1]["prediction"] == "left,right"
    assert csv_dicts(tmp_path / "per_class.csv")[0]["f1"] == "1.0000"


def test_without_labels_there_are_predictions_but_no_metrics(tmp_path):
    ours = evaluation()
    ours.update(record(0, None, torch.randn(1, 3)))
    assert ours.metrics() == {}
    assert [path.name for path in ours.write(tmp_path)] == ["predictions.csv"]


def test_training_statistics_of_hard_and_mixed_targets():
    task = Classification(class_names=NAMES)
    logits = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0], [3.0, 0, 0]])
    assert task.stats(logits, {"label": torch.tensor([0, 1, 2, 1])}) == {"top1_err": 25.0}
    soft = torch.tensor([[0.6, 0.4, 0], [0.1, 0.9, 0], [0.7, 0, 0.3], [0, 0.6, 0.4]])
    assert task.stats(logits, {"label": soft}) == {"top1_err": 50.0}


def test_each_further_output_is_measured_beside_the_answer():
    task = Classification(class_names=NAMES)
    right, wrong = torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([[0.0, 5.0, 0.0]])
    outputs = {"logits": right, "series": wrong}
    batch = {"label": torch.tensor([0])}
    losses = task.losses(outputs, batch)
    assert losses["loss"] < 0.1 < 4 < losses["series_loss"]
    assert task.stats(outputs, batch) == {"top1_err": 0.0, "series_top1_err": 100.0}
    measured = task.evaluation("test")
    measured.update(record(0, 0, outputs))
    measured.update(record(1, 1, {"logits": wrong, "series": wrong}))
    metrics = measured.metrics()
    assert metrics["top1_acc"] == 100.0 and metrics["series_top1_acc"] == 50.0
    plain = task.evaluation("test")
    plain.update(record(0, 0, right))
    assert "series_top1_acc" not in plain.metrics()


def test_ten_thousand_classes(tmp_path, caplog):
    """No picture of a matrix that nobody could read, and a table that need not have a column for each class."""
    count = 10_000
    for top_k, columns in ((3, 4 + 2 * 3), (0, 4 + count)):
        names = [f"c{number}" for number in range(count)]
        one = ClassificationEvaluation(class_names=names, multi_label=False, method="sum", space="logits", top_k=top_k)
        logits = torch.zeros(1, count)
        logits[0, 7], logits[0, 5] = 3.0, 2.0
        one.update({"id": "a", "path": "a.mp4", "label": 5, "outputs": logits})
        written = {path.name for path in one.write(tmp_path)}
        assert written == {"predictions.csv", "per_class.csv"}
        (row,) = csv_dicts(tmp_path / "predictions.csv")
        assert len(row) == columns and (row["label"], row["prediction"]) == ("c5", "c7")
        assert ("TEST.PREDICTIONS_TOP_K 5" in caplog.text) == (not top_k)
        if top_k:
            assert [row["top_1"], row["top_2"], row["top_3"]] == ["c7", "c5", "c0"]
            assert float(row["prob_1"]) == pytest.approx(float(logits.softmax(1)[0, 7]), rel=1e-5)


def test_weights_by_name_fit_other_data(caplog):
    """A class that the data lacks has no weight; its name is said."""
    cfg = load_config(None, ["MODEL.CLASS_WEIGHTS", "[{cut: 2, stir: 0}]", "MODEL.NUM_CLASSES", "3"])
    task = build_task(cfg, DataInfo(["chop", "cut", "stir"], [1, 1, 1]))
    assert task.loss.class_weights.tolist() == [1.0, 2.0, 0.0] and "no class is called" not in caplog.text
    assert build_task(cfg, DataInfo(["a", "b", "c"], [1, 1, 1])).loss.class_weights is None
    assert "MODEL.CLASS_WEIGHTS: no class is called cut, stir" in caplog.text


def test_metrics_are_known_before_anything_is_measured():
    """Whatever metrics() gives is among the names, for each kind; a subclass that measures more says nothing."""
    for multi_label, classes in ((False, 6), (False, 2), (True, 6)):
        names = [str(number) for number in range(classes)]
        one = Classification(class_names=names, multi_label=multi_label).evaluation("val")
        label = torch.eye(classes)[0] if multi_label else 0
        one.update({"id": "a", "path": "a", "label": label, "outputs": torch.randn(1, classes)})
        assert set(one.metrics()) == {name for name in metric_names(one) if "*" not in name}

    class More(ClassificationEvaluation):
        def metrics(self):
            return {"mine": 1.0}

    assert metric_names(More(class_names=["a"], multi_label=False, method="sum", space="logits")) == ()
