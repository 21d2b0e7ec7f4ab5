"""What a prediction reads of a list of several modalities is what a test reads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dust.datasets.manifest.manifest import Clip, Manifest
from dust.datasets.multimodal.fusion import FusedDataset
from dust.datasets.multimodal.fusion_manifest import read_fused_manifest
from dust.datasets.multimodal.series import SeriesRules
from dust.datasets.transforms.clip import EvalTransform
from dust.datasets.transforms.frames import ClipSampler
from dust.datasets.video.video import VideoDataset
from dust.decode.segment import Segment
from dust.deploy.reading_fused import FusedReader, series_of
from tests.datasets.clip_files import write_clip


def test_a_window_of_a_list_is_read_as_a_test_reads_it(tmp_path):
    write_clip(tmp_path / "long.mp4", 30, rate=10)
    own = np.arange(0, 2.5, 0.05)
    np.savez(tmp_path / "watch.npz", series=own[None].astype(np.float32), time=own)
    (tmp_path / "test.csv").write_text(
        "id,label,video,series,start,end,offset_s\na,0,long.mp4,watch.npz,1,2,0.5\nb,1,long.mp4,watch.npz,,,\n"
    )
    modalities = ("video", "series")
    manifest = read_fused_manifest(root=str(tmp_path), split="test", modalities=modalities, class_names=["0", "1"])
    video = {
        "sampler": ClipSampler(mode="dense", num_frames=4, sampling_rate=2, target_fps=10), "seed": 5,
        "eval_transform": EvalTransform(crop_size=32, short_side=40, num_crops=1), "num_temporal_views": 2,
    }  # fmt: skip

    def dataset_of(clips):
        return FusedDataset(
            manifest=replace(manifest, clips=list(clips)), modalities=modalities, split="test", normalize=False,
            video=video, rules=SeriesRules(1, 20, fit="resample"), check=False,
        )  # fmt: skip

    alone = VideoDataset(manifest=Manifest([], ["0", "1"], "", False), **video)
    reader = FusedReader(dataset_of, lambda path: manifest.clips, modalities, alone, None)
    expected = dataset_of(manifest.clips)
    for index, clip in enumerate(manifest.clips):
        reading = reader.read(clip)
        assert not reading.error, reading.error
        (item,) = reading.items
        torch.testing.assert_close(item["inputs"], expected[index]["inputs"], rtol=0, atol=0)


def reader_of_series(root):
    own = np.arange(0, 4, 0.05)
    np.savez(root / "watch.npz", series=own[None].astype(np.float32), time=own)
    manifest = Manifest([], ["0", "1"], "", False)
    rules = SeriesRules(1, 20, fit="resample")

    def dataset_of(clips):
        return FusedDataset(
            manifest=replace(manifest, clips=list(clips)), modalities=("series",), split="test", normalize=False,
            video=None, rules=rules, check=False,
        )  # fmt: skip

    return FusedReader(dataset_of, lambda path: [], ("series",), None, None)


def test_a_segment_of_a_series_is_its_window(tmp_path):
    reader, path = reader_of_series(tmp_path), str(tmp_path / "watch.npz")
    for segment, first, last in ((Segment(1, 3), 1, 3), (Segment(2), 2, 4), (None, 0, 4)):
        reading = reader.read(series_of(Clip(f"{path}#", path, None, segment=segment)))
        assert not reading.error, reading.error
        values = reading.items[0]["inputs"]["series"]
        assert first - 0.1 < values.min() < first + 0.2 and last - 0.2 < values.max() < last + 0.1, "they are its times"


def test_hidden_files_of_a_folder_are_no_series(tmp_path, caplog):
    reader = reader_of_series(tmp_path)
    for name in ("._watch.npz", ".cache/old.npy", "b/s10.npy", "b/s9.npy", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with caplog.at_level("INFO", logger="dust"):
        found = [str(Path(path).relative_to(tmp_path)) for path in reader.in_folder(str(tmp_path))]
    assert found == ["b/s9.npy", "b/s10.npy", "watch.npz"]
    assert "2 x hidden" in caplog.text and "1 x no series" in caplog.text and "notes.txt" in caplog.text
