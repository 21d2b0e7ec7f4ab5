"""Random erasing, MixUp and CutMix of clips, on the device.

Zhong et al., https://arxiv.org/abs/1708.04896; Zhang et al., https://arxiv.org/abs/1710.09412; Yun et al.,
https://arxiv.org/abs/1905.04899; the rules are SlowFast's. A clip's boxes are the same in all its frames: they are cut
on the last two axes of (B, C, T, H, W).

All numbers are drawn on the CPU, so that every device gets the same ones; but for the noise of erased boxes, which is
drawn where it is needed (``RandomErasing.noise``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust.utils.errors import ConfigError, DataError
from dust.utils.rng import numpy_rng, torch_generator

Word = int | str


@dataclass(frozen=True)
class RandomErasing:
    """Replaces boxes of some clips, after normalisation.

    Attributes:
        probability: of a clip to be erased in, 0..1.
        mode: ``pixel`` noise N(0, 1) for every pixel | ``rand`` one N(0, 1) colour per frame | ``const`` zeros, the
            data's mean.
        count: boxes per erased clip; together they take the area of one.
        noise: ``device``: drawn where the clips are, so that nothing waits for it; a GPU's numbers are other ones than
            a CPU's | ``cpu``: the same numbers everywhere, 26 ms of the host for 32 clips of 16 x 224 x 224.
        min_area, max_area: share of the frame that is erased, 0..1.
        min_aspect: height / width of a box lies between this and its reciprocal.
    """

    probability: float = 0.25
    mode: str = "pixel"
    count: int = 1
    noise: str = "cpu"
    min_area: float = 0.02
    max_area: float = 1 / 3
    min_aspect: float = 0.3

    def __post_init__(self) -> None:
        problems = _probability_problems(self, "probability")
        if self.mode not in ("pixel", "rand", "const"):
            problems.append(f"mode {self.mode!r}: choose pixel, rand or const")
        if self.noise not in ("device", "cpu"):
            problems.append(f"noise {self.noise!r}: choose device or cpu")
        if self.count < 1:
            problems.append(f"count {self.count}: must be at least 1")
        if not 0 < self.min_area <= self.max_area <= 1:
            problems.append(f"areas {self.min_area}..{self.max_area}: must rise within 0..1")
        if not 0 < self.min_aspect <= 1:
            problems.append(f"min_aspect {self.min_aspect}: must be above 0 and at most 1")
        if problems:
            raise ConfigError(f"random erasing: {'; '.join(problems)}")

    def boxes(self, height: int, width: int, rng: np.random.RandomState) -> list[tuple[int, int, int, int]]:
        """Return the (y, x, h, w) of one clip; empty where the clip is left alone or no box fits a tiny frame."""
        boxes: list[tuple[int, int, int, int]] = []
        if rng.uniform() >= self.probability:
            return boxes
        log_aspect = math.log(self.min_aspect)
        for _ in range(self.count):
            for _ in range(100):
                area = height * width * rng.uniform(self.min_area, self.max_area) / self.count
                aspect = math.exp(rng.uniform(log_aspect, -log_aspect))
                h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
                if 0 < h < height and 0 < w < width:
                    boxes.append((int(rng.randint(0, height - h + 1)), int(rng.randint(0, width - w + 1)), h, w))
                    break
        return boxes

    def erase_(self, video: Tensor, words: tuple[Word, ...]) -> None:
        """Erase in (B, C, T, H, W) float, in place; clip i draws from (words, i)."""
        channels, frames, height, width = video.shape[1:]
        source = video.device if self.noise == "device" else torch.device("cpu")
        for i, clip in enumerate(video):
            boxes = self.boxes(height, width, numpy_rng(*words, "erase", i))
            if not boxes:
                continue
            generator = torch_generator(*words, "noise", i, device=source)
            for y, x, h, w in boxes:
                region = clip[:, :, y : y + h, x : x + w]
                if self.mode == "const":
                    region.zero_()
                else:
                    shape = (channels, frames, h, w) if self.mode == "pixel" else (channels, frames, 1, 1)
                    noise = torch.randn(shape, generator=generator, device=source)
                    region.copy_(noise.to(region.device).expand_as(region))


@dataclass(frozen=True)
class Mix:
    """What was drawn for one batch: weight ``lam`` of a clip against its partner; ``box`` if it is a CutMix.

    ``box`` is (top, bottom, left, right), the part that the partner fills in.
    """

    lam: float = 1.0
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class MixUp:
    """Mixes every clip of a batch with its mirror image in the batch (first with last), one weight for all.

    Labels become soft: class numbers (B,) -> (B, K), where ``label_smoothing`` is spread over all K classes;
    (B, K) targets are mixed as they are, or with ``smooth_shares`` smoothed first. All that also where nothing is
    mixed. A batch of one, and the middle of an odd one, keeps its pixels.

    Attributes:
        num_classes: K, or one K per label name where the label is a dict.
        alpha: of MixUp's Beta(alpha, alpha); 0 is no MixUp.
        cutmix_alpha: the same for CutMix.
        probability: of a batch to be mixed, 0..1.
        switch_prob: of CutMix where both are on, 0..1.
        label_smoothing: 0..1.
        smooth_shares: (B, K) targets are shares of classes that exclude each other, and are smoothed like a class.
    """

    num_classes: int | Mapping[str, int]
    alpha: float = 0.8
    cutmix_alpha: float = 1.0
    probability: float = 1.0
    switch_prob: float = 0.5
    label_smoothing: float = 0.1
    smooth_shares: bool = False

    def __post_init__(self) -> None:
        problems = _probability_problems(self, "probability", "switch_prob", "label_smoothing")
        if self.alpha < 0 or self.cutmix_alpha < 0 or not self.alpha + self.cutmix_alpha > 0:
            problems.append(
                f"alpha {self.alpha} and cutmix_alpha {self.cutmix_alpha}: one must be above 0, none below it"
            )
        counts = self.num_classes.values() if isinstance(self.num_classes, Mapping) else [self.num_classes]
        if any(count < 1 for count in counts):
            problems.append(f"num_classes {self.num_classes}: must be at least 1")
        if problems:
            raise ConfigError(f"mixup: {'; '.join(problems)}")

    def draw(self, height: int, width: int, rng: np.random.RandomState) -> Mix:
        """Return one batch's mix for frames of (height, width).

        A CutMix box has sides sqrt(1 - lam) of the frame's around a point anywhere in it, is cut off at the border,
        and ``lam`` is then the share of the frame that really stays.
        """
        if rng.uniform() >= self.probability:
            return Mix()
        cut = self.cutmix_alpha > 0 and (self.alpha == 0 or bool(rng.uniform() < self.switch_prob))
        alpha = self.cutmix_alpha if cut else self.alpha
        lam = float(rng.beta(alpha, alpha))
        if not cut:
            return Mix(lam=lam)
        side = math.sqrt(1.0 - lam)
        h, w = int(height * side), int(width * side)
        y, x = int(rng.randint(0, height)), int(rng.randint(0, width))
        top, bottom = max(y - h // 2, 0), min(y + h // 2, height)
        left, right = max(x - w // 2, 0), min(x + w // 2, width)
        area = (bottom - top) * (right - left)
        return Mix(lam=1.0 - area / (height * width), box=(top, bottom, left, right))

    def mix_(self, video: Tensor, mix: Mix) -> None:
        """Mix (B, C, T, H, W) float in place."""
        if mix.lam == 1.0 or len(video) == 1:
            return
        if mix.box is None:
            partner = video.flip(0)
            video.mul_(mix.lam).add_(partner, alpha=1.0 - mix.lam)
            return
        top, bottom, left, right = mix.box
        region = video[..., top:bottom, left:right]
        region.copy_(region.flip(0))

    def mix_labels(self, label: Any, mix: Mix) -> Any:
        """Map (B,) int or (B, K) float labels, or a dict of them -> (B, K) float32, or a dict of them."""
        if isinstance(label, Mapping):
            return {name: self._mix_label(value, mix, self._classes_of(name)) for name, value in label.items()}
        return self._mix_label(label, mix, self._classes_of(None))

    def _classes_of(self, name: str | None) -> int:
        if isinstance(self.num_classes, Mapping) == (name is None) or (
            isinstance(self.num_classes, Mapping) and name not in self.num_classes
        ):
            raise DataError(f"mixup: a label named {name!r}, but the numbers of classes are {self.num_classes}")
        return self.num_classes[name] if isinstance(self.num_classes, Mapping) else self.num_classes  # type: ignore[index]

    def _mix_label(self, label: Tensor, mix: Mix, num_classes: int) -> Tensor:
        if label.ndim == 1 and not label.is_floating_point():
            off = self.label_smoothing / num_classes
            target = torch.full((len(label), num_classes), off, device=label.device)
            target.scatter_(1, label.long()[:, None], 1.0 - self.label_smoothing + off)
        elif label.ndim == 2 and label.shape[1] == num_classes:
            smoothing = self.label_smoothing if self.smooth_shares else 0.0
            target = label.float() * (1.0 - smoothing) + smoothing / num_classes
        else:
            raise DataError(
                f"mixup: a label of shape {tuple(label.shape)} and type {label.dtype}; "
                f"it takes (B,) class numbers or (B, {num_classes}) targets"
            )
        return target * mix.lam + target.flip(0) * (1.0 - mix.lam)


def _probability_problems(thing: Any, *names: str) -> list[str]:
    values = {name: getattr(thing, name) for name in names}
    return [f"{name} {value}: must be in 0..1" for name, value in values.items() if not 0 <= value <= 1]
