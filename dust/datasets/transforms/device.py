"""The one place where clips become float: augment, normalise, erase and mix a batch on the device it is on."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dust.datasets.transforms.device_randaugment import DeviceRandAugment
from dust.datasets.transforms.mixing import MixUp, RandomErasing, Word
from dust.utils.errors import ConfigError, DataError
from dust.utils.rng import numpy_rng
from dust.utils.tensors import may_keep


class DeviceTransform:
    """uint8 clips -> normalised float32; in training RandAugment before that, random erasing, then MixUp or CutMix.

    Args:
        mean, std: per channel (or one for all), in 0..1 units, in the order R, G, B.
        reverse_channels: hand the channels on in reverse order, BGR; each keeps its own mean and std.
        subtract_clip_mean: take away each pixel's mean over the clip's frames as well, so that what stands still is 0.
        randaugment, erasing, mixup: training only; None is off.

    Raises:
        ConfigError: mean and std of different or no length, or a std that is not positive.
    """

    def __init__(
        self,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        reverse_channels: bool = False,
        subtract_clip_mean: bool = False,
        randaugment: DeviceRandAugment | None = None,
        erasing: RandomErasing | None = None,
        mixup: MixUp | None = None,
    ) -> None:
        if not mean or len(mean) != len(std) or any(value <= 0 for value in std):
            raise ConfigError(f"mean {list(mean)} and std {list(std)}: as many of one as of the other, std above 0")
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.reverse_channels = reverse_channels
        self.subtract_clip_mean = subtract_clip_mean
        self.randaugment = randaugment
        self.erasing = erasing
        self.mixup = mixup
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @classmethod
    def from_config(cls, cfg, num_classes: int | Mapping[str, int] | None = None) -> dict[str, Any]:
        """Return DATA.MEAN, STD, REVERSE_INPUT_CHANNEL, and what AUG.RE_* and MIXUP.* switch on.

        ``num_classes`` is how many classes the labels have, by name where a label is a dict; None: MODEL.NUM_CLASSES.
        """
        randaugment = erasing = mixup = None
        aug = cfg.AUG
        if aug.ENABLE and aug.AA_TYPE and aug.AA_WHERE == "device":
            randaugment = DeviceRandAugment(aug.AA_TYPE, interpolation=aug.INTERPOLATION)
        if aug.ENABLE and aug.RE_PROB > 0:
            erasing = RandomErasing(probability=aug.RE_PROB, mode=aug.RE_MODE, count=aug.RE_COUNT, noise=aug.RE_NOISE)
        if cfg.MIXUP.ENABLE:
            mixup = MixUp(
                num_classes=cfg.MODEL.NUM_CLASSES if num_classes is None else num_classes,
                alpha=cfg.MIXUP.ALPHA,
                cutmix_alpha=cfg.MIXUP.CUTMIX_ALPHA,
                probability=cfg.MIXUP.PROB,
                switch_prob=cfg.MIXUP.SWITCH_PROB,
                smooth_shares=cfg.DATA.SOFT_LABELS,
                label_smoothing=cfg.MIXUP.LABEL_SMOOTH_VALUE,
            )
        return {
            "mean": cfg.DATA.MEAN,
            "std": cfg.DATA.STD,
            "reverse_channels": cfg.DATA.REVERSE_INPUT_CHANNEL,
            "subtract_clip_mean": cfg.DATA.SUBTRACT_CLIP_MEAN,
            "randaugment": randaugment,
            "erasing": erasing,
            "mixup": mixup,
        }

    def __call__(
        self, batch: Mapping[str, Any], *, training: bool, seed_words: tuple[Word, ...] = ()
    ) -> dict[str, Any]:
        """Return a new batch whose uint8 (B, C, T, H, W) inputs are float32; the given one is not changed.

        Other inputs pass as they are. A batch without ``inputs`` (all its clips were bad) passes whole.

        Args:
            training: augment, erase and mix; with mixing on, ``label`` becomes soft (see :class:`MixUp`).
            seed_words: what all draws are derived from, e.g. (seed, "mix", step, rank); needed for either.

        Raises:
            ConfigError: clips whose channels do not fit mean and std.
            DataError: a batch that cannot be mixed: several videos of different size, or other data beside them.
        """
        batch = dict(batch)
        if "inputs" not in batch:
            return batch
        inputs = dict(batch["inputs"])
        names = [name for name, value in inputs.items() if _is_video(value)]
        draws = training and bool(names) and bool(self.randaugment or self.erasing or self.mixup)
        if draws and not seed_words:
            raise ValueError("augmenting, erasing and mixing need seed_words, or every batch would draw the same")
        for name in names:
            if draws and self.randaugment is not None:
                inputs[name] = self.randaugment(inputs[name], (*seed_words, name))
            inputs[name] = self.normalize(inputs[name])
        batch["inputs"] = inputs
        if not draws:
            return batch
        if self.erasing is not None:
            for name in names:
                self.erasing.erase_(inputs[name], (*seed_words, name))
        if self.mixup is not None:
            batch["label"] = self._mix(self.mixup, inputs, names, batch["label"], seed_words)
        return batch

    def normalize(self, video: Tensor) -> Tensor:
        """Map (B, C, T, H, W) uint8 -> float32 (x / 255 - mean) / std, channels reversed and the clip's mean taken
        away if so set.

        Raises:
            ConfigError: other channels than mean and std have; single frames, which are their own mean.
        """
        channels = video.shape[1]
        if len(self.mean) not in (1, channels):
            raise ConfigError(
                f"clips of {channels} channels, but {len(self.mean)} values in the mean {list(self.mean)} and the std; "
                f"set DATA.MEAN and DATA.STD to one value or to {channels}"
            )
        if self.reverse_channels:
            video = video.flip(1)
        scale, shift = self._scale_and_shift(video.device)
        video = video.to(torch.float32, memory_format=torch.contiguous_format).mul_(scale).add_(shift)
        if not self.subtract_clip_mean:
            return video
        if video.shape[2] == 1:
            raise ConfigError("DATA.SUBTRACT_CLIP_MEAN True: nothing is left of single frames; set it to False")
        return video - video.mean(dim=2, keepdim=True)

    def _scale_and_shift(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return scale and shift of x * scale + shift = (x / 255 - mean) / std, each (C, 1, 1, 1) in the order that the
        channels come out in."""
        keep = may_keep()
        found = self._constants.get(device) if keep else None
        if found is None:
            with torch.inference_mode(False):
                mean, std = (torch.tensor(values, dtype=torch.float64) for values in (self.mean, self.std))
                if self.reverse_channels:
                    mean, std = mean.flip(0), std.flip(0)
                shape = (-1, 1, 1, 1)
                scale, shift = (value.float().view(shape).to(device) for value in (1.0 / (255.0 * std), -mean / std))
            found = scale, shift
            if keep:
                self._constants[device] = found
        return found

    def _mix(
        self, mixup: MixUp, inputs: dict[str, Any], names: list[str], label: Any, seed_words: tuple[Word, ...]
    ) -> Any:
        others = [name for name, value in inputs.items() if name not in names and isinstance(value, Tensor)]
        sizes = {tuple(inputs[name].shape[-2:]) for name in names}
        if others:
            raise DataError(f"mixup mixes uint8 video only, and the batch also has {', '.join(others)}; switch it off")
        if len(sizes) > 1:
            raise DataError(f"mixup needs videos of one size, and the batch has {sorted(sizes)}; switch it off")
        height, width = sizes.pop()
        mix = mixup.draw(height, width, numpy_rng(*seed_words, "mixup"))
        for name in names:
            mixup.mix_(inputs[name], mix)
        return mixup.mix_labels(label, mix)


def _is_video(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.uint8 and value.ndim == 5
