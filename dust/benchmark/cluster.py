"""What a training costs on many GPUs: a simulation from counted FLOP, volumes and memory. No GPU is needed.

Volumes and bandwidths are those of nccl-tests (https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md):
an all-reduce of S bytes over N processes moves 2 (N-1)/N S over each one's link, a gather or a reduce-scatter half.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dust.benchmark.report import Report
from dust.benchmark.step_cost import StepCost, count_step
from dust.config import processes_per_node
from dust.datasets.transforms.randaugment import parse_policy
from dust.utils.errors import ConfigError, DustError

GIB = 2**30
#: What is exchanged at a time (DDP's bucket); the last one has no computation left to hide behind.
BUCKET_BYTES = 25 * 2**20
#: CPU seconds of one core (AMD EPYC) to read a clip: whatever it is, per second of its span, per frame that is taken.
DECODE_S, DECODE_S_PER_SECOND, DECODE_S_PER_FRAME = 0.032, 0.0024, 0.0004
CLIP_S = 10.0  # what was measured lasts so long; no span is longer
#: Of a frame of 224x224, for each operation that is drawn; every second one is applied.
RANDAUGMENT_S = 0.00055


@dataclass(frozen=True)
class Node:
    """A node of a cluster.

    Attributes:
        gpu: its name.
        peak: dense 16-bit FLOP/s of a GPU.
        memory: of a GPU, bytes.
        nvlink: bytes per second that a GPU sends, while it receives as many.
        nic: bytes per second of a network card, each way.
        gpus, nics: how many a node has.
    """

    gpu: str
    peak: float
    memory: float
    nvlink: float
    nic: float
    gpus: int = 8
    nics: int = 8


#: Data sheets of NVIDIA's DGX machines: A100 with HDR (200 Gb/s), H100 and H200 with NDR (400 Gb/s), a card per GPU.
NODES = {
    "A100": Node("A100", 312e12, 80 * GIB, 300e9, 25e9),
    "H100": Node("H100", 989e12, 80 * GIB, 450e9, 50e9),
    "H200": Node("H200", 989e12, 141e9, 450e9, 50e9),
}


@dataclass(frozen=True)
class Assumptions:
    """What is not counted but assumed.

    Attributes:
        achieved: share of the peak that forward and backward reach on one GPU (0..1).
        link: share of the links' bandwidth that NCCL reaches (0..1).
        overlap: share of the backward that gradients travel behind; for FSDP, of the whole step (0..1).
        step_s: measured seconds of forward, backward and optimizer of one batch on one GPU; 0 = derived from FLOP.
        overhead: bytes of a GPU that CUDA and its libraries take.
        startup_s: seconds from the job's start to its first step: processes, imports, lists, NCCL, the first batches.
    """

    achieved: float = 0.4
    link: float = 0.8
    overlap: float = 0.7
    step_s: float = 0.0
    overhead: float = 2 * GIB
    startup_s: float = 60.0


@dataclass(frozen=True)
class Recipe:
    """What is trained: ``batch`` clips per GPU at a time; ``global_batch`` and ``lr`` belong together in the recipe;
    ``epochs`` over ``clips``; ``parallel`` ddp | fsdp; ``block_dtype_bytes`` 2 where FSDP gathers 16-bit weights."""

    batch: int
    global_batch: int
    lr: float
    epochs: int
    clips: int
    parallel: str = "ddp"
    gathered_bytes: int = 2
    ema: bool = False


def bus_bandwidth(node: Node, gpus: int, link: float) -> float:
    """Return the bytes per second over a GPU's link: NVLink within a node; between nodes the slower of NVLink and all
    network cards of a node together, which NCCL's rings share."""
    return link * (node.nvlink if gpus <= node.gpus else min(node.nvlink, node.nics * node.nic))


def all_reduce_s(size: float, gpus: int, bandwidth: float) -> float:
    """Return the seconds of an all-reduce of ``size`` bytes."""
    return 2 * (gpus - 1) / gpus * size / bandwidth


def gather_s(size: float, gpus: int, bandwidth: float) -> float:
    """Return the seconds of an all-gather, or of a reduce-scatter, of ``size`` bytes in all."""
    return (gpus - 1) / gpus * size / bandwidth


def exposed_s(exchange: float, cover: float, size: float) -> float:
    """Return the seconds of an exchange of ``size`` bytes that ``cover`` seconds of computing do not hide: at least
    those of its last bucket."""
    last = exchange * min(BUCKET_BYTES / size, 1.0) if size else 0.0
    return max(exchange - cover, last)


def accumulation(recipe: Recipe, gpus: int) -> int:
    """Return the batches per optimizer step: as many as the recipe's global batch needs, at least one."""
    return max(recipe.global_batch // (gpus * recipe.batch), 1)


def batch_s(cost: StepCost, node: Node, assumed: Assumptions) -> float:
    """Return the seconds that one GPU computes on one batch."""
    return assumed.step_s or (cost.forward_flops + cost.backward_flops) / (node.peak * assumed.achieved)


def step_seconds(
    cost: StepCost, recipe: Recipe, node: Node, assumed: Assumptions, gpus: int
) -> tuple[float, float, float]:
    """Return (computing, exchanging, of that exposed) seconds of an optimizer step."""
    times = accumulation(recipe, gpus)
    one = batch_s(cost, node, assumed)
    bandwidth = bus_bandwidth(node, gpus, assumed.link)
    gradients = 4.0 * cost.trainable
    backward = one * cost.backward_flops / (cost.forward_flops + cost.backward_flops)
    if recipe.parallel == "ddp":
        exchange = all_reduce_s(gradients, gpus, bandwidth)
        return times * one, exchange, exposed_s(exchange, assumed.overlap * backward, gradients)
    weights = float(recipe.gathered_bytes * cost.parameters)
    gathers = 2 * gather_s(weights, gpus, bandwidth)  # for the forward, and again for the backward
    reduce = gather_s(gradients, gpus, bandwidth)
    cover, size = assumed.overlap * one, 2 * weights
    exposed = (times - 1) * exposed_s(gathers, cover, size) + exposed_s(gathers + reduce, cover, size + gradients)
    return times * one, times * gathers + reduce, exposed


def memory_bytes(cost: StepCost, recipe: Recipe, gpus: int, assumed: Assumptions) -> float:
    """Return the bytes that a GPU holds: weights, gradients, optimizer state and average in float32, activations,
    overhead."""
    held = (4 + 4 * recipe.ema) * cost.parameters + (4 + cost.state_bytes) * cost.trainable
    if recipe.parallel == "fsdp":  # the block that computes and the next one are whole
        held = held / gpus + 2 * recipe.gathered_bytes * cost.largest_block
    return held + cost.activation_bytes + assumed.overhead


def reading_s(cfg) -> tuple[float, float]:
    """Return CPU seconds that a training clip of cfg takes: to decode, and RandAugment of all its views (0 without it).

    A straight line through what was measured of 10 s clips of 340x256 with a key frame every 250 frames (8 frames at
    rate 8 and 32, 16 at rate 4), and the mean of RandAugment at 224 pixels.
    """
    frames, span = cfg.DATA.NUM_FRAMES, cfg.DATA.NUM_FRAMES * cfg.DATA.SAMPLING_RATE / cfg.DATA.TARGET_FPS
    decoding = DECODE_S + DECODE_S_PER_SECOND * min(span, CLIP_S) + DECODE_S_PER_FRAME * frames
    if not (cfg.AUG.ENABLE and cfg.AUG.AA_TYPE):
        return decoding, 0.0
    drawn = parse_policy(cfg.AUG.AA_TYPE).num_ops
    return decoding, RANDAUGMENT_S * frames * drawn * cfg.AUG.NUM_SAMPLE


def simulate(
    cost: StepCost, recipe: Recipe, node: Node, assumed: Assumptions, gpus: int, decode_s: float
) -> dict[str, Any]:
    """Return one row: the recipe on ``gpus`` GPUs. ``decode_s`` are the CPU seconds that reading a clip takes."""
    computing, exchanging, exposed = step_seconds(cost, recipe, node, assumed, gpus)
    batch = gpus * recipe.batch * accumulation(recipe, gpus)
    rate = batch / (computing + exposed)
    steps = recipe.epochs * math.floor(recipe.clips / batch)
    hours = (assumed.startup_s + steps * (computing + exposed)) / 3600
    return {
        "gpus": gpus,
        "accumulate": accumulation(recipe, gpus),
        "global_batch": batch,
        "base_lr": recipe.lr * batch / recipe.global_batch,
        "compute_ms": 1e3 * computing,
        "exchange_ms": 1e3 * exchanging,
        "exposed_ms": 1e3 * exposed,
        "efficiency": computing / (computing + exposed),
        "clips_per_s": rate,
        "steps": steps,
        "hours": hours,
        "gpu_hours": gpus * hours,
        "gib_per_gpu": memory_bytes(cost, recipe, gpus, assumed) / GIB,
        "decode_cores_per_gpu": rate / gpus * decode_s,
    }


def benchmark_cluster(
    cfg,
    *,
    node: Node,
    assumed: Assumptions,
    gpus: Sequence[int] = (8, 16, 32, 64, 128, 256, 512),
    batch: int = 0,
    clips: int = 240_000,
    decode_s: float = 0.0,
) -> Report:
    """Return the cost table of cfg's training.

    Args:
        batch: clips per GPU at a time; 0 = as the configuration has it.
        clips: of the training set.
        decode_s: CPU seconds that reading a clip takes; 0 = by :func:`reading_s`.

    Raises:
        ConfigError: numbers out of range. DustError: a batch that does not fit into a GPU's memory.
    """
    _check(gpus, batch, assumed)
    batch = batch or max(cfg.TRAIN.BATCH_SIZE // processes_per_node(cfg), 1)
    recipe = Recipe(
        batch=batch,
        global_batch=cfg.GLOBAL_BATCH_SIZE or cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS,
        lr=cfg.SOLVER.BASE_LR,
        epochs=cfg.SOLVER.MAX_EPOCH,
        clips=clips,
        parallel=cfg.TRAIN.PARALLEL,
        gathered_bytes=2 if cfg.TRAIN.MIXED_PRECISION else 4,
        ema=cfg.EMA.ENABLED,
    )
    views = cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1
    cost = count_step(cfg, batch * views)
    needed = memory_bytes(cost, recipe, max(gpus), assumed)
    if needed > node.memory:
        raise DustError(
            f"--batch {batch}: needs {needed / GIB:.0f} GiB of a GPU, a {node.gpu} has {node.memory / GIB:.0f}. Choose "
            "a smaller one, MODEL.ACT_CHECKPOINT True or TRAIN.PARALLEL fsdp."
        )
    largest = max(batch * count * accumulation(recipe, count) for count in gpus)
    if clips < largest:
        raise ConfigError(f"--clips {clips}: less than the largest global batch of {largest}")
    decoding, augmenting = (decode_s, 0.0) if decode_s else reading_s(cfg)
    rows = [simulate(cost, recipe, node, assumed, count, decoding + augmenting) for count in gpus]
    settings = {
        "model": cfg.MODEL.MODEL_NAME,
        "parallel": recipe.parallel,
        "batch_per_gpu": batch,
        "views": views,
        "epochs": recipe.epochs,
        "clips": clips,
        "params_m": round(cost.parameters / 1e6, 1),
        "trainable_m": round(cost.trainable / 1e6, 1),
        "tflop_per_batch": round((cost.forward_flops + cost.backward_flops) / 1e12, 2),
        "activations_gib": round(cost.activation_bytes / GIB, 2),
    }
    return Report("cluster", METHOD, rows, notes(cost, recipe, node, assumed, (decoding, augmenting)), settings)


METHOD = (
    "A simulation, nothing is run on a GPU. Counted: FLOP of forward and backward (dust.utils.flops; with what "
    "activation checkpointing computes again, without weight gradients of what is frozen), and activations on fake "
    "tensors. All else follows from the assumptions below."
)


def notes(cost: StepCost, recipe: Recipe, node: Node, assumed: Assumptions, reading: tuple[float, float]) -> list[str]:
    """Return every assumption, in words; ``reading`` as of :func:`reading_s`."""
    if assumed.step_s:
        compute = f"a batch takes the measured {1e3 * assumed.step_s:.1f} ms on one GPU"
    else:
        compute = (
            f"a batch takes its FLOP at {100 * assumed.achieved:.0f} % of {node.peak / 1e12:.0f} TFLOP/s: "
            f"{1e3 * batch_s(cost, node, assumed):.0f} ms (assumed; --step-ms takes a measured time)"
        )
    if recipe.parallel == "ddp":
        volume = (
            f"DDP: an all-reduce of {4 * cost.trainable / 1e9:.2f} GB of float32 gradients per step, behind "
            f"{100 * assumed.overlap:.0f} % of the last batch's backward"
        )
    else:
        volume = (
            f"FSDP: {recipe.gathered_bytes * cost.parameters / 1e9:.2f} GB of weights gathered twice per batch and "
            f"{4 * cost.trainable / 1e9:.2f} GB of float32 gradients scattered per step, behind "
            f"{100 * assumed.overlap:.0f} % of a batch's computing"
        )
    return [
        compute,
        f"{volume}; the last {BUCKET_BYTES // 2**20} MiB hide behind nothing",
        f"nodes of {node.gpus} {node.gpu}: {node.nvlink / 1e9:.0f} GB/s per GPU within (NVLink), {node.nics} cards of "
        f"{node.nic / 1e9:.0f} GB/s between, {100 * assumed.link:.0f} % of that reached",
        f"memory: weights, gradients, {cost.state_bytes:.0f} bytes of optimizer state per value, "
        f"{'an average, ' if recipe.ema else ''}activations, {assumed.overhead / GIB:.0f} GiB for CUDA",
        f"decode_cores_per_gpu: {1e3 * reading[0]:.0f} ms of CPU to decode a clip and {1e3 * reading[1]:.0f} ms for "
        "RandAugment, so that the loader keeps up",
        f"hours: with {assumed.startup_s:.0f} s from the job's start to its first step",
        f"base_lr by the linear rule from {recipe.lr:g} at {recipe.global_batch} clips; large batches need a longer "
        "warm-up, and beyond some size they cost accuracy",
        "left out: validation, checkpoints, stragglers, waiting for data",
    ]


def _check(gpus: Sequence[int], batch: int, assumed: Assumptions) -> None:
    problems = [f"--gpus {count}: at least 1" for count in gpus if count < 1]
    problems += [f"--batch {batch}: at least 1 (0: the configuration's)"] if batch < 0 else []
    shares = {"--achieved": assumed.achieved, "--link": assumed.link}
    problems += [f"{name} {value}: above 0, at most 1" for name, value in shares.items() if not 0 < value <= 1]
    problems += [f"--overlap {assumed.overlap}: 0 to 1"] if not 0 <= assumed.overlap <= 1 else []
    problems += [f"--startup-s {assumed.startup_s:g}: at least 0"] if assumed.startup_s < 0 else []
    problems += [f"--step-ms {1e3 * assumed.step_s:g}: at least 0"] if assumed.step_s < 0 else []
    if problems:
        raise ConfigError("; ".join(problems))


def node_of(name: str, *, per_node: int = 8, nics: int = 8) -> Node:
    """Return the node of a GPU's name, with so many GPUs and network cards."""
    if name not in NODES:
        raise ConfigError(f"--gpu {name}: choose {', '.join(NODES)}")
    if per_node < 1 or nics < 1:
        raise ConfigError(f"--per-node {per_node}, --nics {nics}: at least 1")
    return replace(NODES[name], gpus=per_node, nics=nics)
