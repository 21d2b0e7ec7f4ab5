"""Checkpoints in parts: what was saved comes back, damage is named, both forms turn into each other."""

import pytest
import torch

from dust.utils.checkpoint import (
    file_sha256,
    find_latest,
    list_checkpoints,
    load_checkpoint,
    remove_checkpoint,
    remove_leftovers,
    save_checkpoint,
    save_sharded,
    sharded,
    verify_checkpoint,
)
from dust.utils.errors import CheckpointError
from tests.helpers import tool
from tests.runs import assert_same


def state(value=1.0):
    return {
        "epoch": 1,
        "model_state": {"a.b": torch.full((3, 4), value), "b": torch.arange(3), "none": torch.empty(0)},
        "optimizer_state": {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(3, 4).bfloat16()}},
            "param_groups": [{"params": [0], "lr": 0.1, "betas": (0.9, 0.99), "fused": None}],
        },
        "written": ["x", "y"],
    }


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(tmp_path / "checkpoint_epoch_00001.pyth", state(0.0))
    save_sharded(tmp_path / "checkpoint_epoch_00002.dcp", state())
    return tmp_path


def test_what_was_saved_comes_back(tmp_path):
    saved = state()
    path = tmp_path / "checkpoint_epoch_00002.dcp"
    save_sharded(path, saved)
    assert verify_checkpoint(path) == "ok"
    assert_same(load_checkpoint(path), saved)
    first = file_sha256(path)
    save_sharded(path, state(2.0))
    assert file_sha256(path) != first and load_checkpoint(path)["model_state"]["a.b"][0, 0] == 2
    assert [one.name for one in tmp_path.iterdir()] == [path.name], "nothing temporary stays"


def test_both_kinds_are_found_in_order(folder):
    assert [path.suffix for path in list_checkpoints(folder)] == [".pyth", ".dcp"]
    path, found = find_latest(folder)
    assert path.suffix == ".dcp" and found["model_state"]["a.b"][0, 0] == 1


@pytest.mark.parametrize("name", ["state.pyth", ".metadata", "__0_0.distcp", "state.pyth.sha256"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damage_anywhere_is_named_and_the_one_before_is_used(folder, name, harm, caplog):
    broken = folder / "checkpoint_epoch_00002.dcp"
    data = bytearray((broken / name).read_bytes())
    data[len(data) // 2] ^= 4
    if harm == "remove":
        (broken / name).unlink()
    else:
        (broken / name).write_bytes(data if harm == "flip" else data[: len(data) // 2])
    assert verify_checkpoint(broken) == "damaged"
    with pytest.raises(CheckpointError, match=rf"{broken.name}: is damaged: .*{name.removesuffix('.sha256')}"):
        load_checkpoint(broken)
    path, found = find_latest(folder)
    assert path.suffix == ".pyth" and found["model_state"]["a.b"][0, 0] == 0
    assert broken.name in caplog.text


def test_an_interrupted_replacement_loses_nothing(folder):
    path = folder / "checkpoint_epoch_00002.dcp"
    path.rename(folder / f".{path.name}.old.tmp")  # the moment between the two renames
    (folder / ".checkpoint_epoch_00003.dcp.tmp").mkdir()
    remove_leftovers(folder)
    assert sorted(one.suffix for one in list_checkpoints(folder)) == [".dcp", ".pyth"]
    assert verify_checkpoint(path) == "ok" and not list(folder.glob(".checkpoint*"))
    remove_checkpoint(folder, path.name)
    assert not path.exists()


def test_one_form_becomes_the_other_and_back(folder):
    source = folder / "checkpoint_epoch_00002.dcp"
    whole, again = folder / "whole.pyth", folder / "again.dcp"
    assert tool("convert_checkpoint", source, whole).returncode == 0
    assert_same(load_checkpoint(whole), load_checkpoint(source))
    assert tool("convert_checkpoint", whole, again).returncode == 0
    assert_same(load_checkpoint(again), load_checkpoint(source))
    refused = tool("convert_checkpoint", whole, again)
    assert refused.returncode == 2 and "is there already" in refused.stderr
    missing = tool("convert_checkpoint", folder / "no.dcp", folder / "x.pyth")
    assert missing.returncode == 2 and "no.dcp" in missing.stderr and "Traceback" not in missing.stderr


def test_a_disk_that_cannot_be_written_leaves_the_old_one(folder, monkeypatch):
    import torch.distributed.checkpoint as dcp

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    path = folder / "checkpoint_epoch_00002.dcp"
    monkeypatch.setattr(dcp, "save", full)
    with pytest.raises(CheckpointError, match=r"could not be written: .*No space left.*the run resumes"):
        save_sharded(path, state(5.0))
    assert load_checkpoint(path)["model_state"]["a.b"][0, 0] == 1
    assert not list(folder.glob(".checkpoint*")), "what takes the space is gone"


def test_what_one_process_cannot_read_is_one_error_of_all(folder, monkeypatch):
    """Said before torch's reader begins, in which the others would wait for the one that did not come."""
    import torch.distributed.checkpoint as dcp

    path, told, began = folder / "checkpoint_epoch_00002.dcp", [], []
    monkeypatch.setattr(sharded.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dcp, "load", lambda *_, no_dist, **named: began.append(no_dist))

    def read(other):
        monkeypatch.setattr(sharded, "_of_all", lambda value: told.append(value) or [value, other])
        return load_checkpoint(path, lambda where, size: None)

    assert read("")["epoch"] == 1
    with pytest.raises(CheckpointError, match="^process 1 has no memory$"):
        read("process 1 has no memory")
    (path / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp is missing"):
        read("")
    assert told[:2] == ["", ""] and "is missing" in told[2] and began == [False]
