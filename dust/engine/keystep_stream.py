"""A trained KeyStep model on a camera: pictures go in one by one, completed steps come out."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from dust.datasets.keystep.frames import procedures_of
from dust.datasets.transforms.device import DeviceTransform
from dust.engine.run_dir import RunDir
from dust.engine.setup import build_for, device_of, device_transform_of
from dust.engine.test import checkpoint_to_test
from dust.engine.weights import load_trained
from dust.models.keystep_stream import StepStream
from dust.procedure.table import state_vectors
from dust.tasks.keystep import step_decoder
from dust.utils.checkpoint import load_checkpoint
from dust.utils.errors import DataError


def open_stream(cfg, procedure: str = "", *, cache: bool = True) -> StepStream:
    """The stream that a configuration's TEST would run, with the checkpoint that it would test.

    ``stream.push(picture)`` takes a KeyStepVideo's pictures as uint8 RGB (C, H, W) of any size, a TemporalEncoder's
    embeddings (D,), and returns a :class:`dust.models.keystep_stream.StepUpdate`.

    Args:
        procedure: the name of what is being done, of those in the data folder's procedure file; "" for the first.
        cache: False encodes all frames of every window anew, for comparison.

    Raises:
        DataError: no such procedure. CheckpointError: nothing to test, or it does not fit.
    """
    data = procedures_of(cfg, "test", labels=False, frames=False)
    what = data.procedure(procedure or next(iter(data.start_states)))
    states = state_vectors(data.state_names) if data.state_names else {}
    device = device_of(cfg)
    path = checkpoint_to_test(cfg, RunDir(cfg.OUTPUT_DIR))
    model = build_for(cfg, device)
    load_trained(cfg, model, path, load_checkpoint(path))
    decoder = step_decoder(cfg)
    return StepStream(
        model,
        decoder,
        functools.partial(decoder.start, what, states),
        frames=cfg.KEYSTEP.FRAMES,
        skip=cfg.KEYSTEP.SKIP_FACTOR,
        phases=cfg.KEYSTEP.INFER.PHASES,
        transform=picture_transform(cfg) if hasattr(model, "embed") else None,
        cache=cache,
    )


def picture_transform(cfg) -> Callable[[Tensor], Tensor]:
    """uint8 (C, H, W) -> normalised float32 (C, size, size) with the side that the model was trained for.

    A picture of another size is scaled here, with antialiasing; the datasets let the decoder scale, which is not the
    same to the last bit. For the same bits push frames as :class:`dust.datasets.keystep.frames.FrameReader` reads them.
    """
    return functools.partial(_prepare, device_transform_of(cfg), cfg.DATA.TRAIN_CROP_SIZE)


def _prepare(transform: DeviceTransform, size: int, picture: Tensor) -> Tensor:
    if picture.dtype != torch.uint8 or picture.ndim != 3:
        raise DataError(
            f"a picture of {picture.dtype} and shape {tuple(picture.shape)} was pushed; it must be uint8 (C, H, W)"
        )
    if picture.shape[1:] != (size, size):
        from torchvision.transforms.v2 import functional as F

        picture = F.resize(picture, [size, size], antialias=True)
    return transform.normalize(picture[None, :, None])[0, :, 0]
