"""A training split as evaluation items: several augmented views of each clip, always the same ones."""

from typing import Any

import torch
from torch.utils.data import Dataset

from dust.datasets.protocol import ClipDataset
from dust.datasets.sample import BadClip, SampleRequest


class AugmentedViews(Dataset[Any]):
    """Item ``index`` is one clip as training would see it in its first ``count`` epochs: each input (count, ...).

    Args:
        dataset: of a training split, as it is trained on.
        count: views of each clip.
    """

    def __init__(self, dataset: Any, count: int) -> None:
        self.dataset: ClipDataset = dataset
        self.count = count
        self.clips, self.class_names = dataset.clips, dataset.class_names

    def class_counts(self) -> list[int]:
        return self.dataset.class_counts()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        samples = []
        for epoch in range(self.count):
            views = self.dataset[SampleRequest(epoch, index)]
            if isinstance(views, BadClip):
                return views
            samples.append(views[0])
        first = samples[0]
        inputs = {name: torch.stack([sample["inputs"][name] for sample in samples]) for name in first["inputs"]}
        return {**first, "inputs": inputs}
