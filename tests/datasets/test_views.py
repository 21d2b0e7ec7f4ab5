"""Augmented views of training clips as items of an extraction."""

import torch

from dust.datasets.sample import BadClip, SampleRequest
from dust.datasets.views import AugmentedViews


class Clips(torch.utils.data.Dataset):
    clips, class_names = ["a", "b"], ["x"]

    def class_counts(self):
        return [2]

    def __len__(self):
        return 2

    def __getitem__(self, key):
        assert isinstance(key, SampleRequest)
        if key.sample == 1 and key.epoch == 1:
            return BadClip("b", "b.mp4", "cut")
        return [{"inputs": {"video": torch.full((3, 2), 10.0 * key.epoch + view)}, "id": "a"} for view in range(2)]


def test_each_epochs_first_view_is_one():
    views = AugmentedViews(Clips(), 3)
    item = views[0]
    assert item["id"] == "a" and item["inputs"]["video"][:, 0, 0].tolist() == [0.0, 10.0, 20.0]
    assert len(views) == 2 and views.class_counts() == [2] and isinstance(views[1], BadClip)
