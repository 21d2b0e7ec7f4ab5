"""What a prediction reads of a list of several modalities is what a test reads."""

from dataclasses import replace

import numpy as np
import torch

from dust.datasets.manifest.manifest import Manifest
from dust.datasets.multimodal.fusion import FusedDataset
from dust.datasets.multimodal.fusion_manifest import read_fused_manifest
from dust.datasets.multimodal.series import SeriesRules
from dust.datasets.transforms.clip import EvalTransform
from dust.datasets.transforms.frames import ClipSampler
from dust.datasets.video.video import VideoDataset
from dust.deploy.reading_fused import FusedReader
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
