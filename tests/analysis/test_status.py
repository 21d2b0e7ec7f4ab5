"""dust status: what a run is doing, told from its files."""

import json
import os
import socket
import time

import pytest

from dust.analysis.status import find_runs, read_status, table_of
from dust.cli.main import main


def run(folder, *, holder="", epoch=0, log="working\n", age=0.0, results=False, epochs=5):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"TRAIN: {{ENABLE: true}}\nTEST: {{ENABLE: true}}\nSOLVER: {{MAX_EPOCH: {epochs}}}\n"
    )
    (folder / "stdout.log").write_text(log)
    (folder / ".lock").write_text(holder)
    if epoch:
        (folder / "checkpoints" / f"checkpoint_epoch_{epoch:05d}.pyth").write_bytes(b"")
    if results:
        (folder / "results").mkdir()
        (folder / "results" / "test.json").write_text("{}")
    then = time.time() - age
    for file in (folder / "stdout.log", folder / ".lock", *(folder / "checkpoints").iterdir()):
        os.utime(file, (then, then))
    if results:
        os.utime(folder / "results" / "test.json", (then + 1, then + 1))
    return folder


def held(host=None, pid=None):
    return f"host {host or socket.gethostname()} pid {pid or os.getpid()} since 2026-01-01 00:00:00"


NOT_FINITE = "error: the loss is not finite at epoch 3, iteration 7\n"


@pytest.mark.parametrize(
    ("state", "made"),
    [
        ("running", {"holder": held()}),
        ("running", {"holder": held("elsewhere", 1), "age": 500}),
        ("lost", {"holder": held("elsewhere", 1), "age": 700}),
        ("lost", {"holder": held(pid=2**22 - 1)}),
        ("interrupted", {"epoch": 3}),
        ("interrupted", {}),
        ("interrupted", {"epoch": 5}),
        ("finished", {"epoch": 5, "results": True}),
        ("finished", {"epoch": 3, "results": True, "log": "no better top1_acc in 2 evaluations: stopping early\n"}),
        ("interrupted", {"epoch": 3, "results": True}),
        ("diverged", {"epoch": 2, "log": NOT_FINITE}),
    ],
)
def test_states(tmp_path, state, made):
    assert read_status(run(tmp_path / "a", **made)).state == state


def test_best_figure_and_last_line(tmp_path):
    stats = {"_type": "val_epoch", "epoch": "2/5", "min_top1_err": 12.5, "time_diff": 1.0, "top1_err": 20.0}
    log = f"[a] json_stats: {json.dumps(stats)}\nthe last words\n\n"
    found = read_status(run(tmp_path / "a", log=log, epoch=2))
    assert (found.best, found.last, found.epoch, found.epochs) == ("top1_acc 87.50", "the last words", 2, 5)


def test_all_runs_of_a_folder_in_natural_order(tmp_path):
    for name in ("run10", "run2/stage1", "run2/stage2"):
        run(tmp_path / name)
    (tmp_path / "notes").mkdir()
    runs = find_runs(tmp_path)
    assert [str(one.path.relative_to(tmp_path)) for one in runs] == ["run2/stage1", "run2/stage2", "run10"]
    said = table_of(runs, tmp_path)
    assert said.splitlines()[0].split()[:2] == ["run", "state"] and "run2/stage1" in said and "0/5" in said
    assert find_runs(tmp_path / "none") == []


def test_damaged_files_do_not_end_the_list(tmp_path):
    folder = run(tmp_path / "a")
    (folder / "config.yaml").write_text("TRAIN: 3\nTEST: [1]\n")
    assert read_status(folder).epochs is None
    (folder / "config.yaml").write_text("a: [")
    (folder / "stdout.log").write_bytes(b"\xff\xfe json_stats: {\n" + b'"val_epoch" json_stats: [[[\n')
    assert read_status(folder).state == "interrupted"


def test_names_and_last_lines_steer_no_terminal(tmp_path):
    run(tmp_path / "a\x1b[2J", log="\x1b]0;title\x07\x19 loading\n")
    table = table_of(find_runs(tmp_path), tmp_path)
    assert "a\\x1b[2J" in table and "\\x07\\x19 loading" in table and "\x1b" not in table


def test_the_sub_command(tmp_path, capsys):
    run(tmp_path / "kitchen", epoch=3)
    assert main(["status", str(tmp_path)]) == 0
    assert "kitchen" in capsys.readouterr().out
    assert main(["status", str(tmp_path / "none")]) == 2
    assert "no run here" in capsys.readouterr().err


@pytest.mark.parametrize("pid", ["9" * 30, "9" * 5000])
def test_a_process_that_no_machine_has(tmp_path, pid):
    found = read_status(run(tmp_path / "a", holder=held(pid=pid), log="x\n"))
    assert found.state == "interrupted" and found.where == ""


def test_a_table_of_somebody_elses_runs_steers_no_terminal(tmp_path):
    stats = {"_type": "val_epoch", "\x1b[31mmap": 1.5}
    run(tmp_path / "a", holder=held(host="\x1b[2Jx", pid=1), log=f"[a] json_stats: {json.dumps(stats)}\n")
    table = table_of(find_runs(tmp_path), tmp_path)
    assert "\x1b" not in table and "\\x1b[2Jx pid 1" in table and "\\x1b[31mmap 1.50" in table
