"""Evaluations on several processes, whose records go to files: the same results, whole or not there."""

import json

import pytest

from dust.engine.run_dir import RECORDS, RunDir
from dust.engine.test import run_stage as run_test
from dust.engine.train import run_stage as train
from dust.utils import records
from tests.processes import zygote
from tests.runs import words

#: Every record goes to a file at once.
TO_FILES = "import dust.utils.records\ndust.utils.records.HELD_BYTES = 0\n"
#: The first process is killed as it begins to write the results.
KILLED = """
import os, signal
import dust.engine.test
dust.engine.test.Test._write_results = lambda self, *all: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, clips):
    from dust.config import load_config
    from tests.runs import TINY

    out = tmp_path_factory.mktemp("trained")
    values = {**TINY, "DATA.PATH_TO_DATA_DIR": str(clips), "OUTPUT_DIR": str(out), "SOLVER.MAX_EPOCH": 1}
    train(load_config(None, values), RunDir(out))
    return out / "checkpoints" / "checkpoint_epoch_00001.pyth"


def results_of(out):
    """The bytes of all result files; of the report all but what names the configuration."""
    files = {path.name: path.read_bytes() for path in (out / "results").iterdir() if path.suffix in (".csv", ".json")}
    report = json.loads(files.pop("test.json"))
    report.pop("config_sha256")
    return files, json.dumps(report)


def started(clips, out, trained, load, count=2):
    load.parent.mkdir(exist_ok=True)
    keys = {"TRAIN__ENABLE": False, "TEST__CHECKPOINT_FILE_PATH": str(trained), "TEST__CALIBRATE": True}
    more = {"NUM_PROCS_PER_NODE": count, "TEST__VIEW_METRICS": True}
    return zygote().start(words(clips, out, **keys, **more), load=str(load))


def test_an_evaluation_in_files_is_one_in_memory(tiny, trained, monkeypatch):
    keys = {"TEST__CHECKPOINT_FILE_PATH": str(trained), "TEST__CALIBRATE": True}
    held, filed = tiny("held", **keys), tiny("filed", **keys)
    metrics = run_test(held, RunDir(held.OUTPUT_DIR))
    monkeypatch.setattr(records, "HELD_BYTES", 0)
    assert run_test(filed, RunDir(filed.OUTPUT_DIR)) == metrics
    assert results_of(RunDir(filed.OUTPUT_DIR).path) == results_of(RunDir(held.OUTPUT_DIR).path)
    assert not (RunDir(filed.OUTPUT_DIR).path / RECORDS).exists(), "nothing of them is left"


@pytest.mark.slow
def test_any_number_of_processes_writes_the_same_results(clips, trained, tmp_path):
    """4 clips on 1, 2 and 3 processes, the last of two kinds of records."""
    load = tmp_path / "load.py"
    load.write_text(TO_FILES)
    found = {}
    for count in (1, 2, 3):
        run = started(clips, tmp_path / str(count), trained, load, count)
        assert run.wait() == 0, run.said[-3000:]
        found[count] = results_of(tmp_path / str(count))
        assert not (tmp_path / str(count) / RECORDS).exists()
    assert found[1] == found[2] == found[3]
    assert "calibration.json" in found[1][0] and "predictions.csv" in found[1][0]


@pytest.mark.slow
def test_what_a_killed_test_leaves_is_no_result(clips, trained, tmp_path):
    load, out = tmp_path / "load.py", tmp_path / "run"
    load.write_text(TO_FILES + KILLED)
    assert started(clips, out, trained, load).wait() != 0
    assert list((out / RECORDS).rglob("*.records")) and not (out / "results").exists()
    load.write_text(TO_FILES)
    again, whole = started(clips, out, trained, load), started(clips, tmp_path / "whole", trained, load)
    assert (again.wait(), whole.wait()) == (0, 0), again.said[-3000:]
    assert results_of(out) == results_of(tmp_path / "whole") and not (out / RECORDS).exists()


@pytest.mark.slow
def test_records_that_cannot_be_written_end_all_processes_with_one_sentence(clips, trained, tmp_path):
    load, out = tmp_path / "load.py", tmp_path / "run"
    load.write_text(TO_FILES)
    out.mkdir()
    (out / RECORDS).write_text("in the way")
    run = started(clips, out, trained, load)
    assert run.wait() == 2
    errors = [line for line in run.said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "the records of the evaluation cannot be written" in errors[0], run.said[-3000:]
    assert "Traceback" not in run.said and not (out / "results").exists()
