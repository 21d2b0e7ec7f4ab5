"""What training and testing both need: device, precision, transforms, the model."""

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.fsdp import FSDPModule

from dust.config import CfgNode
from dust.datasets.transforms.device import DeviceTransform
from dust.engine.backends import Backends
from dust.engine.sharding import blocks_of, shard
from dust.engine.step import GradSync
from dust.launch.rendezvous import own_gpu, read_dist_env
from dust.models import build_model
from dust.utils import distributed
from dust.utils.errors import ConfigError
from dust.utils.registry import build, import_extensions

logger = logging.getLogger(__name__)

#: Megabytes of gradients that GPUs exchange at a time.
GPU_BUCKET_MB = 100
#: Of one model, which are compiled by themselves, in all sizes of batches.
MOST_KINDS_OF_BLOCKS = 64

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


def build_device(cfg: CfgNode) -> torch.device:
    """Return the device of this process. ``NUM_GPUS 0`` is the CPU."""
    if not cfg.NUM_GPUS:
        return torch.device("cpu")
    env = read_dist_env(os.environ)  # None where all processes were started here, each of which sees all GPUs
    return torch.device("cuda", own_gpu(cfg.NUM_GPUS, distributed.local_rank(), env.local_size if env else 1))


def build_autocast(cfg: CfgNode, device: torch.device) -> Autocast:
    """Return the context of forward passes: autocast in TRAIN.AMP_DTYPE if TRAIN.MIXED_PRECISION."""
    if not cfg.TRAIN.MIXED_PRECISION:
        return contextlib.nullcontext
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}[cfg.TRAIN.AMP_DTYPE]
    return functools.partial(torch.autocast, device_type=device.type, dtype=dtype)


def build_device_transform(cfg: CfgNode, num_classes: int | Mapping[str, int] | None = None) -> DeviceTransform:
    """Build what normalises, and in training erases and mixes, as cfg.DATA, cfg.AUG and cfg.MIXUP say.

    ``num_classes`` is a task's ``label_classes``; only mixing asks for it.
    """
    return build(DeviceTransform, cfg, num_classes)


def build_for(cfg: CfgNode, device: torch.device) -> nn.Module:
    """Return the model of cfg on its device, initialised from RNG_SEED."""
    import_extensions(cfg.IMPORTS)
    build(Backends, cfg).use(device)
    torch.manual_seed(cfg.RNG_SEED)
    model = build_model(cfg).to(device)
    if cfg.TRAIN.CHANNELS_LAST:
        for layout, ndim in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
            for parameter in model.parameters():
                if parameter.ndim == ndim:
                    parameter.data = parameter.data.contiguous(memory_format=layout)
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    logger.info("%s: %.2f M parameters, %.2f M trainable", type(model).__name__, total / 1e6, trainable / 1e6)
    return model


def prepare_for_several(model: nn.Module, device: torch.device, *, sharded: bool, reduced: bool) -> None:
    """Make a model one of several processes' before its optimizer is built, in place; nothing in a single one.

    Batch norms see the whole batch on CUDA. On a CPU, where torch cannot, each process uses its own share.

    Args:
        sharded: the parameters are shared out (TRAIN.PARALLEL fsdp).
        reduced: shared-out blocks compute in bfloat16 on CUDA, as under mixed precision.
    """
    if distributed.world_size() == 1:
        return
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        if device.type == "cuda":
            from timm.layers import convert_sync_batchnorm

            convert_sync_batchnorm(model)  # torch's own would drop the activations that timm's norms have within
        else:
            logger.warning("batch norms use the statistics of each process's share of a batch: torch has none for CPUs")
    if sharded:
        # autocast's layer_norm takes bfloat16 weights with float32 inputs on CUDA only
        shard(model, device, torch.bfloat16 if reduced and device.type == "cuda" else None)


def has_own_statistics(model: nn.Module) -> bool:
    """Tell whether processes may come to different buffers, so that the first one's have to be sent with every forward
    pass. Tables that no checkpoint holds never change, and synchronised batch norms count alike everywhere."""
    kept = model.state_dict().keys()
    return any(
        f"{prefix}.{name}".lstrip(".") in kept
        for prefix, module in model.named_modules()
        if not isinstance(module, nn.SyncBatchNorm)
        for name, _ in module.named_buffers(recurse=False)
    )


def build_compiled(cfg: CfgNode, model: nn.Module) -> Any:
    """Return the model as TRAIN.COMPILE and COMPILE_UNIT say: as it is, compiled whole, or with its blocks compiled in
    place, so that they also run compiled where it is validated (not its average, a copy from before)."""
    if not cfg.TRAIN.COMPILE:
        return model
    return torch.compile(model) if cfg.TRAIN.COMPILE_UNIT == "model" else compile_blocks(model)


def compile_blocks(model: nn.Module, **options: Any) -> nn.Module:
    """Compile each block (:func:`dust.engine.sharding.blocks_of`) by itself, in place. Blocks that are alike share what
    is compiled, and wrappers around them do not matter: what reduces gradients, gathers weights, recomputes.

    Args:
        options: of ``torch.compile``.

    Raises:
        ConfigError: the model has no blocks.
    """
    import torch._dynamo.config as dynamo

    blocks = blocks_of(model)
    if not blocks:
        raise ConfigError(
            f"TRAIN.COMPILE_UNIT blocks: {type(model).__name__} has no list of blocks that are alike; write model"
        )
    # stages differ in their sizes, blocks in what they shift: beyond torch's limit of 8 the last would run as they are
    dynamo.recompile_limit = max(dynamo.recompile_limit, MOST_KINDS_OF_BLOCKS)
    for block in blocks:
        block.compile(**options)
    logger.info("%d blocks are compiled, each kind once", len(blocks))
    return model


def parallel(
    model: Any, run: Any, device: torch.device, *, static_graph: bool, dtype: str = "float32"
) -> tuple[Any, GradSync]:
    """Return the model as all processes train it together, and what says when they exchange gradients, which a
    sharded one does by itself.

    Args:
        run: the model, or what :func:`build_compiled` made of it.
        dtype: float32 | bfloat16, in which gradients of a model that is not sharded travel.
    """
    if distributed.world_size() == 1:
        return run, lambda last: contextlib.nullcontext()
    if isinstance(model, FSDPModule):

        def grad_sync(last: bool) -> contextlib.AbstractContextManager[Any]:
            model.set_requires_gradient_sync(last)
            model.set_reshard_after_backward(last)  # the next batch of the step needs the same weights
            return contextlib.nullcontext()

        return run, grad_sync
    replica = replicated(model, run, device, static_graph=static_graph, dtype=dtype)
    return replica, lambda last: contextlib.nullcontext() if last else replica.no_sync()


def replicated(
    model: nn.Module, run: Any, device: torch.device, *, static_graph: bool, dtype: str
) -> nn.parallel.DistributedDataParallel:
    """Return a model that every process holds; see :func:`parallel`."""
    with warnings.catch_warnings():
        # its other name of torch 2.14 is unknown to older versions
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        replica = nn.parallel.DistributedDataParallel(
            run,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            static_graph=static_graph,
            broadcast_buffers=has_own_statistics(model),
            # fewer and larger messages, which networks of many GPUs like better; a CPU keeps the order in which it adds
            bucket_cap_mb=GPU_BUCKET_MB if device.type == "cuda" else None,
        )
    if dtype == "bfloat16":
        replica.register_comm_hook(None, bf16_compress_hook)
    return replica
