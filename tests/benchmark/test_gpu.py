"""The script for a GPU machine, on a CPU: every stage runs, deadlines hold, and limits are judged. No times."""

import importlib
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from dust.benchmark.gpu import loop, process, right, speed
from dust.benchmark.gpu.plan import BUDGET_S, STAGES, Bench, Row, chosen, deadlines
from dust.benchmark.gpu.speed import RECIPES, config, plain_attention
from dust.benchmark.in_memory import BATCHES
from dust.benchmark.model import count_flops, random_batch
from dust.engine.backends import Backends
from dust.models import build_model
from dust.tasks import build_task
from dust.tasks.task import DataInfo
from dust.utils.errors import DustError
from tests.benchmark.commands import main, run_tool
from tests.helpers import ROOT

CPU = torch.device("cpu")
#: Those that train, or compile.
LONG = ("resume", "loop", "models", "compiled", "step", "keys", "several", "answers")


@pytest.fixture(autouse=True)
def kernels():
    """A stage chooses kernels for its process, which here goes on."""
    yield
    Backends().use(CPU)


def rows_of(name, tmp_path, device="cpu"):
    (stage,) = chosen(names=name)
    module, _, function = stage.function.partition(":")
    found = getattr(importlib.import_module(f"dust.benchmark.gpu.{module}"), function)
    return list(found(Bench(device, False, tmp_path, time.monotonic() + 1000)))


@pytest.mark.parametrize(
    "name", [pytest.param(one.name, marks=[pytest.mark.slow] * (one.name in LONG)) for one in STAGES]
)
def test_every_stage_runs_on_a_cpu(name, tmp_path, monkeypatch):
    monkeypatch.setenv(BATCHES, "1")  # whatever the stage sets is undone
    rows = rows_of(name, tmp_path)
    assert rows and all(json.dumps(row.as_dict(), allow_nan=False) for row in rows)
    assert [row.what for row in rows if row.verdict == "FAILED"] == []
    numbers = [row.measured for row in rows if row.unit in ("ms", "GB/s", "TFLOP/s", "x")]
    assert all(isinstance(number, float) and number == number for number in numbers)
    if name in ("parity", "determinism", "resume", "attention"):
        assert any(row.verdict == "ok" for row in rows)


def test_a_wrong_device_is_found(tmp_path, monkeypatch):
    """A model whose numbers differ, a gradient that is lost, and bits that vary all fail."""
    small, calls = right._small, []

    def altered(name, arguments, device):
        model = small(name, arguments, device)
        calls.append(name)
        if len(calls) % 2 == 0:  # the device's
            with torch.no_grad():
                next(iter(model.parameters())).mul_(1.5)
        return model

    monkeypatch.setattr(right, "_small", altered)
    assert {row.verdict for row in rows_of("parity", tmp_path) if "TemporalEncoder" in row.what} == {"FAILED"}
    assert all(row.verdict == "FAILED" for row in rows_of("determinism", tmp_path))

    def frozen(name, arguments, device):
        model = altered(name, arguments, device)
        if len(calls) % 2 == 0:
            next(iter(model.parameters())).requires_grad_(False)
        return model

    monkeypatch.setattr(right, "_small", frozen)
    lost = [row for row in rows_of("parity", tmp_path) if "one of them only" in row.what]
    assert len(lost) == 3 and {row.verdict for row in lost} == {"FAILED"}


def test_a_case_that_fails_costs_itself_alone():
    def rows():
        yield Row("one", 1.0)
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    found = [*speed.guarded("a case", rows()), *speed.guarded("another", [Row("two", 2.0)])]
    assert [(row.what, row.measured) for row in found] == [
        ("one", 1.0), ("a case", "OutOfMemoryError: CUDA out of memory."), ("two", 2.0),
    ]  # fmt: skip
    assert [row.verdict for row in found] == ["", "FAILED", ""]


def test_a_limit_is_kept_or_not():
    assert Row("", 0.9, at_most=1).verdict == "ok" and Row("", 1.1, at_most=1).verdict == "FAILED"
    assert Row("", 41.0, at_least=40).verdict == "ok" and Row("", 39.0, at_least=40).verdict == "FAILED"
    assert Row("", 5.0).verdict == "" and Row("", 4, at_most=4, at_least=4).limit == "<= 4 >= 4"
    for nothing in (None, float("nan"), "no kernel"):
        assert Row("", nothing, at_most=1).verdict == "FAILED"
    assert Row("", float("nan")).as_dict()["measured"] == "nan"
    assert Bench("cuda", True, None, 0.0).speed("", 2.0, "ms", at_most=1.0).verdict == "FAILED"
    assert Bench("cpu", False, None, 0.0).speed("", 2.0, "ms", at_most=1.0).verdict == ""


def test_recurrent_layers_can_go_backward_on_cuda():
    """cuDNN refuses it in eval mode; without dropout both modes compute the same."""
    lstm = torch.nn.LSTM(3, 4, num_layers=2, dropout=0.5)
    model = right.for_gradients(torch.nn.Sequential(lstm, torch.nn.Dropout()))
    assert lstm.training and lstm.dropout == 0 and not model.training and not model[1].training
    x = torch.randn(5, 1, 3)
    torch.testing.assert_close(lstm(x), lstm.eval()(x))


def test_tests_are_small_enough_to_travel():
    """A GPU machine is often without a network: the checkout goes there with PyAV's wheel (36 MB), 64 MB in all."""
    files = [path for path in (ROOT / "tests" / "data").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) < 22e6


def test_each_part_fits_its_budget():
    for part in (1, 2, 3):
        assert sum(stage.seconds for stage in chosen(part)) == BUDGET_S
    assert sum(deadlines(chosen(1), 100).values()) == pytest.approx(100)
    assert len({stage.name for stage in STAGES}) == len(STAGES)


def test_the_plan_says_what_would_be_done(tmp_path, capsys):
    result, text = run_tool(tmp_path, capsys, "gpu", "--plan", "--part", "2", "--budget", "100")
    assert [row["stage"] for row in result["figures"]] == [stage.name for stage in chosen(2)]
    assert result["settings"] == {"budget_s": 100} and "Nothing was run" in text
    assert abs(sum(row["seconds"] for row in result["figures"]) - 100) <= len(chosen(2))
    assert "--budget 100 is less than the 250 s" in text


@pytest.mark.parametrize(
    "words, message",
    [
        (["gpu"], "--out DIR"),
        (["gpu", "--plan", "--stages", "parity,speeed"], "--stages speeed: the stages are machine"),
        (["gpu", "--plan", "--stages", ""], "--stages : the stages are machine"),
        (["gpu", "--plan", "--budget", "-1"], "--budget -1"),
        (["gpu", "--out", "/dev/null/x"], "--out /dev/null/x: cannot be written"),
    ],
)
def test_what_cannot_be_is_refused(capsys, words, message):
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what is not there")
def test_without_a_gpu_cuda_is_refused(tmp_path):
    with pytest.raises(DustError, match="finds no CUDA device"):
        process.benchmark_gpu(tmp_path, device="cuda")


@pytest.mark.slow
def test_stages_are_processes_with_deadlines(tmp_path, capsys):
    """What a stage found before it was ended stands in the file; the next one runs; the command fails."""
    out = tmp_path / "out"
    assert main(["gpu", "--out", str(out), "--device", "cpu", "--stages", "patches", "--budget", "100"]) == 0
    assert "Conv3d / product" in capsys.readouterr().out
    assert main(["gpu", "--out", str(out), "--device", "cpu", "--stages", "machine", "--budget", "1"]) == 1
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["patches"] * 4 + ["machine"]
    assert lines[-1]["measured"] == "ended at its deadline of 1 s" and lines[-1]["verdict"] == "FAILED"
    table = capsys.readouterr().out
    assert "Conv3d / product" in table and "ended at its deadline" in table  # of both runs, in the order of the plan
    assert table.index("ended at its deadline") < table.index("Conv3d / product")


def test_a_stage_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(process.sys, "executable", "/bin/false")
    asked = {"stage": "machine", "folder": str(tmp_path), "seconds": 5}
    ended = process._run_stage(chosen(names="machine")[0], asked)
    assert ended["verdict"] == "FAILED" and ended["measured"] == "exit code 1: it said nothing"


def test_a_stage_is_ended_with_its_workers(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path}/worker\nwait\n")
    script.chmod(0o755)
    monkeypatch.setattr(process.sys, "executable", str(script))
    asked = {"stage": "machine", "folder": str(tmp_path), "seconds": 0.5}
    ended = process._run_stage(chosen(names="machine")[0], asked)
    assert ended["verdict"] == "FAILED" and "deadline" in ended["measured"]
    worker = int((tmp_path / "worker").read_text())
    for _ in range(200):  # a dead process without a parent stays a zombie until somebody reaps it
        status = Path(f"/proc/{worker}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    pytest.fail("the worker lives on")


def test_plain_attention_is_attention():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 7, 8, dtype=torch.float64) for _ in range(3))
    for mask in (None, torch.randn(2, 1, 7, 7, dtype=torch.float64), torch.rand(2, 1, 7, 7) < 0.8):
        wanted = F.scaled_dot_product_attention(query, key, value, mask)
        torch.testing.assert_close(plain_attention(query, key, value, mask), wanted)


@pytest.mark.parametrize("name", ["TimeSformer-B", "VideoMAE-B", "VideoSwin-T", "CAST-B"])
def test_full_sizes_are_what_they_are_called(name, tmp_path):
    """Of a trained model the backward is two forwards; CAST's experts are frozen, which spares it some."""
    cfg = config(Bench("cpu", True, tmp_path, 0.0), name)
    assert cfg.TRAIN.AMP_DTYPE == "bfloat16" and cfg.TRAIN.MIXED_PRECISION and cfg.MODEL.NUM_CLASSES == 400
    assert (224, 8 if name == "TimeSformer-B" else 16) == (cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.NUM_FRAMES)
    with torch.device("meta"):
        model = build_model(cfg)
    classes = DataInfo([str(index) for index in range(400)])
    forward = count_flops(model, build_task(cfg, classes), random_batch(cfg, 1, CPU)["inputs"]) / 1e9
    forwards = RECIPES[name].gflop / forward
    assert forwards == pytest.approx(2.49 if name == "CAST-B" else 3, rel=0.01)


def test_synchronisations_are_told_by_their_place(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)

    def wait():
        speed.warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        # what torch says when its warnings are switched on
        speed.warnings.warn("a prototype feature and does not yet detect all synchronizing operations", stacklevel=1)

    (place,) = speed.synchronisations(wait, torch.device("cuda"))
    assert place.startswith(__file__)


class FakeEvent:
    """Of a device on which everything takes 100 ms."""

    def __init__(self, enable_timing=False):
        assert enable_timing

    def record(self):
        pass

    def elapsed_time(self, other):
        return 100.0


@pytest.fixture
def cuda(monkeypatch):
    """What the stages ask CUDA for, without one."""
    answers = {"synchronize": None, "reset_peak_memory_stats": None, "max_memory_allocated": 3 * 2**30}
    answers |= {
        "empty_cache": None,
        "set_sync_debug_mode": None,
        "get_device_name": "NVIDIA H200",
        "is_available": True,
    }
    answers["memory_allocated"] = 2**20
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *given, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    return torch.device("cuda")


@pytest.mark.filterwarnings("ignore:called a synchronizing")
def test_a_step_on_a_gpu_is_judged(cuda, tmp_path):
    class Step:
        device, clips = cuda, 32

        def __call__(self):
            speed.warnings.warn("called a synchronizing CUDA operation", stacklevel=2)

    bench = Bench("cuda", True, tmp_path, 0.0)
    rows = {row.what: row for _, row in speed.timed(bench, "it", "TimeSformer-B", Step(), "60", at_least=40.0)}
    assert rows["it: step"].measured == 100 and rows["it: step"].expected == "60; 320 clips/s"
    mfu = rows["it: MFU"]  # 32 x 1173.1 GFLOP in 0.1 s, of 790 TFLOP/s
    assert mfu.measured == pytest.approx(47.5, abs=0.05) and mfu.verdict == "ok" and mfu.expected == "floor 47.5 ms"
    assert rows["it: most memory"].measured == 3 and rows["it: synchronisations in a step"].measured == 1
    speed.release(cuda)
    assert speed.reached_flops() == 790e12


def test_the_loops_waits_are_counted_between_log_lines(cuda, tmp_path, monkeypatch):
    def trained(cfg, probe):
        for number in range(1, 41):
            if number % 10 == 0 or number in (15, 25):  # a log line, which may wait, or not
                speed.warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            probe.after_step(None, None)

    monkeypatch.setattr(loop, "_trained", trained)
    bench = Bench("cuda", True, tmp_path, 0.0)
    rows = list(loop._loop_rows(bench, "the loop", 0.0, None))
    (waits,) = (row for row in rows if "synchronisations" in row.what)
    assert waits.measured == pytest.approx(2 / 27) and waits.verdict == "FAILED"  # of the batches 11 to 40, less three
    assert waits.expected.startswith("test_gpu.py:") and waits.expected.endswith(" 2x")
    assert rows[-1].what.endswith("memory more after 40 batches") and rows[-1].verdict == "ok"


def test_workers_fit_cores_and_shared_memory(tmp_path, monkeypatch):
    bench = Bench("cuda", True, tmp_path, 0.0)
    monkeypatch.setattr(loop, "usable_cores", lambda: 16)
    for free, number in ((2**30, 8), (4 * 3 * loop.BATCH_BYTES, 4), (2**26, 0)):
        monkeypatch.setattr(loop.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert loop.workers(bench, 8) == number
    monkeypatch.setattr(loop, "SHARED_MEMORY", tmp_path / "none")
    assert loop.workers(bench, 64) == 15 and loop.workers(Bench("cpu", False, tmp_path, 0.0), 64) == 0


def test_the_pause_of_a_save_is_told_from_the_steps_around_it(tmp_path):
    # a save after every third batch: its batch takes 1.5 s instead of 1 s, the one behind it 1.1 s
    probe = loop.Probe(stamps=[0.0])
    for number in range(2, 13):
        probe.stamps.append(probe.stamps[-1] + {0: 1.5, 1: 1.1, 2: 1.0}[number % 3])
    row = loop._pause(Bench("cuda", True, tmp_path, 0.0), "it", probe, 3)
    assert row.measured == pytest.approx(0.6)


def test_a_torn_line_costs_itself_not_the_table(tmp_path):
    row = dict.fromkeys(("unit", "expected", "limit", "verdict"), "") | {"what": "x", "measured": 1}
    row |= {"stage": "machine", "run": "r"}
    lines = [json.dumps(row), json.dumps({**row, "stage": "of another version"}), "[1]", json.dumps(row)[:40]]
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    assert [one["what"] for one in process.read_rows(tmp_path / "results.jsonl", {"machine"}, "r")] == ["x"]
