"""Checkpoints that something has damaged: noticed, named, and the one before is used."""

import shutil

import numpy as np
import pytest
import torch

from dust.utils.checkpoint import checkpoint_name, find_latest, save_checkpoint, save_sharded
from dust.utils.errors import CheckpointError
from tests.faults.victims import words


def state_of(value: int) -> dict:
    """What a small run saves, in kind: weights, an optimizer's moments, numbers and text."""
    torch.manual_seed(value)
    model = torch.nn.Linear(12, 8)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 12)).sum().backward()
    optimizer.step()
    return {
        "model_state": model.state_dict(), "optimizer_state": optimizer.state_dict(), "epoch": value,
        "complete": True, "best": {"metric": "top1_acc", "value": 0.5}, "cfg": "TASK: Classification\n" * 20,
        "written": [checkpoint_name(0)],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Three checkpoints of a run; the newest is the one to damage."""
    for epoch in range(3):
        save_checkpoint(tmp_path / checkpoint_name(epoch), state_of(epoch))
    return tmp_path


def damages(whole: bytes, count: int, seed: int):
    """(what, damaged bytes): cut short by bytes, sectors or pages; flipped bits; zeroed or repeated blocks."""
    rng = np.random.RandomState(seed)
    yield from (("empty", b""), ("one byte", whole[:1]), ("one byte less", whole[:-1]), ("one byte more", whole + b"0"))
    for block in (512, 4096):
        yield f"cut at a multiple of {block}", whole[: (len(whole) - 1) // block * block]
    for _ in range(count - 6):
        kind, at = rng.randint(4), rng.randint(len(whole))
        damaged = bytearray(whole)
        if kind == 0:
            yield f"cut to {at}", whole[:at]
            continue
        if kind == 1:
            damaged[at] ^= 1 << rng.randint(8)
        elif kind == 2:  # a page that never reached the disk
            size = min(512, len(whole) - at)
            damaged[at : at + size] = bytes(size)
        else:
            damaged[at:at] = whole[at : at + 512]
        if bytes(damaged) != whole:
            yield f"kind {kind} at {at}", bytes(damaged)


def test_two_hundred_damaged_checkpoints(folder, caplog):
    newest = folder / checkpoint_name(2)
    whole, seen = newest.read_bytes(), 0
    for what, damaged in damages(whole, 210, seed=0):
        newest.write_bytes(damaged)
        caplog.clear()
        path, state = find_latest(folder)
        assert path.name == checkpoint_name(1) and state["epoch"] == 1, what
        assert f"{newest}: is damaged" in caplog.text, what
        seen += 1
    assert seen >= 200
    newest.write_bytes(whole)
    assert find_latest(folder)[0] == newest


def test_a_damaged_checkpoint_whose_sidecar_is_lost_too(folder, caplog):
    """No hash tells: what is read must nevertheless be what was written, or not be used."""
    newest = folder / checkpoint_name(2)
    newest.with_name(newest.name + ".sha256").unlink()
    whole, refused = newest.read_bytes(), 0
    assert find_latest(folder)[1]["epoch"] == 2, "a lost sidecar alone is no damage"
    expected = state_of(2)
    for what, damaged in damages(whole, 210, seed=1):
        newest.write_bytes(damaged)
        path, state = find_latest(folder)
        if path == newest:  # padding, or bytes behind the end
            assert state["epoch"] == 2 and state["cfg"] == expected["cfg"], what
            for name, value in expected["model_state"].items():
                assert torch.equal(state["model_state"][name], value), what
        else:
            refused += 1
            assert path.name == checkpoint_name(1), what
    assert refused > 150


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"0" * 64 + b"  x\n", b"\xff\xfe", None])
def test_damaged_sidecars(folder, caplog, content):
    newest = folder / checkpoint_name(2)
    sidecar = newest.with_name(newest.name + ".sha256")
    if content is None:
        sidecar.unlink()
        sidecar.mkdir()
    else:
        sidecar.write_bytes(content)
    path, _ = find_latest(folder)
    assert path.name == checkpoint_name(1) and str(newest) in caplog.text


def test_things_of_another_kind_in_the_place_of_a_checkpoint(folder, caplog):
    newest = folder / checkpoint_name(2)
    newest.unlink()
    newest.mkdir()
    (folder / checkpoint_name(3)).symlink_to(folder / "nowhere")
    (folder / checkpoint_name(4)).symlink_to(folder / checkpoint_name(4))
    (folder / checkpoint_name(5)).write_bytes(b"")
    (folder / checkpoint_name(6, suffix=".dcp")).mkdir()
    (folder / checkpoint_name(7, suffix=".dcp")).write_bytes(b"no folder")
    assert find_latest(folder)[0].name == checkpoint_name(1)
    for number in range(2, 6):
        assert checkpoint_name(number) in caplog.text


def test_damaged_sharded_checkpoints(tmp_path, caplog):
    for epoch in range(2):
        save_sharded(tmp_path / checkpoint_name(epoch, suffix=".dcp"), state_of(epoch))
    newest = tmp_path / checkpoint_name(1, suffix=".dcp")
    kept = tmp_path / "kept"
    shutil.copytree(newest, kept)
    names = sorted(path.name for path in newest.iterdir())
    assert len(names) == 4, names
    rng = np.random.RandomState(4)
    for name in names:
        whole = (kept / name).read_bytes()
        for damaged in (None, b"", whole[: rng.randint(len(whole))], flipped(whole, rng)):
            if damaged is None:
                (newest / name).unlink()
            else:
                (newest / name).write_bytes(damaged)
            caplog.clear()
            path, state = find_latest(tmp_path)
            assert path.name == checkpoint_name(0, suffix=".dcp") and state["epoch"] == 0, (name, damaged)
            assert newest.name in caplog.text
            (newest / name).write_bytes(whole)
    assert find_latest(tmp_path)[1]["epoch"] == 1


def flipped(whole: bytes, rng: np.random.RandomState) -> bytes:
    damaged = bytearray(whole)
    damaged[rng.randint(len(whole))] ^= 1 << rng.randint(8)
    return bytes(damaged)


@pytest.mark.slow
def test_when_all_are_damaged_nothing_starts_anew(zygote, clips, tmp_path):
    argv = words(clips, tmp_path / "run", SOLVER__MAX_EPOCH=1, TEST__ENABLE=False)
    zygote.finish(argv)
    checkpoints = tmp_path / "run" / "checkpoints"
    (only,) = checkpoints.glob("checkpoint_epoch_*.pyth")
    only.write_bytes(only.read_bytes()[:-1])
    victim = zygote.start(argv)
    assert victim.wait() == 2
    assert "error: " in victim.said and str(only) in victim.said and "Traceback" not in victim.said
    assert [path.name for path in checkpoints.glob("checkpoint_epoch_*.pyth")] == [only.name]
    anew = zygote.finish([*argv, "TRAIN.AUTO_RESUME", "False"])
    assert "kept in" in anew.said
    with pytest.raises(CheckpointError, match=only.name):
        find_latest(tmp_path / "run" / "checkpoints.old")
