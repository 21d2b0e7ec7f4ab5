"""Generated keypoints: whose left is where, files, and a model that learns which side moves."""

import numpy as np
import pytest
import torch

from dust.datasets.sample import SampleRequest
from dust.datasets.tracks.files import read_tracks
from dust.datasets.tracks.manifest import read_track_manifest
from dust.datasets.tracks.tracks import PointTracks
from dust.models.tracks import PointTrackLSTM
from dust.synthetic.keypoints import LIMBS, NAMES, generate_keypoints, person
from dust.utils.errors import DataError
from dust.utils.rng import numpy_rng


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("limb", LIMBS)
def test_the_limb_of_the_class_moves_most(limb, away):
    joints = person(limb, 60, away, numpy_rng(0, limb, away))
    moved = joints.std(axis=0).sum(axis=-1)
    side, part = limb.split("_")
    assert NAMES[int(moved.argmax())] == f"{side}_{'wrist' if part == 'arm' else 'ankle'}"
    right_of_the_picture = joints[:, NAMES.index("left_shoulder"), 0].mean() > 0
    assert right_of_the_picture == (not away)  # who faces the camera has the left on our right


def test_files(tmp_path):
    counts = generate_keypoints(tmp_path / "a", sequences=4, frames=10, seed=3)
    assert counts == {"train": 8, "val": 4, "test": 4}
    manifest = read_track_manifest(root=str(tmp_path / "a"), split="train")
    assert manifest.class_names == sorted(LIMBS)
    tracks = read_tracks(manifest.clips[0].path)
    assert tracks.names == NAMES and len(tracks.pairs) == 8 and tracks.xy.shape == (10, 17, 2) and tracks.fps == 30
    generate_keypoints(tmp_path / "b", sequences=4, frames=10, seed=3)
    again = read_tracks(manifest.clips[0].path.replace("/a/", "/b/"))
    np.testing.assert_array_equal(tracks.xy, again.xy)
    with pytest.raises(DataError, match="sequences 2"):
        generate_keypoints(tmp_path / "c", sequences=2)


def test_a_model_learns_from_the_names_which_side_moves(tmp_path):
    """Left arm or right arm, in clips of which half are mirrored: above chance by far on people it has not seen."""
    torch.manual_seed(0)
    generate_keypoints(tmp_path / "a", sequences=40, frames=12)

    def clips(split, **more):
        manifest = read_track_manifest(root=str(tmp_path / "a"), split=split)
        manifest.clips = [clip for clip in manifest.clips if manifest.class_names[clip.label].endswith("arm")]
        return PointTracks(manifest=manifest, views=[0], num_points=17, window=12, stride=12, **more)

    train, test = clips("train", training=True, mirror=0.5), clips("test")
    model = PointTrackLSTM(num_views=1, num_points=17, num_classes=4, hidden_dim=32, layers=1, reducer="flat")
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    batches = []
    for epoch in range(4):
        batch = [train[SampleRequest(epoch, index)][0] for index in range(len(train))]
        inputs = {name: torch.stack([one["inputs"][name] for one in batch]) for name in batch[0]["inputs"]}
        batches.append((inputs, torch.tensor([one["label"] for one in batch])))
    for step in range(80):
        inputs, labels = batches[step % 4]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(**inputs), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = [int(model(**one["inputs"]).argmax()) == one["label"] for one in (test[n] for n in range(len(test)))]
    assert np.mean(right) >= 0.8, right
