"""The command line as a person meets it: exit codes, one clear line per error, nothing lost."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from dust.engine import run_net
from dust.utils.checkpoint import save_checkpoint
from tests.processes import KILL, until
from tests.runs import start, words


def test_train_and_test_in_one_command(clips, tmp_path, capsys):
    assert run_net.main(words(clips, tmp_path / "my run")) == 0
    report = json.loads((tmp_path / "my run" / "results" / "test.json").read_text())
    assert report["counts"]["samples"] == 4
    log = (tmp_path / "my run" / "stdout.log").read_text()
    assert '"split": "test_final"' in log and "TimeSformer <- dust/models/timesformer.py:" in log
    assert (tmp_path / "my run" / "classes.txt").read_text().split() == ["bright", "dark"]


def test_several_files_run_in_order(clips, tmp_path):
    """The first trains, the second tests what the first wrote, each in its folder; overrides hold for both."""
    (tmp_path / "learn.yaml").write_text("TEST:\n  ENABLE: False\n")
    (tmp_path / "look.yaml").write_text("TRAIN:\n  ENABLE: False\nTEST:\n  CHECKPOINT_FILE_PATH: learn\n")
    files = ["--cfg", str(tmp_path / "learn.yaml"), str(tmp_path / "look.yaml")]
    assert run_net.main([*files, *words(clips, tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "learn" / "checkpoints" / "checkpoint_epoch_00001.pyth").exists()
    assert (tmp_path / "run" / "look" / "results" / "test.json").exists()


def test_finished_stages_are_not_run_again(clips, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("LOG_PERIOD: 1\n")
    (tmp_path / "b.yaml").write_text("LOG_PERIOD: 1\nRNG_SEED: 9\n")
    argv = ["--cfg", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), *words(clips, tmp_path / "run")]
    argv = argv[: argv.index("RNG_SEED")] + argv[argv.index("RNG_SEED") + 2 :]
    assert run_net.main(argv) == 0
    assert "finished already" not in capsys.readouterr().out
    first, second = (tmp_path / "run" / stem / "results" / "test.json" for stem in "ab")
    before = first.stat().st_mtime_ns
    second.unlink()
    assert run_net.main(argv) == 0
    assert capsys.readouterr().out.count("finished already") == 1
    assert first.stat().st_mtime_ns == before and second.exists()
    assert run_net.main([*argv, "SOLVER.MAX_EPOCH", "2"]) == 0
    assert "finished already" not in capsys.readouterr().out


def test_two_stages_of_one_name_are_refused(clips, tmp_path, capsys):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.yaml").write_text("LOG_PERIOD: 1\n")
    files = ["--cfg", str(tmp_path / "x" / "same.yaml"), str(tmp_path / "y" / "same.yaml")]
    assert run_net.main([*files, *words(clips, tmp_path / "run")]) == 2
    assert "two configurations are called same" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["SOLVER.BASE_LRR", "1"], "SOLVER.BASE_LR"),
        (["FEATURES.ENABLE", "True", "FEATURES.LAYER", "blocks.7"], "blocks.1"),
        (["FEATURES.ENABLE", "True", "FEATURES.CHECKPOINT_FILE_PATH", "stage1"], "stage1"),
        (["TRAIN.ENABLE", "False", "TEST.ENABLE", "False", "FEATURES.ENABLE", "True"], "nothing to extract"),
        (["MODEL.MODEL_NAME", "TimesFormer"], "TimeSformer"),
        (["MODEL.NUM_CLASSES", "7"], "NUM_CLASSES 2"),
        (["DATA.PATH_TO_DATA_DIR", "/nowhere"], "/nowhere"),
        (["TRAIN.CHECKPOINT_FILE_PATH", "/nowhere.pyth"], "/nowhere.pyth"),
        (["NUM_GPUS", "64"], "NUM_GPUS"),
    ],
)
def test_bad_input_is_one_clear_error(clips, tmp_path, capsys, extra, said):
    assert run_net.main([*words(clips, tmp_path / "run"), *extra]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and "Traceback" not in error


def test_a_poisoned_checkpoint_runs_nothing(clips, tmp_path, capsys):
    import pickle

    class Poison:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'canary'}",)

    (tmp_path / "poison.pyth").write_bytes(pickle.dumps({"model_state": Poison()}))
    for key in ("TRAIN.CHECKPOINT_FILE_PATH", "MODEL.PRETRAINED"):
        assert run_net.main([*words(clips, tmp_path / "run"), key, str(tmp_path / "poison.pyth")]) == 2
        assert "system" in capsys.readouterr().err
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "odd",
    [{"class_names": [1, 2]}, {"class_names": {"a": 1}}, {"class_names": "ab"}, {"fitted": [1]}, {"fitted": {1: 2}}],
)
def test_what_somebody_elses_checkpoint_says_of_its_classes_may_be_anything(clips, tmp_path, capsys, odd):
    save_checkpoint(tmp_path / "odd.pyth", {"model_state": {}, **odd})
    options = {"TRAIN__ENABLE": False, "TEST__CHECKPOINT_FILE_PATH": str(tmp_path / "odd.pyth")}
    assert run_net.main(words(clips, tmp_path / "run", **options)) == 2
    assert f"odd.pyth: its {next(iter(odd))} " in capsys.readouterr().err


def test_nor_may_it_have_classes_without_number(clips, tmp_path, capsys):
    save_checkpoint(tmp_path / "odd.pyth", {"model_state": {}, "cfg": "MODEL: {NUM_CLASSES: 99999999999}"})
    options = {"TRAIN__ENABLE": False, "TEST__CHECKPOINT_FILE_PATH": str(tmp_path / "odd.pyth")}
    for classes, said in ((-1, "odd.pyth: its MODEL.NUM_CLASSES is above 1,000,000"), (10**11, "at most 1000000")):
        assert run_net.main(words(clips, tmp_path / "run", MODEL__NUM_CLASSES=classes, **options)) == 2
        assert said in capsys.readouterr().err


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_is_refused_changes_nothing(clips, tmp_path, capsys):
    """Of what stood in the folder; the log says why it was refused."""
    out = tmp_path / "run"
    assert run_net.main(words(clips, out, TEST__ENABLE=False)) == 0
    before = contents(out)
    (tmp_path / "other.pyth").write_bytes(b"no checkpoint")
    refused = [
        {"SOLVER__BASE_LR": 0.5},
        {"TRAIN__AUTO_RESUME": False, "TRAIN__CHECKPOINT_FILE_PATH": str(tmp_path / "none.pyth")},
        {"TRAIN__AUTO_RESUME": False, "MODEL__PRETRAINED": str(tmp_path / "other.pyth")},
        {"TRAIN__AUTO_RESUME": False, "TRAIN__HOOKS": ["nobody"]},
        {"DATA__PATH_TO_DATA_DIR": str(tmp_path)},
        {"TRAIN__ENABLE": False, "TEST__CHECKPOINT_FILE_PATH": str(tmp_path / "none.pyth"), "TEST__ENABLE": True},
        {"TRAIN__ENABLE": False, "FEATURES__ENABLE": True, "FEATURES__LAYER": "nothing"},
    ]
    for more in refused:
        assert run_net.main(words(clips, out, **{"TEST__ENABLE": False, **more})) == 2, more
    after = contents(out)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {Path("stdout.log")}, capsys.readouterr().err


def test_a_job_that_is_queued_again_goes_on_with_what_it_began_anew(clips, tmp_path, monkeypatch):
    """TRAIN.AUTO_RESUME False means anew for the job, not for each of its lives: else a limit that is shorter than the
    training would never end it."""
    out = tmp_path / "run"
    argv = words(clips, out, TEST__ENABLE=False, TRAIN__EVAL_PERIOD=0)
    old = out / "checkpoints.old"
    assert run_net.main(argv) == 0
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    anew = [*argv, "TRAIN.AUTO_RESUME", "False", "RNG_SEED", "5", "SOLVER.MAX_EPOCH", "2"]
    assert run_net.main(anew) == 0 and len(list(old.iterdir())) == 2
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    log = out / "stdout.log"
    text = log.read_text()
    assert run_net.main(anew) == 0
    assert "epoch 2 of 2 is done" in log.read_text()[len(text) :] and not (out / "checkpoints.old.2").exists()
    monkeypatch.setenv("SLURM_JOB_ID", "78")  # another job, queued again before it had begun
    assert run_net.main(anew) == 0 and (out / "checkpoints.old.2").exists()
    assert run_net.main(anew) == 0 and (out / "checkpoints.old.3").exists(), "a second command of one life"


@pytest.mark.slow
def test_a_disk_that_fills_up_while_saving_keeps_the_checkpoint_before(zygote, clips, tmp_path):
    """A limit on file size stands for the full disk; the first checkpoint is there, the bigger second does not fit."""
    assert run_net.main([*words(clips, tmp_path / "run", TEST__ENABLE=False)]) == 0
    first = tmp_path / "run" / "checkpoints" / "checkpoint_epoch_00001.pyth"
    before = first.read_bytes()
    limit = len(before) // 2

    process = zygote.start(words(clips, tmp_path / "run", SOLVER__MAX_EPOCH=2), small_files=limit)
    _, error = process.communicate()
    assert process.returncode == 2, error
    assert "error: " in error and "Traceback" not in error
    assert first.read_bytes() == before
    assert not [path for path in first.parent.iterdir() if "tmp" in path.name]


@pytest.mark.slow
def test_ctrl_c_saves_and_the_next_start_goes_on(clips, tmp_path):
    argv = words(clips, tmp_path / "run", SOLVER__MAX_EPOCH=400, TRAIN__EVAL_PERIOD=0, TRAIN__CHECKPOINT_PERIOD=0)
    process = start([*argv, "DATA_LOADER.NUM_WORKERS", "2"], start_new_session=True)
    log = tmp_path / "run" / "stdout.log"
    deadline = time.monotonic() + 240
    while not (log.exists() and "train_epoch" in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, error = process.communicate(timeout=240)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    (saved,) = (tmp_path / "run" / "checkpoints").glob("*.pyth")
    number = int(saved.name.split("_")[2].split(".")[0])
    final = words(clips, tmp_path / "run", SOLVER__MAX_EPOCH=number + 1, TRAIN__EVAL_PERIOD=0)
    assert run_net.main(final) == 0
    assert f"resumed from {saved}" in log.read_text()


@pytest.mark.slow
def test_a_killed_run_is_taken_up_at_once(zygote, clips, tmp_path):
    """kill -9, then the same command: the workers that outlive the run for a moment do not hold its folder."""
    argv = words(clips, tmp_path / "run", SOLVER__MAX_EPOCH=400, TRAIN__EVAL_PERIOD=0, TRAIN__CHECKPOINT_PERIOD=1)
    process = zygote.start([*argv, "DATA_LOADER.NUM_WORKERS", "2"])
    checkpoints = tmp_path / "run" / "checkpoints"
    until(lambda: len(list(checkpoints.glob("checkpoint_epoch_*.pyth"))) > 1, "two checkpoints", process)
    process.send(KILL)
    process.wait()
    done = len(list(checkpoints.glob("checkpoint_epoch_*.pyth")))
    assert run_net.main(words(clips, tmp_path / "run", SOLVER__MAX_EPOCH=done + 1, TRAIN__EVAL_PERIOD=0)) == 0
    assert "resumed from" in (tmp_path / "run" / "stdout.log").read_text()
