"""The journal of a study: every trial once, whatever dies when, and the same values however often it is begun again."""

import json
import os

import pytest

from dust.analysis.tuning import claims
from dust.analysis.tuning.claims import Claim, JournalLock
from dust.analysis.tuning.outcome import best_of, rows_of, section_of, text_of, write_tables
from dust.analysis.tuning.study import JOURNAL, Study, build_plan
from dust.config import load_config
from dust.utils.errors import ConfigError, DustError

SPACE = (
    "[{SOLVER.BASE_LR: {low: 1e-4, high: 0.1, step: 0.03}, AUG.ENABLE: [True, False]}, {SOLVER.STEPS: [[0], [0, 2]]}]"
)


def study_of(folder, **keys):
    values = {"TUNE.SPACE": SPACE, "TUNE.SAMPLER": "random", "TUNE.TRIALS": 6}
    values.update({f"TUNE.{key}": value for key, value in keys.items()})
    return Study(folder, build_plan(load_config(None, values)))


def value_of(number):
    return float(7 * number % 5)


def finish(study, count=99):
    """Complete so many trials."""
    for _ in range(count):
        trial = study.take()
        if trial is None:
            return
        study.complete(trial.number, value_of(trial.number), [0.0, 9.0])
        trial.claim.release()


@pytest.mark.parametrize("sampler", ["random", "grid", "tpe"])
def test_a_study_that_dies_between_any_two_lines_comes_to_the_same(tmp_path, sampler):
    """The journal is cut after each of its lines, and within one; what follows is as if nothing had happened."""
    finish(study_of(tmp_path / "whole", SAMPLER=sampler, TRIALS=12 if sampler == "tpe" else 6))
    whole = rows_of(study_of(tmp_path / "whole", SAMPLER=sampler, TRIALS=12 if sampler == "tpe" else 6))
    assert len({str(row["values"]) for row in whole}) > 3
    lines = (tmp_path / "whole" / JOURNAL).read_bytes().splitlines(keepends=True)
    for cut in sorted({*range(0, len(lines), 3), len(lines) - 1}):
        folder = tmp_path / f"cut_{cut}"
        folder.mkdir()
        (folder / JOURNAL).write_bytes(b"".join(lines[:cut]) + (lines[cut][:-9] if cut % 2 else b""))
        study = study_of(folder, SAMPLER=sampler, TRIALS=12 if sampler == "tpe" else 6)
        finish(study)
        assert rows_of(study) == whole


def test_a_grid_ends_with_its_last_point(tmp_path):
    study = study_of(tmp_path, SAMPLER="grid", TRIALS=100)
    finish(study)
    points = [tuple(row["values"].values()) for row in rows_of(study)]
    assert len(points) == len(set(points)) == 4 * 2 * 2


def test_a_trial_that_somebody_holds_is_not_taken_and_one_that_is_left_comes_first(tmp_path):
    one, other = study_of(tmp_path), study_of(tmp_path)
    first, second = one.take(), other.take()
    assert (first.number, second.number) == (0, 1)
    first.claim.release()
    assert other.take().number == 0
    assert one.take().number == 2


def test_a_claim_lasts_as_long_as_a_process_that_inherited_it(tmp_path):
    claim = Claim.take(tmp_path)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writer)
        os.read(reader, 1)  # until the parent closes its end
        os._exit(0)
    os.close(reader)
    os.close(claim.file)  # as when the driver is killed
    assert Claim.take(tmp_path) is None
    os.close(writer)
    os.waitpid(pid, 0)
    assert Claim.take(tmp_path) is not None


def test_a_claim_of_a_machine_whose_lock_is_not_seen_counts_while_it_gives_signs_of_life(tmp_path, monkeypatch):
    claim = Claim.take(tmp_path)
    os.pwrite(claim.file, b"host elsewhere pid 7", 0)
    os.close(claim.file)
    assert Claim.take(tmp_path) is None
    stale = (tmp_path / claims.CLAIM).stat().st_mtime - 2 * claims.SILENCE_S
    os.utime(tmp_path / claims.CLAIM, (stale, stale))
    assert Claim.take(tmp_path) is not None


def test_a_trial_is_told_once(tmp_path):
    study = study_of(tmp_path)
    study.take()
    study.complete(0, 3.0, None)
    study.complete(0, 4.0, None)
    study.fail(0, "no")
    study.prune(0)
    assert [(row["state"], row["value"], row["error"]) for row in rows_of(study)] == [("complete", 3.0, None)]


def test_a_figure_that_is_no_number_fails(tmp_path):
    study = study_of(tmp_path)
    study.take()
    study.complete(0, float("nan"), None)
    assert rows_of(study)[0]["error"] == "top1_acc is nan"
    assert "no best one" in text_of(study)


def test_the_pruner_hears_of_each_validation_once_and_decides_the_same_again(tmp_path):
    study = study_of(tmp_path, PRUNER="median", PRUNER_STARTUP=1, PRUNER_WARMUP=1)
    study.take()
    for epoch, value in ((1, 5.0), (2, 6.0)):
        assert not study.report(0, epoch, value)
    study.complete(0, 6.0, None)
    assert study.take().number == 1
    assert not study.report(1, 1, 1.0)  # within the warm-up
    assert not study.report(1, 1, 99.0)  # and what was said stays
    assert study.report(1, 2, 2.0)
    again = study_of(tmp_path, PRUNER="median", PRUNER_STARTUP=1, PRUNER_WARMUP=1)
    assert not again.report(1, 1, 1.0)
    assert again.report(1, 2, 2.0)
    again.prune(1)
    assert [row["state"] for row in rows_of(again)] == ["complete", "pruned"]
    assert rows_of(again)[1]["epochs"] == 2


def test_another_configuration_is_another_study(tmp_path):
    study_of(tmp_path)
    study_of(tmp_path, TRIALS=7, JOBS=2)
    with pytest.raises(ConfigError, match=r"another configuration(.|\n)*TUNE.DIRECTION: maximize -> minimize"):
        study_of(tmp_path, DIRECTION="minimize")


def test_the_tables_and_the_best(tmp_path):
    study = study_of(tmp_path)
    finish(study, 4)
    study.take()
    study.fail(4, "its loss was not finite")
    write_tables(study)
    whole = json.loads((tmp_path / "trials.json").read_text())
    assert [row["state"] for row in whole["trials"]] == ["complete"] * 4 + ["failed"]
    assert whole["best"]["number"] == 2 and whole["best"]["value"] == 4.0  # of 0, 2, 4, 1
    assert best_of(whole["trials"], "minimize")["number"] == 0
    lines = (tmp_path / "trials.csv").read_text().splitlines()
    assert lines[0] == "number,state,value,low,high,epochs,error,SOLVER.BASE_LR,AUG.ENABLE,SOLVER.STEPS"
    assert lines[5].startswith("4,failed,,,,,its loss was not finite,")
    text = text_of(study)
    assert "4 complete, 1 failed, 1 not begun" in text
    assert "best: trial 2, top1_acc 4.00 [0.00, 9.00] on val" in text
    assert "holds the figures of 3 more: 0, 1, 3" in text


def test_the_section_of_a_report(tmp_path):
    study = study_of(tmp_path)
    assert section_of(tmp_path / "trial_002") == ""
    finish(study, 3)
    study.take()
    study.fail(3, "its loss was not finite")
    write_tables(study)
    section = section_of(tmp_path / "trial_002")
    places = [section.index(text) for text in ("<b>2 (this run)</b>", "<td>1</td>", "<td>0</td>", "<td>3</td>")]
    assert places == sorted(places), "4, 2, 0, and what failed"
    assert "<td>4.00</td><td>0.00 to 9.00</td>" in section and "SOLVER.BASE_LR" in section
    whole = json.loads((tmp_path / "trials.json").read_text())
    whole["trials"][0]["values"] = {"<script>": "<b>"}
    (tmp_path / "trials.json").write_text(json.dumps(whole))
    assert "<script>" not in section_of(tmp_path / "trial_002")
    for other in ("[]", "{}", '{"trials": 3}', "x", '{"metric": 1, "split": 2, "trials": [{"number": "a"}]}'):
        (tmp_path / "trials.json").write_text(other)
        assert section_of(tmp_path / "trial_002") == ""


@pytest.mark.parametrize(
    ("line", "change"),
    [
        (0, b"hello\n"), (0, b"\xff\n"), (1, b"[" * 100_000 + b"\n"), (0, {"op_code": 99}), (0, {"directions": None}),
        (1, {"user_attr": {"facts": 3}}), (2, {"distributions": None}), (2, {"datetime_start": None}),
        (2, {"params": {}}), (3, {"user_attr": {"interval": 3}}), (4, {"values": []}), (4, {"values": ["x"]}),
    ],
)  # fmt: skip
def test_a_journal_of_other_things_is_said(tmp_path, line, change):
    """Somebody may have sent the study's folder."""
    finish(study_of(tmp_path), 1)
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    lines[line] = change if isinstance(change, bytes) else json.dumps(json.loads(lines[line]) | change).encode() + b"\n"
    (tmp_path / JOURNAL).write_bytes(b"".join(lines))
    with pytest.raises(DustError, match=r"study\.journal: is damaged, or another program's .*: move it away"):
        study_of(tmp_path)


@pytest.mark.parametrize("name", [".journal.lock", JOURNAL])
def test_a_link_in_a_foreign_study_is_not_written_through(tmp_path, name):
    """Not even to a file that it would make."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DustError, match=f"{name}: cannot be written to .* is a link to .*elsewhere"):
        JournalLock(tmp_path / "study", tmp_path / "study" / JOURNAL)
    assert not (tmp_path / "elsewhere").exists()
