import pytest

from dust.utils.meters import TestMeter, TrainMeter, ValMeter


def lines(monkeypatch):
    written = []
    monkeypatch.setattr("dust.utils.meters.log_json_stats", lambda logger, stats: written.append(stats))
    return written


def test_epoch_values_are_sample_weighted_and_iteration_values_window_medians(monkeypatch):
    written = lines(monkeypatch)
    meter = TrainMeter(iters_per_epoch=4, max_epoch=2, log_period=2)
    for iteration, (loss, samples) in enumerate([(4.0, 3), (2.0, 3), (1.0, 3), (8.0, 1)]):
        meter.update({"loss": loss}, lr=0.1, samples=samples)
        meter.log_iter(0, iteration)
    assert [line["loss"] for line in written] == [3.0, 4.5]
    assert [line["iter"] for line in written] == ["2/4", "4/4"]
    assert meter.log_epoch(0)["loss"] == pytest.approx((4 * 3 + 2 * 3 + 1 * 3 + 8) / 10)


def test_an_epoch_that_begins_with_clips_that_cannot_be_read_has_its_lines(monkeypatch):
    written = lines(monkeypatch)
    meter = TrainMeter(iters_per_epoch=2, max_epoch=1, log_period=1)
    meter.watch.dt_net = 2.0
    meter.log_iter(0, 0)
    meter.update({"loss": 4.0}, lr=0.1, samples=1)
    meter.log_iter(0, 1)
    assert written[0]["dt"] == 2.0 and written[0]["eta"] == "0:00:02" and "loss" not in written[0]
    assert written[1]["loss"] == 4.0 and written[1].keys() - written[0].keys() == {"loss"}


def test_a_value_that_comes_now_and_then_is_averaged_over_when_it_came():
    meter = TrainMeter(4, 1, 10)
    meter.update({"loss": 1.0}, 0.1, 2)
    meter.update({"loss": 3.0, "grad_norm": 5.0}, 0.1, 2)
    assert meter.means() == {"loss": 2.0, "grad_norm": 5.0}


def test_an_epoch_cut_in_two_has_the_same_means():
    whole, first, second = (TrainMeter(2, 1, 10) for _ in range(3))
    for meter in (whole, first):
        meter.update({"loss": 1.0, "top1_err": 50.0}, 0.1, 4)
    second.load_state_dict(first.state_dict())
    for meter in (whole, second):
        meter.update({"loss": 4.0, "top1_err": 25.0}, 0.1, 2)
    assert second.means() == whole.means()


def test_validation_keeps_the_least_errors_and_tests_write_strings(monkeypatch):
    written = lines(monkeypatch)
    meter = ValMeter(max_epoch=3, log_period=1)
    for epoch, accuracy in enumerate((70.0, 90.0, 80.0)):
        meter.log_epoch(epoch, {"top1_acc": accuracy, "macro_f1": 1.0})
    assert [line["top1_err"] for line in written] == [30.0, 10.0, 20.0]
    assert [line["min_top1_err"] for line in written] == [30.0, 10.0, 10.0]
    TestMeter(log_period=1).log_final({"top1_acc": 77.94999})
    assert written[-1] == {"split": "test_final", "top1_acc": "77.95"}
