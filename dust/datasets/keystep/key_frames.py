"""Key frames of recorded procedures, for the contrastive training of a frame encoder.

Key-frame sampling is STORM-PSR's (https://arxiv.org/abs/2510.12385). A frame is an input ``video`` of one picture,
uint8 (C, 1, H, W); whole pictures are scaled to a square, without a crop, as published.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dust.datasets.build import DATASET_REGISTRY
from dust.datasets.keystep.files import ProcedureData, Recording
from dust.datasets.keystep.frames import FrameReader, names_of_outputs, procedures_of
from dust.datasets.sample import BadClip, SampleRequest
from dust.datasets.samplers import DrawnBatchSampler
from dust.datasets.transforms.augment import Augmentation, augment_clip, build_augmentations
from dust.decode.folders import scan_pictures
from dust.decode.segment import FRAMES, Segment
from dust.procedure.table import State
from dust.utils.errors import ConfigError, DataError, VideoError
from dust.utils.rng import numpy_rng

logger = logging.getLogger(__name__)

BACKGROUND = "background"  # class 0


class KeyFrame(NamedTuple):
    """Frame number ``frame`` of a recording (or picture of a folder), of class ``label``."""

    id: str
    path: str
    label: int
    frame: int

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """The frame alone: two of one recording have labels of their own."""
        return ((self.path, Segment(self.frame, self.frame + 1, FRAMES).part),)


def key_frames(
    states: Sequence[tuple[int, State]], num_frames: int, count: int, *, wrong: bool = False
) -> dict[int, State]:
    """Map frame -> its state, for the ``count`` frames from each change on (and from the initial state's frame), as far
    as no other change comes first. States with a wrong installation (-1) have none, unless ``wrong`` makes them states
    like the others."""
    found: dict[int, State] = {}
    ends = [*(frame for frame, _ in states[1:]), num_frames]
    for (frame, state), end in zip(states, ends, strict=True):
        if wrong or -1 not in state:
            found.update(dict.fromkeys(range(frame, min(frame + count, end, num_frames)), state))
    return found


def background_frames(
    states: Sequence[tuple[int, State]], num_frames: int, count: int, offset: tuple[int, int], *, wrong: bool = False
) -> list[int]:
    """Return hard negatives: the frames from ``offset[0] * count`` to ``offset[1] * count`` before each change, the
    second not included, that are nobody's key frames."""
    keys = key_frames(states, num_frames, count, wrong=wrong)
    start, end = offset
    found = {frame for change, _ in states[1:] for frame in range(max(0, change - start * count), change - end * count)}
    return sorted(found - set(keys))


def state_name(state: State) -> str:
    """Return ``10x`` of (1, 0, -1)."""
    return "".join("x" if one == -1 else str(one) for one in state)


def state_classes(data: ProcedureData, count: int, *, wrong: bool = False) -> list[str]:
    """Return ``background`` and the states that are told apart: those that the data names, else all of its key frames;
    with ``wrong`` also those of its key frames in which a component is put on wrongly."""
    named = [name for name in data.state_names if name and not set(name) - {"0", "1"}]
    frames = [key_frames(one.states, one.num_frames, count, wrong=wrong) for one in data.recordings]
    seen = sorted({state_name(state) for found in frames for state in found.values()})
    return [BACKGROUND, *(named + [name for name in seen if "x" in name] if named else seen)]


@DATASET_REGISTRY.register()
class KeyFrames(Dataset[Any]):
    """Key frames of all recordings, labelled by the state that they show, without any manual label of a frame.

    In training, batch b of an epoch is ``n_classes`` states, of each ``n_real`` recorded and ``n_synth`` synthetic
    pictures, and ``n_bg`` background frames, drawn from (seed, epoch, b); item ``SampleRequest(epoch, b * size + i)``
    is picture i of its ``size``, a list of ``num_views`` views. ``training_sampler`` asks for whole ones, so that
    TRAIN.BATCH_SIZE counts them and is 1 as a rule. Where a state has only recorded or only synthetic pictures it takes
    twice as many of them. Otherwise item ``index`` is a recording with all its key and background frames: inputs
    ``video`` (V, C, 1, H, W), ``label`` and ``frames`` (V,).

    Attributes:
        clips: the key frames in training, else the recordings that have any.
        class_names: ``background`` and states such as 10010000000.
        size: pictures in a batch of training.

    Args:
        data: recordings with states.
        class_names: see above; frames of other states are left out.
        count: frames after a change that carry its state.
        offset: see :func:`background_frames`.
        n_classes: states in a batch, 0 = all.
        n_iters: batches in an epoch.
        num_views: differently augmented views of each picture, one behind the other and of one id: 2 for SimCLR.
        jitter: brightness, contrast and saturation times a factor in 1 -+ these; empty = none.
        blur: (low, high) sigma of a 5 x 5 Gaussian, pixels; empty = none.
        augmentations: what happens to each view after that, see :mod:`dust.datasets.transforms.augment`.
        synthetic: folder that has a folder of pictures for each state, or "".
        wrong: states in which a component is put on wrongly are states like the others.

    Raises:
        DataError: a batch cannot be drawn; says which key to change.
    """

    def __init__(
        self,
        *,
        data: ProcedureData,
        class_names: Sequence[str],
        reader: FrameReader,
        training: bool = False,
        count: int = 20,
        offset: tuple[int, int] = (7, 6),
        n_classes: int = 11,
        n_real: int = 8,
        n_synth: int = 0,
        n_bg: int = 16,
        n_iters: int = 500,
        num_views: int = 1,
        jitter: Sequence[float] = (),
        blur: Sequence[float] = (),
        augmentations: Sequence[Augmentation] = (),
        synthetic: str = "",
        seed: int = 0,
        wrong: bool = False,
    ) -> None:
        self.class_names = list(class_names)
        self.reader, self.training, self.seed = reader, training, seed
        self.n_classes, self.n_real, self.n_synth, self.n_bg, self.n_iters = n_classes, n_real, n_synth, n_bg, n_iters
        self.num_views, self.jitter, self.blur = num_views, tuple(jitter), tuple(blur)
        self.augmentations = list(augmentations)
        self._wrong = wrong
        self._of_recording = self._find(data.recordings, count, offset, named=bool(data.state_names))
        frames = [frame for found in self._of_recording.values() for frame in found]
        self.real: dict[int, list[KeyFrame]] = {}
        for frame in frames:
            self.real.setdefault(frame.label, []).append(frame)
        self.synthetic: dict[int, list[KeyFrame]] = {}
        if n_synth and training:
            self.synthetic = _synthetic_pictures(synthetic, self.class_names, reader.options.get("pattern", ""))
        self.clips: list[Any] = frames
        if training:
            self._check_batches()
        else:
            self.clips = [one for one in data.recordings if self._of_recording.get(one.id)]

    @classmethod
    def from_config(
        cls, cfg, split: str, class_names: Sequence[str] | None = None, *, views: str | None = None
    ) -> dict[str, Any]:
        node = cfg.KEYSTEP.CONTRAST
        data = procedures_of(cfg, split)
        if class_names is None:
            class_names = _state_classes(cfg, data, split)
        if node.LOSS == "ce" and cfg.MODEL.NUM_CLASSES not in (-1, 0, len(class_names)):
            raise ConfigError(
                f"MODEL.NUM_CLASSES {cfg.MODEL.NUM_CLASSES}: cross-entropy needs {len(class_names)} for {data.source}: "
                f"background and {len(class_names) - 1} states"
            )
        return {
            "data": data,
            "class_names": class_names,
            "reader": FrameReader.of(cfg),
            "training": (views or split) == "train",
            "count": node.KEY_FRAMES,
            "offset": tuple(node.BG_OFFSET),
            "n_classes": node.N_CLASSES,
            "n_real": node.N_REAL,
            "n_synth": node.N_SYNTH,
            "n_bg": node.N_BG,
            "n_iters": node.N_ITERS,
            "num_views": 2 if node.LOSS == "simclr" else 1,
            "jitter": node.JITTER,
            "blur": node.BLUR,
            "augmentations": build_augmentations(cfg.AUG.LIST) if cfg.AUG.ENABLE else (),
            "synthetic": node.SYNTH_DIR,
            "seed": cfg.RNG_SEED,
            "wrong": cfg.KEYSTEP.EXE_MODE == "mistakes",
        }

    @classmethod
    def class_names_of(cls, cfg, split: str) -> Sequence[str]:
        """Return the states where they are classified; else the components, as later stages have them."""
        if cfg.KEYSTEP.CONTRAST.LOSS != "ce":
            return names_of_outputs(cfg, split)
        return _state_classes(cfg, procedures_of(cfg, split), split)

    def _find(
        self, recordings: Sequence[Recording], count: int, offset: tuple[int, int], *, named: bool
    ) -> dict[str, list[KeyFrame]]:
        """Return key and background frames of each recording, in order of time."""
        numbers = {name: label for label, name in enumerate(self.class_names)}
        found: dict[str, list[KeyFrame]] = {}
        unknown: Counter[str] = Counter()
        for one in recordings:
            if not one.num_frames:
                logger.warning("%s cannot be read: %s is left out", one.path, one.id)
                continue
            wrong, labelled = self._wrong, (one.states, one.num_frames, count)
            labels = dict.fromkeys(background_frames(*labelled, offset, wrong=wrong), 0)
            for frame, state in key_frames(*labelled, wrong=wrong).items():
                if state_name(state) in numbers:
                    labels[frame] = numbers[state_name(state)]
                else:
                    unknown[state_name(state)] += 1
            found[one.id] = [KeyFrame(f"{one.id}:{f}", one.path, label, f) for f, label in sorted(labels.items())]
        if unknown:
            # where nobody lists the states, these are what training shows: others in another split are a surprise
            level = logging.INFO if self.training or named else logging.WARNING
            logger.log(level, "key frames of %d states that are no class are left out: %s", len(unknown), dict(unknown))
        return found

    def _check_batches(self) -> None:
        present = sorted((set(self.real) | set(self.synthetic)) - {0})
        if len(present) < max(2, self.n_classes):
            raise DataError(
                f"{len(present)} states have pictures, KEYSTEP.CONTRAST.N_CLASSES is {self.n_classes}: at least 2 are "
                "needed; set N_CLASSES to what there is, or 0 for all"
            )
        if self.n_bg and 0 not in self.real:
            raise DataError(
                "no recording has a background frame: the steps follow each other too closely. Set "
                "KEYSTEP.CONTRAST.N_BG 0, or lower KEY_FRAMES or BG_OFFSET"
            )
        self._present = np.array(present)
        self.size = (self.n_classes or len(present)) * (self.n_real + self.n_synth) + self.n_bg

    def class_counts(self) -> list[int]:
        """Return how many recorded pictures each class has."""
        return [len(self.real.get(label, ())) for label in range(len(self.class_names))]

    def __len__(self) -> int:
        return self.n_iters * self.size if self.training else len(self.clips)

    def training_sampler(
        self, batch_size: int, *, seed: int, global_batch: int | None = None, rank: int = 0, world_size: int = 1
    ) -> DrawnBatchSampler:
        """Return the sampler of whole batches as they are drawn, ``batch_size`` of them at once."""
        where: dict[str, Any] = {"seed": seed, "global_batch": global_batch, "rank": rank, "world_size": world_size}
        return DrawnBatchSampler(self.n_iters, self.size, batch_size, **where)

    # -------------------------------------------------------------------------------------------------------- items

    def draw(self, epoch: int, batch: int) -> list[KeyFrame]:
        """Return the pictures of one batch, states side by side and background last."""
        rng = numpy_rng(self.seed, "key frames", epoch, batch)
        pictures: list[KeyFrame] = []
        for label in rng.choice(self._present, self.n_classes or len(self._present), replace=False).tolist():
            real, synthetic = self.real.get(label, []), self.synthetic.get(label, [])
            both = self.n_real + self.n_synth
            pictures += _some(real, self.n_real if synthetic else both, rng)
            pictures += _some(synthetic, self.n_synth if real else both, rng)
        return pictures + _some(self.real.get(0, []), self.n_bg, rng)

    def __getitem__(self, key: SampleRequest | int) -> Any:
        assert isinstance(key, SampleRequest) == self.training, (
            "a training picture is asked for with its epoch, others without"
        )
        return self.__getitems__([key])[0] if isinstance(key, SampleRequest) else self._recording(key)

    def __getitems__(self, keys: Sequence[Any]) -> list[Any]:
        """Return what PyTorch's loader asks for: the pictures of a recording are read in one go."""
        if not self.training:
            return [self[key] for key in keys]
        batches = dict.fromkeys((key.epoch, key.sample // self.size) for key in keys)
        drawn = {batch: self.draw(*batch) for batch in batches}
        pictures = [drawn[key.epoch, key.sample // self.size][key.sample % self.size] for key in keys]
        by_path: dict[str, list[int]] = {}
        for place, picture in enumerate(pictures):
            by_path.setdefault(picture.path, []).append(place)
        items: list[Any] = [None] * len(keys)
        for path, places in by_path.items():
            try:
                frames = self.reader.read(path, [pictures[place].frame for place in places])
            except VideoError as error:
                for place in places:
                    items[place] = BadClip(pictures[place].id, path, error.reason)
                continue
            for place, frame in zip(places, frames, strict=True):
                views = [self._augment(frame, keys[place], view) for view in range(self.num_views)]
                items[place] = [_sample(pictures[place], view) for view in views]
        return items

    def _augment(self, picture: Tensor, key: SampleRequest, view: int) -> Tensor:
        """Map (C, H, W) uint8 -> the same, in other colours and blurred."""
        from torchvision.transforms.v2 import functional as F

        rng = numpy_rng(self.seed, "augment", key.epoch, *divmod(key.sample, self.size), view)
        adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)
        for i in rng.permutation(len(self.jitter)):
            strength = self.jitter[i]
            picture = adjust[i](picture, float(rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength)))
        if self.blur:
            low, high = self.blur
            picture = F.gaussian_blur(picture, [5, 5], [float(rng.uniform(low, high))])
        return augment_clip(picture[None], self.augmentations, rng)[0]

    def _recording(self, index: int) -> Any:
        one = self.clips[index]
        frames = self._of_recording[one.id]
        try:
            pictures = self.reader.read(one.path, [frame.frame for frame in frames])
        except VideoError as error:
            return BadClip(one.id, one.path, error.reason)
        return {
            "inputs": {"video": pictures[:, :, None]},
            "label": torch.tensor([frame.label for frame in frames]),
            "frames": torch.tensor([frame.frame for frame in frames]),
            "id": one.id,
            "path": one.path,
        }


def _state_classes(cfg, data: ProcedureData, split: str) -> list[str]:
    known = data.state_names and cfg.KEYSTEP.EXE_MODE != "mistakes"
    train = data if split == "train" or known else procedures_of(cfg, "train")
    return state_classes(train, cfg.KEYSTEP.CONTRAST.KEY_FRAMES, wrong=cfg.KEYSTEP.EXE_MODE == "mistakes")


def _sample(picture: KeyFrame, pixels: Tensor) -> dict[str, Any]:
    return {"inputs": {"video": pixels[:, None]}, "label": picture.label, "id": picture.id, "path": picture.path}


def _some(pool: Sequence[KeyFrame], count: int, rng: np.random.RandomState) -> list[KeyFrame]:
    """Return ``count`` of them, each once as far as there are enough; none of an empty pool."""
    if not pool or not count:
        return []
    return [pool[i] for i in rng.choice(len(pool), count, replace=len(pool) < count)]


def _synthetic_pictures(folder: str, class_names: Sequence[str], pattern: str) -> dict[int, list[KeyFrame]]:
    found: dict[int, list[KeyFrame]] = {}
    for label, name in enumerate(class_names[1:], 1):
        home = Path(folder) / name
        count = len(scan_pictures(home, pattern).found) if home.is_dir() else 0
        if count:
            found[label] = [KeyFrame(f"synthetic/{name}:{i}", str(home), label, i) for i in range(count)]
    if not found:
        raise DataError(
            f"KEYSTEP.CONTRAST.SYNTH_DIR {folder!r} has no folder of pictures that is called as a state, such as "
            f"{class_names[-1]}; set N_SYNTH 0 to do without"
        )
    return found
