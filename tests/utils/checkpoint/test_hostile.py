"""Files of strangers: nothing in them runs, nothing outside their folder is touched, and damage is seen by everyone."""

import collections
import hashlib
import os
import pickle
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from dust.cli.convert_checkpoint import main as convert_checkpoint
from dust.engine import run_net
from dust.utils.checkpoint import (
    checkpoint_name,
    find_latest,
    load_checkpoint,
    load_weights,
    read_checkpoint,
    remove_checkpoint,
    save_checkpoint,
    save_sharded,
    verify_checkpoint,
)
from dust.utils.errors import CheckpointError
from tests.runs import words


class Calls:
    """Unpickles by calling ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


def sign(folder):
    """Make the hashes of a folder of parts right again, as whoever changes it can."""
    saved = torch.load(folder / "state.pyth", weights_only=True)
    saved["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in saved["files"]}
    save_checkpoint(folder / "state.pyth", saved)


@pytest.fixture
def poisoned(tmp_path):
    """make(what) -> a folder of parts, all hashes right, whose .metadata holds ``what``."""

    def make(what, signed=True):
        folder = tmp_path / "checkpoints" / checkpoint_name(1, suffix=".dcp")
        folder.parent.mkdir(exist_ok=True)
        save_sharded(folder, {"model_state": nn.Linear(2, 2).state_dict(), "epoch": 1, "cfg": "", "written": []})
        (folder / ".metadata").write_bytes(what if isinstance(what, bytes) else pickle.dumps(what))
        if signed:
            sign(folder)
        return folder

    return make


ENTRANCES = {
    "load_checkpoint": load_checkpoint,
    "read_checkpoint": read_checkpoint,
    "load_weights": lambda path: load_weights(nn.Linear(2, 2), path),
    "find_latest": lambda path: find_latest(path.parent),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("signed", [True, False])
def test_the_metadata_of_a_folder_runs_nothing(poisoned, tmp_path, entrance, signed):
    canary = tmp_path / "canary"
    folder = poisoned(Calls(os.system, f"touch {canary}"), signed)
    with pytest.raises(CheckpointError, match=r"\.metadata: refused.*system" if signed else "damaged"):
        ENTRANCES[entrance](folder)
    assert not canary.exists()


@pytest.mark.parametrize("key", ["TEST.CHECKPOINT_FILE_PATH", "MODEL.PRETRAINED", "TRAIN.CHECKPOINT_FILE_PATH"])
def test_nor_does_it_by_a_key_of_the_configuration(clips, poisoned, tmp_path, capsys, key):
    folder = poisoned(Calls(os.system, f"touch {tmp_path / 'canary'}"))
    train = [] if key != "TEST.CHECKPOINT_FILE_PATH" else ["TRAIN.ENABLE", "False"]
    assert run_net.main([*words(clips, tmp_path / "run"), *train, key, str(folder)]) == 2
    assert "refused" in capsys.readouterr().err and not (tmp_path / "canary").exists()


def test_nor_by_resuming_or_converting(clips, poisoned, tmp_path, capsys):
    folder = poisoned(Calls(os.system, f"touch {tmp_path / 'canary'}"))
    assert convert_checkpoint([str(folder), str(tmp_path / "out.pyth")]) == 2
    shutil.copytree(folder.parent, tmp_path / "run" / "checkpoints")
    assert run_net.main(words(clips, tmp_path / "run")) == 2
    assert "refused" in capsys.readouterr().err and not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "what",
    [
        Calls(eval, "1"),
        Calls(subprocess.Popen, ("true",)),
        Calls(torch.load, "x"),
        Calls(getattr, "x", "upper"),
        collections.Counter(),
        b"",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
        pickle.dumps({"a": 1}),
        pickle.dumps(torch.Size([1])),
        b"(" * 100_000 + b".",
    ],
)
def test_other_things_in_the_metadata_are_refused_in_a_sentence(poisoned, what):
    with pytest.raises(CheckpointError, match=r"refused|damaged"):
        load_checkpoint(poisoned(what))


def test_parts_outside_the_folder_are_refused(poisoned, tmp_path):
    folder = poisoned(b"")
    save_sharded(folder, {"a": torch.zeros(2)})
    stored = pickle.loads((folder / ".metadata").read_bytes())
    for info in stored.storage_data.values():
        info.relative_path = "../../secret.distcp"
    (folder / ".metadata").write_bytes(pickle.dumps(stored))
    sign(folder)
    with pytest.raises(CheckpointError, match="outside its folder"):
        load_checkpoint(folder)
    saved = torch.load(folder / "state.pyth", weights_only=True)
    for files in (None, ["x"], {"../../x": "0"}, {3: "0"}, {}):
        save_checkpoint(folder / "state.pyth", {**saved, "files": files})
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(folder)


# ------------------------------------------------------------------------------------------------- deleting files


@pytest.mark.parametrize(
    "name",
    (
        "/etc/passwd",
        "../precious.txt",
        "..",
        ".",
        "",
        "precious",
        "x/checkpoint_epoch_00001.pyth",
        3,
        None,
        "../checkpoints/checkpoint_epoch_00001.pyth",
        "checkpoint_best.pyth",
        "checkpoint_epoch_00001.pyth\n",
    ),
)
def test_only_checkpoints_of_the_folder_are_removed(tmp_path, name):
    with pytest.raises(CheckpointError, match="is not removed"):
        remove_checkpoint(tmp_path, name)


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").touch()
    link = tmp_path / checkpoint_name(0, suffix=".dcp")
    link.symlink_to(tmp_path / "elsewhere")
    remove_checkpoint(tmp_path, link.name)
    assert not os.path.lexists(link) and (tmp_path / "elsewhere" / "precious").exists()


def test_a_resumed_checkpoint_removes_nobody_s_files(clips, tmp_path):
    """Its list of what the run has written is somebody's word: absolute paths and ../ in it were once removed."""
    run = tmp_path / "run"
    keep = ["TRAIN.CHECKPOINT_KEEP_LAST", "1", "TEST.ENABLE", "False"]
    assert run_net.main([*words(clips, run, SOLVER__MAX_EPOCH=1), *keep]) == 0
    precious, folder = tmp_path / "precious.txt", tmp_path / "photos"
    precious.write_text("mine")
    folder.mkdir()
    (path,) = (run / "checkpoints").glob("checkpoint_epoch_*.pyth")
    saved = load_checkpoint(path)
    saved["written"] = [str(precious), "../../precious.txt", str(folder), "../../photos", "..", 7, path.name]
    save_checkpoint(path, saved)
    assert run_net.main([*words(clips, run, SOLVER__MAX_EPOCH=3), *keep]) == 0
    assert precious.read_text() == "mine" and folder.is_dir()
    assert [one.name for one in (run / "checkpoints").glob("checkpoint_epoch_*.pyth")] == [checkpoint_name(2)]


# ----------------------------------------------------------------------------------------------- damage, everywhere


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


READERS = {"load_checkpoint": load_checkpoint, "read_checkpoint": read_checkpoint}
READERS["load_weights"] = lambda path: load_weights(nn.Linear(64, 64), path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("signed", [True, False])
def test_a_flipped_bit_is_seen_by_every_reader(tmp_path, reader, signed):
    path = tmp_path / "weights.pyth"
    save_checkpoint(path, {"model_state": nn.Linear(64, 64).state_dict()})
    READERS[reader](path)
    flip(path)
    if not signed:
        path.with_name(path.name + ".sha256").unlink()
    with pytest.raises(CheckpointError, match=r"weights\.pyth: is damaged"):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_pipes_and_devices_never_hang(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe.pyth")
    for path in (tmp_path / "pipe.pyth", "/dev/zero"):
        with pytest.raises(CheckpointError, match=r"pipe or a device|no such"):
            READERS[reader](path)
    whole = tmp_path / "weights.pyth"
    save_checkpoint(whole, {"model_state": nn.Linear(64, 64).state_dict()})
    sidecar = whole.with_name(whole.name + ".sha256")
    sidecar.unlink()
    os.mkfifo(sidecar)
    assert verify_checkpoint(whole) == "damaged"


def test_a_foreign_archive_is_still_read(tmp_path):
    torch.save({"model_state": nn.Linear(64, 64).state_dict()}, tmp_path / "a.pth")
    assert zipfile.is_zipfile(tmp_path / "a.pth") and read_checkpoint(tmp_path / "a.pth")["model_state"]
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert set(read_checkpoint(tmp_path / "old.pth")) == {"weight", "bias"}


# ------------------------------------------------------------------------------------------------- Caffe2's pickles


@pytest.mark.parametrize("protocol", range(5))  # the released files have 2
def test_caffe2_blobs_are_read_as_arrays(tmp_path, protocol):
    path = tmp_path / "model.pkl"
    blobs = {"conv1_w": np.arange(6, dtype=np.float32).reshape(2, 3), "big": np.array([1.5], ">f8"), "cfg": "text"}
    path.write_bytes(pickle.dumps({"blobs": blobs, "cfg": "NUM_GPUS: 8"}, protocol=protocol))
    found = read_checkpoint(path)["model_state"]
    assert found.keys() == {"conv1_w", "big"} and found["big"].tolist() == [1.5]
    assert torch.equal(found["conv1_w"], torch.arange(6.0).view(2, 3))


@pytest.mark.parametrize("where", ["beside", "among the blobs", "in an array"])
def test_caffe2_pickles_call_nothing(tmp_path, where):
    mark, path = tmp_path / "mark", tmp_path / "model.pkl"
    evil, array = Calls(os.system, f"touch {mark}"), np.zeros(3, np.float32)
    data = {
        "beside": {"blobs": {"a": array}, "x": evil},
        "among the blobs": {"blobs": {"a": array, "b": evil}},
        "in an array": {"blobs": {"a": np.array([evil, 1], dtype=object)}},
    }[where]
    path.write_bytes(pickle.dumps(data, protocol=2))
    with pytest.raises(CheckpointError, match=r"nothing in it was executed\. .*system"):
        read_checkpoint(path)
    assert not mark.exists()


def test_objects_are_no_numbers(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"a": np.zeros(2), "b": np.array([{}, None], dtype=object)}}, protocol=2))
    assert read_checkpoint(path)["model_state"].keys() == {"a"}
