"""Our checkpoints: whole or untouched after a failure at any step, verified before they are read, ordered by number."""

import builtins
import errno
import hashlib
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from dust.utils import checkpoint
from dust.utils.checkpoint import (
    checkpoint_name,
    find_latest,
    list_checkpoints,
    load_checkpoint,
    remove_leftovers,
    save_checkpoint,
    verify_checkpoint,
)
from dust.utils.errors import CheckpointError
from tests.helpers import ROOT


def state_of(value, epoch=0):
    return {"model_state": {"weight": torch.full((64, 64), float(value))}, "epoch": epoch, "cfg": "A: 1\n"}


def value_of(state):
    return state["model_state"]["weight"][0, 0].item()


def sidecar(path):
    return path.with_name(path.name + ".sha256")


# -------------------------------------------------------------------------------------------------------- naming


def test_names_are_slowfasts():
    assert checkpoint_name(0) == "checkpoint_epoch_00001.pyth"
    assert checkpoint_name(1, step=123) == "checkpoint_epoch_00002_iter_0000123.pyth"


def test_order_is_by_number_and_a_complete_epoch_follows_its_parts(tmp_path):
    names = [
        "checkpoint_epoch_00002.pyth",
        "checkpoint_epoch_00003_iter_0000005.pyth",
        "checkpoint_epoch_00003_iter_0000010.pyth",
        "checkpoint_epoch_00003_iter_10000000.pyth",
        "checkpoint_epoch_00003.pyth",
        "checkpoint_epoch_99999.pyth",
        "checkpoint_epoch_100000.pyth",
    ]
    others = [
        "checkpoint_best.pyth",
        "checkpoint_epoch_00009.pyth.sha256",
        ".checkpoint_epoch_00009.pyth.7.tmp",
        "x.txt",
    ]
    for name in sorted(names) + others:
        (tmp_path / name).touch()
    assert [path.name for path in list_checkpoints(tmp_path)] == names
    assert list_checkpoints(tmp_path / "absent") == []


# ---------------------------------------------------------------------------------------------- writing and reading


def test_round_trip_and_sidecar(tmp_path):
    path = tmp_path / "checkpoints" / checkpoint_name(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "model_state": model.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "epoch": 3,
        "best": {"top1_acc": 97.25, "metric": None},
        "classes": ["left", "right"],
        "rng": [1, (2.5, True)],
    }
    digest = save_checkpoint(path, state)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sidecar(path).read_text() == f"{digest}  {path.name}\n"
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, sidecar(path).name]
    assert verify_checkpoint(path) == "ok"

    loaded = load_checkpoint(path)
    assert {key: loaded[key] for key in ("epoch", "best", "classes", "rng")} == {
        "epoch": 3, "best": {"top1_acc": 97.25, "metric": None}, "classes": ["left", "right"], "rng": [1, (2.5, True)],
    }  # fmt: skip
    assert all(torch.equal(loaded["model_state"][key], value) for key, value in model.state_dict().items())
    fresh = torch.optim.AdamW(model.parameters(), lr=1.0)
    fresh.load_state_dict(loaded["optimizer_state"])
    assert fresh.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_the_tool_sha256sum_agrees(tmp_path):
    path = tmp_path / "a b.pyth"
    save_checkpoint(path, state_of(1))
    run = subprocess.run(["sha256sum", "-c", sidecar(path).name], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_new_file_has_ordinary_permissions(tmp_path):
    path, other = tmp_path / checkpoint_name(0), tmp_path / "other"
    save_checkpoint(path, state_of(1))
    other.touch()
    assert path.stat().st_mode == sidecar(path).stat().st_mode == other.stat().st_mode


def test_numpy_scalars_become_pythons(tmp_path):
    path = tmp_path / checkpoint_name(0)
    save_checkpoint(path, {"best": np.float64(0.5), "count": [np.int64(3)], "flag": np.bool_(True), np.str_("k"): 1})
    loaded = load_checkpoint(path)
    assert loaded == {"best": 0.5, "count": [3], "flag": True, "k": 1}
    assert [type(value) for value in (loaded["best"], loaded["count"][0], loaded["flag"])] == [float, int, bool]


class Custom(dict):
    pass


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros(3), r"state\['a'\]\[1\] is a numpy.ndarray"),
        (Path("x"), r"state\['a'\]\[1\] is a pathlib"),
        (Custom(), "Custom"),
        (lambda: None, "function"),
        ({(1, 2): 3}, r"has the key \(1, 2\)"),
        (torch.nn.Linear(1, 1), "Linear"),
    ],
)
def test_values_that_could_not_be_read_back_are_refused_by_place(tmp_path, value, words):
    path = tmp_path / checkpoint_name(0)
    with pytest.raises(CheckpointError, match=words):
        save_checkpoint(path, {"a": [1, value]})
    assert list(tmp_path.iterdir()) == []


def test_everything_that_save_accepts_is_read_back(tmp_path):
    path = tmp_path / checkpoint_name(0)
    values = {
        "o": OrderedDict(a=1), "t": (1, "x"), "s": torch.Size([1, 2]), "p": torch.nn.Parameter(torch.ones(2)),
        "n": None, "f": float("inf"), "i": 2**70, "b": torch.ones(3, dtype=torch.bfloat16), "r": torch.get_rng_state(),
        3: "int key", "view": torch.arange(10)[2:4],
    }  # fmt: skip
    save_checkpoint(path, values)
    loaded = load_checkpoint(path)
    assert loaded.keys() == values.keys()
    for key, value in values.items():
        same = torch.equal(loaded[key], value) if isinstance(value, torch.Tensor) else loaded[key] == value
        assert same, key


# ------------------------------------------------------------------------------------------------------- failures


class PowerCutError(BaseException):
    """Not an OSError: nothing in the code handles it, as nothing handles a power cut."""


def steps_until_power_cut(monkeypatch, after):
    """The system calls that save_checkpoint makes on files; the one numbered ``after`` (from 0) never happens."""
    made = []
    real = {"replace": os.replace, "fsync": os.fsync}

    def guarded(name, function):
        def call(*arguments):
            if len(made) == after:
                made.append(name)
                raise PowerCutError(name)
            if len(made) < after:
                made.append(name)
                return function(*arguments)
            raise PowerCutError("the machine is off")

        return call

    monkeypatch.setattr(os, "replace", guarded("replace", real["replace"]))
    monkeypatch.setattr(os, "fsync", guarded("fsync", real["fsync"]))
    monkeypatch.setattr(Path, "unlink", lambda *a, **k: None)  # nor does a dead machine tidy up
    return made


@pytest.mark.parametrize("replaces", [False, True, "foreign"])
@pytest.mark.parametrize("after", range(12))
def test_a_power_cut_between_any_two_steps(tmp_path, monkeypatch, replaces, after):
    path = tmp_path / checkpoint_name(1)
    save_checkpoint(tmp_path / checkpoint_name(0), state_of(1))
    if replaces:
        save_checkpoint(path, state_of(2))
        if replaces == "foreign":
            sidecar(path).unlink()
    with monkeypatch.context() as patch:
        made = steps_until_power_cut(patch, after)
        try:
            save_checkpoint(path, state_of(3))
            finished = True
        except PowerCutError:
            finished = False
    assert finished == (len(made) <= after)
    if path.exists():
        assert verify_checkpoint(path) in ("ok", "foreign")
        assert value_of(load_checkpoint(path)) in ((3,) if not replaces else (2, 3))
    else:
        assert not replaces
    found, state = find_latest(tmp_path)
    assert value_of(state) == (3 if finished else value_of(state))
    assert found == (path if path.exists() else tmp_path / checkpoint_name(0))

    # and the next save, after any such crash, ends clean
    digest = save_checkpoint(path, state_of(4))
    assert sidecar(path).read_text().split()[0] == digest and len(sidecar(path).read_text().splitlines()) == 1
    remove_leftovers(tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def test_the_number_of_steps_tested_above_is_enough(tmp_path, monkeypatch):
    path = tmp_path / checkpoint_name(0)
    save_checkpoint(path, state_of(1))
    made = steps_until_power_cut(monkeypatch, 1000)
    save_checkpoint(path, state_of(2))
    assert len(made) < 12 and made.count("replace") == 3


@pytest.mark.parametrize("call", ["replace", "fsync", "open", "write"])
def test_a_failing_disk_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch, call):
    path = tmp_path / checkpoint_name(0)
    save_checkpoint(path, state_of(1))

    def full(*arguments, **more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if call == "open":
            patch.setattr(builtins, "open", full)
        elif call == "write":
            real = open

            def open_full(*arguments, **more):
                file = real(*arguments, **more)
                return FullFile(file) if "wb" in arguments else file

            patch.setattr(builtins, "open", open_full)
        else:
            patch.setattr(os, call, full)
        with pytest.raises(CheckpointError, match=r"00001\.pyth.*No space left.*errno 28.*intact.*OUTPUT_DIR"):
            save_checkpoint(path, state_of(2))
    assert verify_checkpoint(path) == "ok" and value_of(load_checkpoint(path)) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, sidecar(path).name]


class FullFile:
    """A file on a disk that is full after 1 KiB."""

    def __init__(self, file):
        self.file, self.left = file, 1024

    def write(self, data):
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *arguments):
        self.file.close()


def test_a_real_file_size_limit(tmp_path):
    """Not simulated: the kernel refuses the write in another process, which survives it with its old checkpoint."""
    code = """
import resource, sys, torch
from pathlib import Path
from dust.utils.checkpoint import save_checkpoint, load_checkpoint
from dust.utils.errors import CheckpointError
path = Path(sys.argv[1])
save_checkpoint(path, {"x": torch.zeros(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(path, {"x": torch.zeros(1_000_000)})
except CheckpointError as error:
    print(error)
assert load_checkpoint(path)["x"].shape == (10,)
print(sorted(p.name for p in path.parent.iterdir()))
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "c.pyth")], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert "File too large" in run.stdout and "['c.pyth', 'c.pyth.sha256']" in run.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="Permission denied"):
            save_checkpoint(tmp_path / checkpoint_name(0), state_of(1))
    finally:
        tmp_path.chmod(0o700)


def test_a_path_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="could not be written"):
        save_checkpoint(tmp_path / "file" / checkpoint_name(0), state_of(1))


def test_ctrl_c_while_saving_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / checkpoint_name(0), state_of(1))
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_synced_are_fine(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, "not on this file system")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    save_checkpoint(tmp_path / checkpoint_name(0), state_of(1))
    assert verify_checkpoint(tmp_path / checkpoint_name(0)) == "ok"


# -------------------------------------------------------------------------------------------------------- damage


def test_every_truncation_and_flipped_bit_is_damage(tmp_path):
    path = tmp_path / checkpoint_name(0)
    save_checkpoint(path, state_of(1))
    whole = path.read_bytes()
    rng = np.random.RandomState(0)
    lengths = [0, 1, 3, 4, 100, len(whole) - 1, *rng.randint(0, len(whole), 40)]
    for length in lengths:
        path.write_bytes(whole[:length])
        assert verify_checkpoint(path) == "damaged"
        with pytest.raises(CheckpointError, match=r"00001\.pyth: is damaged"):
            load_checkpoint(path)
    for bit in rng.randint(0, 8 * len(whole), 150):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(flipped)
        assert verify_checkpoint(path) == "damaged"
    path.write_bytes(whole)
    assert verify_checkpoint(path) == "ok"


@pytest.mark.parametrize("content", ["", "no hash at all\n", "0" * 64 + "\n", b"\xff\xfe\x00"])
def test_a_wrong_sidecar_is_damage(tmp_path, content):
    path = tmp_path / checkpoint_name(0)
    save_checkpoint(path, state_of(1))
    sidecar(path).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert verify_checkpoint(path) == "damaged"


def test_no_sidecar_is_a_foreign_file_and_fine(tmp_path):
    path = tmp_path / "theirs.pyth"
    torch.save(state_of(5), path)
    assert verify_checkpoint(path) == "foreign"
    assert value_of(load_checkpoint(path)) == 5


def test_a_missing_file(tmp_path):
    for function in (verify_checkpoint, load_checkpoint):
        with pytest.raises(CheckpointError, match=r"x\.pyth.*no such"):
            function(tmp_path / "x.pyth")


def test_find_latest_falls_back_and_names_the_damaged_file(tmp_path, caplog):
    for epoch in range(3):
        save_checkpoint(tmp_path / checkpoint_name(epoch), state_of(epoch, epoch))
    with open(tmp_path / checkpoint_name(2), "r+b") as file:
        file.truncate(1000)
    path, state = find_latest(tmp_path)
    assert path.name == "checkpoint_epoch_00002.pyth" and state["epoch"] == 1
    assert "checkpoint_epoch_00003.pyth: is damaged" in caplog.text
    assert "resuming from" in caplog.text


def test_find_latest_never_starts_anew_in_silence(tmp_path):
    assert find_latest(tmp_path) is None and find_latest(tmp_path / "absent") is None
    for epoch in range(2):
        save_checkpoint(tmp_path / checkpoint_name(epoch), state_of(epoch))
        (tmp_path / checkpoint_name(epoch)).write_bytes(b"gone")
    with pytest.raises(CheckpointError, match=r"none of its 2 checkpoints.*AUTO_RESUME.*00002\.pyth.*00001\.pyth"):
        find_latest(tmp_path)


def test_find_latest_passes_over_a_file_that_is_not_safe(tmp_path):
    save_checkpoint(tmp_path / checkpoint_name(0), state_of(7))
    torch.save({"model_state": Path}, tmp_path / checkpoint_name(1))
    path, state = find_latest(tmp_path)
    assert path.name == checkpoint_name(0) and value_of(state) == 7


def test_a_resumed_run_does_not_hang_on_the_file(tmp_path):
    path = tmp_path / checkpoint_name(0)
    save_checkpoint(path, state_of(1))
    state = load_checkpoint(path)
    path.write_bytes(b"\0" * path.stat().st_size)  # in place, as a careless tool would
    assert value_of(state) == 1


def test_the_module_offers_weight_loading_too():
    assert callable(checkpoint.load_weights) and callable(checkpoint.read_checkpoint)
