import csv
import json
import os
import subprocess
import sys

import pytest

from dust.analysis.tuning.claims import CLAIM, Claim, JournalLock
from dust.analysis.tuning.study import JOURNAL
from dust.datasets.sample import BadClip
from dust.engine.run_dir import BadClipLog, RunDir, differing_keys
from dust.launch.requeue import BEGUN, begun_by_this_job
from dust.utils.errors import DataError, DustError
from dust.utils.logging import setup_logging

HOLD = """
import sys, time
from dust.engine.run_dir import RunDir
with RunDir(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_live_run_is_refused_and_a_dead_one_is_no_obstacle(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(DustError, match=f"in use by host .* pid {holder.pid}"), RunDir(tmp_path).lock():
            pass
    finally:
        holder.kill()
        holder.wait()
    with RunDir(tmp_path).lock():
        assert f"pid {os.getpid()}" in (tmp_path / ".lock").read_text()


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DustError, match="OUTPUT_DIR .*cannot be made"):
        RunDir(tmp_path / "file" / "run")


def test_results_of_another_checkpoint_are_kept(tmp_path):
    run = RunDir(tmp_path)

    def publish(checkpoint, top1):
        temporary = tmp_path / "results.partial"
        temporary.mkdir()
        (temporary / "test.json").write_text(
            json.dumps({"metrics": {"top1_acc": top1}, "checkpoint_sha256": checkpoint})
        )
        run.publish_results(temporary, checkpoint)

    def top1(folder):
        return json.loads((tmp_path / folder / "test.json").read_text())["metrics"]["top1_acc"]

    publish("a" * 64, 1)
    publish("a" * 64, 2)
    assert [path.name for path in tmp_path.glob("results*")] == ["results"] and top1("results") == 2
    publish("b" * 64, 3)
    publish("a" * 64, 4)
    publish("b" * 64, 5)
    assert top1("results") == 5
    kept = {top1(path.name) for path in tmp_path.glob("results.*")}
    assert kept == {2, 3, 4}


@pytest.mark.parametrize("said", ["/../../a", "../evil", 5, None, ["x"], "A" * 64])
def test_results_whose_hash_is_none_go_nowhere_else(tmp_path, said):
    run = RunDir(tmp_path / "run")
    (run.path / "results.").mkdir()  # a file of somebody else's may have any folder beside it
    for folder, checkpoint in (("results", said), ("results.partial", "b" * 64)):
        (run.path / folder).mkdir()
        (run.path / folder / "test.json").write_text(json.dumps({"checkpoint_sha256": checkpoint}))
    run.publish_results(run.path / "results.partial", "b" * 64)
    assert json.loads((run.path / "results.unknown" / "test.json").read_text()) == {"checkpoint_sha256": said}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_nothing_is_written_through_links_of_somebody_elses_folder(tmp_path):
    """A folder of a stranger may hold links to files of the user's."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    run = RunDir(tmp_path / "run")
    log, bad = run.path / "stdout.log", run.path / "bad_clips.csv"
    for link in (log, bad, run.path / ".lock", run.path / JOURNAL, run.path / "trial_000" / CLAIM):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(precious)
    for write in (
        lambda: setup_logging(run.path),
        lambda: run.lock().__enter__(),
        lambda: JournalLock(run.path, run.path / JOURNAL),
        lambda: Claim.take(run.path / "trial_000"),
    ):
        with pytest.raises(DustError, match="is a link to .*precious, which is not written through"):
            write()
    BadClipLog(bad, "train", "skip")(BadClip("a", "a.mp4", "is bad"))
    assert precious.read_text() == "mine"
    run.begin("A: 1\n")
    assert precious.read_text() == "mine"


def test_a_pipe_in_place_of_the_log_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "stdout.log")
    with pytest.raises(DustError, match=r"stdout\.log: cannot be written to .it is a pipe"):
        setup_logging(tmp_path)
    os.mkfifo(tmp_path / BEGUN)
    assert not begun_by_this_job(tmp_path, {"SLURM_JOB_ID": "9"})


def test_old_checkpoints_are_set_aside(tmp_path):
    run = RunDir(tmp_path)
    run.set_checkpoints_aside()
    assert not list(tmp_path.glob("checkpoints.old*"))
    for number in (1, 2):
        (run.checkpoints / "checkpoint_epoch_00001.pyth").write_text(str(number))
        run.set_checkpoints_aside()
    assert (tmp_path / "checkpoints.old" / "checkpoint_epoch_00001.pyth").read_text() == "1"
    assert (tmp_path / "checkpoints.old.2" / "checkpoint_epoch_00001.pyth").read_text() == "2"


def test_differing_keys_name_what_matters():
    saved = "SOLVER: {BASE_LR: 0.1, MAX_EPOCH: 5}\nMODEL: {NUM_CLASSES: 4}\nTEST: {BATCH_SIZE: 8}\nOUTPUT_DIR: a\n"
    present = "SOLVER: {BASE_LR: 0.2, MAX_EPOCH: 9}\nMODEL: {NUM_CLASSES: 5}\nTEST: {BATCH_SIZE: 4}\nNEW: {KEY: 1}\n"
    assert differing_keys(saved, present) == ["MODEL.NUM_CLASSES: 4 -> 5", "SOLVER.BASE_LR: 0.1 -> 0.2"]


class TestBadClipLog:
    def rows(self, path):
        with open(path, newline="", encoding="utf-8") as file:
            return [(row["split"], row["id"], row["reason"]) for row in csv.DictReader(file)]

    def test_each_clip_once_over_epochs_splits_and_restarts(self, tmp_path):
        path = tmp_path / "bad_clips.csv"
        for split in ("train", "train", "val"):
            log = BadClipLog(path, split, "skip")
            log(BadClip("a", "a.mp4", "truncated, at 3 s"))
            log(BadClip("a", "a.mp4", "truncated, at 3 s"))
            assert log.count == 2
        assert self.rows(path) == [("train", "a", "truncated, at 3 s"), ("val", "a", "truncated, at 3 s")]

    def test_raise_names_clip_cause_and_key_and_still_lists_it(self, tmp_path):
        log = BadClipLog(tmp_path / "bad_clips.csv", "train", "raise")
        with pytest.raises(DataError, match=r"a\.mp4: no frames .*TRAIN\.ON_BAD_CLIP skip"):
            log(BadClip("a", "a.mp4", "no frames"))
        assert self.rows(tmp_path / "bad_clips.csv") == [("train", "a", "no frames")]

    def test_a_test_raises_at_its_end(self, tmp_path):
        log = BadClipLog(tmp_path / "bad_clips.csv", "test", "raise")
        log.finish("results")
        for name in "ab":
            log(BadClip(name, f"{name}.mp4", "no frames"))
        with pytest.raises(DataError, match=r"2 clips .*a\.mp4: no frames.*in results.*TEST\.ON_BAD_CLIP skip"):
            log.finish("results")
        with pytest.raises(DataError, match=r"none of the 2 clips .* no frames"):
            log.refuse_empty(2)

    def test_too_many_stop_the_epoch(self, tmp_path):
        log = BadClipLog(tmp_path / "bad_clips.csv", "train", "skip", limit=0.2, total=10)
        for name in "ab":
            log(BadClip(name, name, "broken"))
        with pytest.raises(DataError, match=r"MAX_BAD_FRACTION"):
            log(BadClip("c", "c", "broken"))
        log.start_epoch()
        log(BadClip("d", "d", "broken"))


def test_a_fraction_is_reported_as_a_fraction(tmp_path):
    log = BadClipLog(tmp_path / "bad_clips.csv", "train", "skip", limit=0.25, total=8)
    log.check(2)
    with pytest.raises(DataError, match=r"3 of the 8 clips of this epoch \(0\.375\) .*MAX_BAD_FRACTION 0\.25 allows"):
        log.check(3)
