"""Whole recordings, frame by frame: in order, once, and a bad one apart."""

import pickle
from dataclasses import replace

import pytest
import torch

import dust.datasets.keystep.frames
import dust.datasets.keystep.key_frames
import dust.datasets.keystep.windows
from dust.datasets.keystep.files import Recording
from dust.datasets.keystep.frames import FrameReader, RecordingFrames
from dust.datasets.sample import BadClip
from dust.utils.errors import ConfigError


def test_pieces_are_the_recording_once_in_order(data, monkeypatch):
    monkeypatch.setattr(dust.datasets.keystep.frames, "PIECE", 1)
    frames = RecordingFrames(data=data, reader=FrameReader(16))
    pieces = frames.windows(stride=1, chunk=50)
    assert len(pieces) == sum(-(-one.num_frames // 50) for one in data.recordings)
    for index, one in enumerate(data.recordings):
        numbers = range(pieces.first_item(index), pieces.first_item(index + 1))
        found = [pieces[number] for number in numbers]
        assert {item["id"] for item in found} == {one.id}
        video = torch.cat([item["inputs"]["video"] for item in found])
        assert video.shape == (one.num_frames, 3, 1, 16, 16) and torch.equal(video, frames[index]["inputs"]["video"])
    with pytest.raises(ConfigError, match="FEATURES.STRIDE 4"):
        frames.windows(stride=4, chunk=50)


def test_a_recording_that_cannot_be_read_is_one_bad_item(data, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    bad, late = Recording("bad", str(tmp_path / "bad.mp4")), replace(data.recordings[1], num_frames=0)
    frames = RecordingFrames(data=replace(data, recordings=[bad, late, data.recordings[0]]), reader=FrameReader(16))
    pieces = frames.windows(stride=0, chunk=8)
    assert isinstance(pieces[0], BadClip) and pieces[2]["id"] == data.recordings[0].id
    assert "when its frames were counted" in pieces[1].reason


def test_reading_on_opens_a_file_once(data, monkeypatch):
    opened = []
    monkeypatch.setattr(dust.datasets.keystep.frames, "PIECE", 1)
    real = dust.datasets.keystep.frames.open_clip
    monkeypatch.setattr(
        dust.datasets.keystep.frames, "open_clip", lambda path, **options: opened.append(path) or real(path, **options)
    )
    pieces = RecordingFrames(data=data, reader=FrameReader(16)).windows(stride=1, chunk=20)
    for index in (0, 1):
        pieces[index]
    assert opened == [data.recordings[0].path]
    assert pickle.loads(pickle.dumps(pieces)).frames.reader._open is None
