"""Poisoned files at every entrance: nothing in them runs, nothing waits for ever, what is raised is our own error."""

import io
import json
import os
import pickle
import shutil
import signal
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dust.config import load_config
from dust.convert.safe_pickle import read_pickled_array
from dust.datasets.keystep.data import read_procedure
from dust.datasets.keystep.layouts import read_object_states
from dust.datasets.keystep.windows import CsvEmbeddings
from dust.datasets.manifest.manifest import read_class_list, read_manifest
from dust.datasets.multimodal.fusion_manifest import read_fused_manifest
from dust.datasets.multimodal.series import read_series
from dust.datasets.tracks.files import read_tracks
from dust.datasets.tracks.manifest import read_track_manifest
from dust.datasets.video.epic_list import read_epic
from dust.decode.reader import FrameFolderReader, VideoReader
from dust.utils.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint, verify_checkpoint
from dust.utils.errors import DustError
from dust.utils.features import FeatureStore, FeatureWriter
from dust.utils.tstl_grouping import read_grouping
from dust.utils.tstl_grouping_files import read_confusion, read_names, read_predictions
from dust.zoo import convert as zoo_convert


def _stored(folder: Path, layout: str) -> None:
    writer = FeatureWriter(folder, "train", ["a", "b"], (2,), "float32", {"made_by": "x"}, layout)
    writer.write(0, [np.zeros((3, 2) if layout == "per_video" else 2, np.float32)] * 2)
    writer.finish()


def _features(layout: str, name: str):
    """(what lies around the poisoned file, its name, who reads it)."""

    def read(folder: Path):
        store = FeatureStore.open(folder, "train")
        return store.get("a")[0], store.rows(["a", "b"])

    return (lambda folder: _stored(folder, layout), name, read)


def _signed(folder: Path) -> None:
    save_checkpoint(folder / "a.pyth", {"model_state": {}, "epoch": 0})


def _list(text: str, name: str):
    return lambda folder: (folder / name).write_text(text)


def nothing(_: Path) -> None:
    pass


ENTRANCES = {
    "series npy": (nothing, "a.npy", lambda folder: read_series(str(folder / "a.npy"), 2)),
    "series row": (nothing, "a.npy", lambda folder: read_series(f"{folder}/a.npy#0", 2)),
    "series npz": (nothing, "a.npz", lambda folder: read_series(str(folder / "a.npz"), 2)),
    "series csv": (nothing, "a.csv", lambda folder: read_series(str(folder / "a.csv"), 2)),
    "tracks npz": (nothing, "a.npz", lambda folder: read_tracks(folder / "a.npz", size=(8, 8))),
    "tracks npy": (nothing, "a.npy", lambda folder: read_tracks(folder / "a.npy", size=(8, 8))),
    "tracks pt": (nothing, "a.pt", lambda folder: read_tracks(folder / "a.pt", size=(8, 8))),
    "tracks folder": (nothing, "0.npz", lambda folder: read_tracks(folder, size=(8, 8))),
    "features json": _features("memmap", "train.json"),
    "features npy": _features("memmap", "train.npy"),
    "features npz": _features("npz", "train.npz"),
    "features per video": _features("per_video", "train/a.npy"),
    "embeddings": (nothing, "train/a/embeddings.csv", lambda folder: CsvEmbeddings(folder, "train")),
    "grouping": (nothing, "a.json", lambda folder: read_grouping(folder / "a.json")),
    "names": (nothing, "a.txt", lambda folder: read_names(folder / "a.txt")),
    "confusion npy": (nothing, "a.npy", lambda folder: read_confusion(folder / "a.npy")),
    "confusion csv": (nothing, "a.csv", lambda folder: read_confusion(folder / "a.csv")),
    "predictions": (nothing, "a.csv", lambda folder: read_predictions(folder / "a.csv")),
    "yaml": (nothing, "a.yaml", lambda folder: load_config(folder / "a.yaml", [])),
    "yaml base": (_list("_BASE_: a.yaml\n", "b.yaml"), "a.yaml", lambda folder: load_config(folder / "b.yaml", [])),
    "checkpoint": (nothing, "a.pyth", lambda folder: load_checkpoint(folder / "a.pyth")),
    "weights": (nothing, "a.pt", lambda folder: read_checkpoint(folder / "a.pt")),
    "safetensors": (nothing, "a.safetensors", lambda folder: read_checkpoint(folder / "a.safetensors")),
    "sidecar": (_signed, "a.pyth.sha256", lambda folder: verify_checkpoint(folder / "a.pyth")),
    "clip": (nothing, "a.mp4", lambda folder: VideoReader(folder / "a.mp4").frames([0])),
    "picture": (nothing, "0001.jpg", lambda folder: FrameFolderReader(folder).frames([0])),
    "clips csv": (nothing, "train.csv", lambda folder: read_manifest(root=str(folder / "train.csv"), split="train")),
    "class list": (nothing, "a.txt", lambda folder: read_class_list(folder / "a.txt")),
    "classes.txt": (
        _list("a.mp4,x\n", "train.csv"), "classes.txt",
        lambda folder: read_manifest(root=str(folder), split="train", check_files=False),
    ),
    "ssv2": (nothing, "train.json", lambda folder: read_manifest(root=str(folder), split="train", format="ssv2")),
    "fused csv": (
        nothing, "train.csv",
        lambda folder: read_fused_manifest(root=str(folder), split="train", modalities=["series"]),
    ),
    "stack of a fused csv": (
        _list("id,label,series\na,0,s.npy#0\n", "train.csv"), "s.npy",
        lambda folder: read_fused_manifest(root=str(folder), split="train", modalities=["series"]),
    ),
    "tracks.csv": (nothing, "tracks.csv", lambda folder: read_track_manifest(root=str(folder), split="train")),
    "epic csv": (nothing, "train.csv", lambda folder: read_epic(str(folder), "train", num_verbs=3, num_nouns=3)),
    "procedure": (nothing, "procedure.json", lambda folder: read_procedure(folder / "procedure.json")),
    "object states": (nothing, "a.csv", lambda folder: read_object_states(folder / "a.csv", 10, 3)),
    "pickle": (nothing, "a.pkl", lambda folder: read_pickled_array(folder / "a.pkl").load()),
    "program": (
        nothing, "a.pt", lambda folder: zoo_convert.convert(folder / "a.pt", folder / "o.safetensors", sha256="0" * 64),
    ),
}  # fmt: skip


class Touches:
    """Unpickles by making a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def _npy(header: bytes, data: bytes = bytes(64), version: bytes = b"\x01\x00") -> bytes:
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + data


def _npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def _everywhere(data: bytes) -> bytes:
    """An archive that holds ``data`` under every name that somebody looks for."""
    names = ("features", "ids", "meta", "tracks", "visibility", "size", "fps", "arr_0")
    return _npz(**dict.fromkeys(names, data))


def _objects(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Touches(canary), 1], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _torch(canary: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model_state": Touches(canary), "tracks": Touches(canary)}, buffer)
    return buffer.getvalue()


OBJECTS = b"{'descr': '|O', 'fortran_order': False, 'shape': (8,), }"
HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999), }"
DEEP = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"(" * 4000 + b")" * 4000 + b", }"
POISONS = {
    "empty": lambda canary: b"",
    "zeros": lambda canary: bytes(4096),
    "noise": lambda canary: np.random.RandomState(0).bytes(4096),
    "text": lambda canary: b"hello\n",
    "not utf-8": lambda canary: b"a,b\n\xff\xfe\n",
    "nul": lambda canary: b"a\0b\n",
    "long number": lambda canary: b"9" * 5000,
    "long numbers in lines": lambda canary: b"path,label\na.mp4," + b"9" * 5000 + b"\n",
    "deep": lambda canary: b"[" * 100_000,
    "deep and closed": lambda canary: b"[" * 50_000 + b"]" * 50_000,
    "deep mapping": lambda canary: b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "deep yaml": lambda canary: b"A: " + b"{b: " * 5000 + b"1" + b"}" * 5000,
    "laughs": lambda canary: b"a: &a [x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(ord("b"), ord("q"))
    ),
    "merged laughs": lambda canary: b"a: &a {x: 1}\n" + b"".join(
        b"%c: &%c {<<: [%s]}\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(ord("b"), ord("q"))
    ),
    "quoted laughs": lambda canary: b'MODEL: {NUM_CLASSES: 2}\nDATA: {MEAN: "[&a [x,x], &b [*a,*a,*a,*a], %s]"}' % (
        b", ".join(b"&%c [%s]" % (c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(ord("c"), ord("q")))
    ),
    "bases in a circle": lambda canary: b"_BASE_: [" + b"a.yaml, " * 50 + b"a.yaml]\n",
    "json of other things": lambda canary: json.dumps({"ids": 1, "head_to_classes": {"0": [1e400]}}).encode(),
    "objects npy": _objects,
    "objects without a pickle": lambda canary: _npy(OBJECTS),
    "objects npz": lambda canary: _everywhere(_objects(canary)),
    "objects without a pickle npz": lambda canary: _everywhere(_npy(OBJECTS)),
    "structured": lambda canary: _npy(b"{'descr': [('x', '|O')], 'fortran_order': False, 'shape': (4,), }"),
    "huge npy": lambda canary: _npy(HUGE),
    "huge npz": lambda canary: _everywhere(_npy(HUGE)),
    "negative": lambda canary: _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }"),
    "true shape": lambda canary: _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 16), }"),
    "single numbers": lambda canary: _npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (8,), }"),
    "too short": lambda canary: _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 9), }"),
    "texts": lambda canary: _npy(b"{'descr': '<U4', 'fortran_order': False, 'shape': (2, 2), }"),
    "no width": lambda canary: _npy(b"{'descr': '<U0', 'fortran_order': False, 'shape': (99999999999,), }", b""),
    "deep header": lambda canary: _npy(DEEP),
    "tokens": lambda canary: _npy(b"{'descr': '<f4', 'shape': (2L, '''"),
    "long header": lambda canary: _npy(b" " * 60_000 + b"\n"),
    "longest header": lambda canary: b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(64),
    "cut npz": lambda canary: _everywhere(_npy(HUGE))[:-30],
    "damaged npz": lambda canary: _everywhere(_npy(HUGE)).replace(b"NUMPY", b"NUMPX"),
    "no archive": lambda canary: b"PK\x05\x06" + bytes(18),
    "pickle": lambda canary: pickle.dumps(Touches(canary)),
    "torch": _torch,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_waiting():
    """A test that waits for a pipe ends as one that fails."""

    def stop(*_):
        raise AssertionError("it waited")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def made(folder: Path, entrance: str) -> Path:
    """A folder with all that an entrance needs but the file that it reads."""
    prepare, name, _ = ENTRANCES[entrance]
    folder.mkdir(parents=True)
    prepare(folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_poison(tmp_path, entrance):
    template, canary = made(tmp_path / "template", entrance), tmp_path / "canary"
    _, file, read = ENTRANCES[entrance]
    for number, (name, make) in enumerate(POISONS.items()):
        folder = tmp_path / str(number)
        shutil.copytree(template, folder)
        (folder / file).write_bytes(make(canary))
        try:
            read(folder)
        except DustError as error:
            assert 0 < len(str(error)) < 50_000, name
        except Exception as error:
            raise AssertionError(f"{entrance} answers {name} with {error!r:.500}") from error
        assert not canary.exists(), f"{name} ran"


@pytest.mark.parametrize("special", ["pipe", "device", "folder"])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_what_is_no_file_is_not_waited_for(tmp_path, entrance, special):
    _, file, read = ENTRANCES[entrance]
    path = made(tmp_path / "x", entrance) / file
    if special == "pipe":
        os.mkfifo(path)
    elif special == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    if entrance == "sidecar":
        assert read(tmp_path / "x") == "damaged"
        return
    with pytest.raises(DustError) as caught:
        read(tmp_path / "x")
    assert path.name.split(".")[0] in str(caught.value)
