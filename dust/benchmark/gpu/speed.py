"""Stages that time the device: what it reaches, a step of training, and where a step's time goes."""

import gc
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import DeviceType

from dust.benchmark.cost import MIB
from dust.benchmark.device import peak_flops, synchronize, with_classes
from dust.benchmark.gpu.plan import Bench, Row
from dust.benchmark.model import random_batch
from dust.benchmark.report import machine
from dust.config import load_config
from dust.engine.backends import Backends
from dust.engine.setup import build_autocast, build_for, compile_blocks
from dust.models.optimizer import construct_optimizer
from dust.tasks import build_task
from dust.tasks.task import DataInfo

#: What matrix products of bfloat16 reach where that was measured, FLOP/s; elsewhere a share of the data sheet's peak.
REACHED = {"NVIDIA H200": 790e12}
REACHED_SHARE = 0.8
#: Sizes and precision of what is timed.
_FRAMES = ("DATA.NUM_FRAMES", "4", "DATA.TRAIN_CROP_SIZE", "32", "DATA.TEST_CROP_SIZE", "32", "MODEL.NUM_CLASSES", "5",
           "DATA.TRAIN_JITTER_SCALES", "[32, 36]")  # fmt: skip
_PLAIN = ("MIXUP.ENABLE", "False", "AUG.ENABLE", "False", "MODEL.NUM_CLASSES", "400",
          "TRAIN.MIXED_PRECISION", "True", "TRAIN.AMP_DTYPE", "bfloat16")  # fmt: skip


def _vit(node: str) -> tuple[str, ...]:
    return (f"{node}.EMBED_DIM", "48", f"{node}.DEPTH", "2", f"{node}.NUM_HEADS", "4")


@dataclass(frozen=True)
class Recipe:
    """A configuration that is timed: its YAML, overrides of the full and of the tiny size, and what a clip of the full
    size costs: GFLOP of forward and backward, without what fused attention computes again. Counted by
    dust.benchmark.step_cost; at full size that takes a CPU longer than a stage has."""

    file: str
    full: tuple[str, ...]
    tiny: tuple[str, ...]
    gflop: float


_SWIN = ("VIDEO_SWIN.EMBED_DIM", "16", "VIDEO_SWIN.DEPTHS", "[1, 1]", "VIDEO_SWIN.NUM_HEADS", "[2, 2]",
         "VIDEO_SWIN.WINDOW_SIZE", "[2, 2, 2]")  # fmt: skip
_SLOWFAST = ("RESNET.WIDTH_PER_GROUP", "8", "SLOWFAST.BETA_INV", "2", "SLOWFAST.ALPHA", "2")
RECIPES = {
    "TimeSformer-B": Recipe("configs/Kinetics/TimeSformer_divST_8x32_224.yaml", (), _vit("TIMESFORMER"), 1173.1),
    "VideoMAE-B": Recipe("configs/VideoMAE/finetune_k400_base.yaml", (), _vit("VIDEOMAE"), 1078.4),
    "VideoSwin-T": Recipe("configs/Kinetics/VideoSwin_tiny.yaml", ("DATA.NUM_FRAMES", "16"), _SWIN, 262.8),
    "CAST-B": Recipe("configs/CAST/k400.yaml", (), _vit("CAST"), 1943.0),
    "SlowFast-R50": Recipe("configs/Kinetics/SLOWFAST_8x8_R50.yaml", (), _SLOWFAST, 295.2),
}
#: Of a wait, in torch's words; switching them on warns too, in others.
WAITED = "called a synchronizing CUDA operation"
#: What makes a call a case of :func:`steps`: recipe, clips, time that is expected (ms), overrides.
Case = tuple[str, int, str, tuple[str, ...]]


def recipe(bench: Bench, name: str, *words: str) -> tuple[str, list[str]]:
    """Return (YAML, overrides) of a recipe in this bench's size, without mixing and augmentation."""
    one = RECIPES[name]
    return one.file, [*_PLAIN, *(one.full if bench.full else (*_FRAMES, *one.tiny)), *words]


def config(bench: Bench, name: str, *words: str) -> Any:
    """Return the configuration of a recipe."""
    file, overrides = recipe(bench, name, "NUM_GPUS", str(int(bench.device == "cuda")), *words)
    return with_classes(load_config(file, overrides))


def reached_flops() -> float | None:
    """Return FLOP/s that matrix products of bfloat16 can be hoped to reach; None on a device that is not known."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name(0)
    peak = peak_flops(name, torch.bfloat16)
    return REACHED.get(name, None if peak is None else REACHED_SHARE * peak)


class BareStep:
    """Forward, loss, backward and the optimizer's step of clips that stand on the device; nothing around it."""

    def __init__(self, cfg: Any, device: torch.device, clips: int, wrap: Callable[[nn.Module], Any] | None = None):
        self.device, self.clips = device, clips
        self.model = build_for(cfg, device).train()
        self.run = self.model if wrap is None else wrap(self.model)
        self.task = build_task(cfg, DataInfo([str(index) for index in range(cfg.MODEL.NUM_CLASSES)])).to(device)
        self.batch = random_batch(cfg, clips, device)
        self.autocast = build_autocast(cfg, device)
        scaled = cfg.TRAIN.MIXED_PRECISION and cfg.TRAIN.AMP_DTYPE == "float16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.optimizer = construct_optimizer(self.model, cfg)

    def __call__(self) -> Tensor:
        """Make a step and return the loss before the step, ()."""
        with self.autocast():
            outputs = self.task.forward(self.run, self.batch["inputs"])
            loss = torch.stack([value.float() for value in self.task.losses(outputs, self.batch).values()]).sum()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def milliseconds(action: Callable[[], Any], device: torch.device, *, count: int, warmup: int) -> float:
    """Return the median time of an action that follows itself without a pause, by the device's own clock."""
    for _ in range(warmup):
        action()
    synchronize(device)
    if device.type != "cuda":
        stamps = [time.perf_counter()]
        for _ in range(count):
            action()
            stamps.append(time.perf_counter())
        return 1e3 * median(after - before for before, after in pairwise(stamps))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        action()
        event.record()
    synchronize(device)
    return median(before.elapsed_time(after) for before, after in pairwise(events))


def synchronisations(action: Callable[[], Any], device: torch.device) -> list[str]:
    """Return where ``action`` makes the CPU wait for the device: a file and line for each time. None can be seen on a
    CPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            action()
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return [f"{one.filename}:{one.lineno}" for one in caught if WAITED in str(one.message)]


def timed(
    bench: Bench, name: str, recipe_name: str, step: BareStep, expected: str = "", **limits: float
) -> Iterator[tuple[float, Row]]:
    """Yield (milliseconds, row) of a step: its time, clips a second, MFU, memory, launch time and synchronisations."""
    device = step.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    took = milliseconds(step, device, count=20 if bench.full else 2, warmup=5 if bench.full else 1)
    words = f"{expected}; {1e3 * step.clips / took:.0f} clips/s".lstrip("; ")
    yield took, bench.speed(f"{name}: step", took, "ms", words)
    best, flops = reached_flops(), step.clips * RECIPES[recipe_name].gflop * 1e9
    if best and bench.full:
        floor = 1e3 * flops / best
        yield took, bench.speed(f"{name}: MFU", 100 * floor / took, "%", f"floor {floor:.3g} ms", **limits)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / MIB / 1024
        yield took, bench.speed(f"{name}: most memory", peak, "GiB")
    launched = []
    for _ in range(3):
        synchronize(device)
        began = time.perf_counter()
        step()
        launched.append(time.perf_counter() - began)
    yield took, bench.speed(f"{name}: CPU until all is launched", 1e3 * median(launched), "ms")
    yield took, Row(f"{name}: synchronisations in a step", len(synchronisations(step, device)), "", "0")


def guarded(title: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Pass rows on; where they end with an error, a row that says so, and the stage continues with its next case."""
    try:
        yield from rows
        return
    except Exception as error:
        traceback.print_exc()
        said = (str(error).strip().splitlines() or [""])[0][:120]
        failed = Row(title, f"{type(error).__name__}: {said}", at_most=0)
    yield failed


def release(device: torch.device) -> None:
    """Give back what no tensor holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Compute attention as four operations that each write their result: product, softmax, dropout, product."""
    if is_causal or enable_gqa:
        raise NotImplementedError("no model of dust asks for it")
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        bias = (
            attn_mask
            if attn_mask.is_floating_point()
            else torch.zeros_like(scores).masked_fill_(~attn_mask, -torch.inf)
        )
        scores = scores + bias
    return F.dropout(scores.softmax(dim=-1), dropout_p) @ value


def _with_plain_attention() -> AbstractContextManager[Any]:
    return patch.object(F, "scaled_dot_product_attention", plain_attention)


def step(bench: Bench) -> Iterator[Row]:
    """Measure the main model's step eager, and beside it the same with plain attention under float16 autocast."""
    device, clips, name = torch.device(bench.device), 32 if bench.full else 2, "TimeSformer-B"
    took: dict[str, float] = {}
    cases: dict[str, tuple[str, Callable[[], AbstractContextManager[Any]]]] = {
        "bfloat16": ("bfloat16", nullcontext), "plain attention, float16": ("float16", _with_plain_attention),
    }  # fmt: skip
    for case, (dtype, entered) in cases.items():
        cfg = config(bench, name, "TRAIN.AMP_DTYPE", dtype)
        limits = {"at_least": 40.0} if case == "bfloat16" else {}
        with entered():
            bare = BareStep(cfg, device, clips)
            expected = "100-125" if case == "bfloat16" else ""
            rows = timed(bench, f"{name} B {clips} {case}", name, bare, expected, **limits)
            took[case], first = next(rows)
            yield first
            yield from (row for _, row in rows)
        del bare
        release(device)
    ratio = took["plain attention, float16"] / took["bfloat16"]
    yield bench.speed("plain attention, float16 / bfloat16: step", ratio, "x", ">= 2", at_least=2.0)


def compiled(bench: Bench) -> Iterator[Row]:
    """Measure the main model's step by torch.compile, its blocks by themselves and then the whole; on a CPU graphs are
    made and run as they are."""
    device, clips, name = torch.device(bench.device), 32 if bench.full else 2, "TimeSformer-B"
    cfg = config(bench, name)
    eager = BareStep(cfg, device, clips)
    yield Row(f"{name} B {clips} eager: loss of the first step", eager().item())
    before = milliseconds(eager, device, count=8 if bench.full else 1, warmup=3 if bench.full else 1)
    del eager
    release(device)
    backend = "inductor" if bench.full else "eager"
    units: dict[str, Callable[[nn.Module], Any]] = {
        "blocks": lambda model: compile_blocks(model, backend=backend),
        "model": lambda model: torch.compile(model, backend=backend),
    }
    for unit, wrap in units.items():
        title = f"{name} B {clips} compiled, {unit}"
        if bench.left() < (30 if bench.full else 0):
            yield Row(title, "left out: no time")
            continue
        yield from guarded(title, _compiled_rows(bench, title, clips, wrap, before))
        torch.compiler.reset()
        release(device)


def _compiled_rows(bench: Bench, title: str, clips: int, wrap: Callable, before: float) -> Iterator[Row]:
    bare = BareStep(config(bench, "TimeSformer-B"), torch.device(bench.device), clips, wrap)
    began = time.perf_counter()
    loss = bare().item()
    yield bench.speed(f"{title}: the first step, with its compilation", time.perf_counter() - began, "s")
    yield Row(f"{title}: loss of the first step", loss, "", "as eager, but for drop path")
    rows = timed(bench, title, "TimeSformer-B", bare, "80-95", at_least=45.0)
    took, first = next(rows)
    yield first
    yield from (row for _, row in rows)
    yield bench.speed(f"{title}: eager / compiled", before / took, "x", "1.2-1.35")


def steps(bench: Bench, cases: Iterable[Case]) -> Iterator[Row]:
    """Measure steps of other models and settings, as far as the time goes."""
    device = torch.device(bench.device)
    for name, clips, expected, words in cases:
        clips = clips if bench.full else 1
        pairs = zip(words[::2], words[1::2], strict=True)
        title = ", ".join([f"{name} B {clips}", *(f"{key.rpartition('.')[2]} {value}" for key, value in pairs)])
        if bench.left() < (12 if bench.full else 2):
            yield Row(title, "left out: no time", "", expected)
            continue
        yield from guarded(title, _step_rows(bench, title, name, clips, expected, words))
        release(device)


def _step_rows(bench: Bench, title: str, name: str, clips: int, expected: str, words: tuple[str, ...]) -> Iterator[Row]:
    bare = BareStep(config(bench, name, *words), torch.device(bench.device), clips)
    yield Row(f"{title}: loss of the first step", bare().item(), "", "of one model and size: alike")
    for _, row in timed(bench, title, name, bare, expected):
        yield row


def models(bench: Bench) -> Iterator[Row]:
    """Measure steps of other sizes, precisions and models."""
    yield from steps(
        bench,
        (
            ("TimeSformer-B", 1, "12-18", ()),
            ("TimeSformer-B", 8, "30-36", ()),
            ("VideoMAE-B", 32, "85-105", ()),
            ("VideoSwin-T", 32, "50-65", ()),
            ("CAST-B", 16, "90-110", ()),
            ("SlowFast-R50", 16, "", ()),
            ("TimeSformer-B", 32, "", ("TRAIN.AMP_DTYPE", "float16")),
            ("TimeSformer-B", 32, "", ("TRAIN.MIXED_PRECISION", "False", "TRAIN.FLOAT32", "tf32")),
        ),
    )


def patches(bench: Bench) -> Iterator[Row]:
    """Measure tubelets of 2x16x16 to 768 values, forward and backward in bfloat16: Conv3d, and a product of
    matrices."""
    device = torch.device(bench.device)
    clips, side, width = (32, 224, 768) if bench.full else (1, 32, 16)
    embed = nn.Conv3d(3, width, (2, 16, 16), (2, 16, 16)).to(device)
    video = torch.randn(clips, 3, 16, side, side, device=device)

    def convolution() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            embed(video).float().sum().backward()

    def product() -> None:
        rows = video.unflatten(4, (-1, 16)).unflatten(3, (-1, 16)).unflatten(2, (-1, 2))
        rows = rows.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)
        with torch.autocast(device.type, torch.bfloat16):
            F.linear(rows, embed.weight.flatten(1), embed.bias).float().sum().backward()

    count, warmup = (20, 5) if bench.full else (1, 1)
    took = [milliseconds(action, device, count=count, warmup=warmup) for action in (convolution, product)]
    yield bench.speed("Conv3d", took[0], "ms")
    yield bench.speed("product of matrices, as dust has it on CUDA", took[1], "ms", "0.2-0.4")
    yield bench.speed("Conv3d / product", took[0] / took[1], "x", "> 2 with some versions of cuDNN")


def profile(bench: Bench) -> Iterator[Row]:
    """Record three steps of the main model under torch's profiler."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    device, clips = torch.device(bench.device), 32 if bench.full else 2
    bare = BareStep(config(bench, "TimeSformer-B"), device, clips)
    for _ in range(3):
        bare()
    synchronize(device)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profiler(activities=kinds) as found:
        began = time.perf_counter()
        for _ in range(3):
            bare()
        synchronize(device)
        wall = time.perf_counter() - began
    found.export_chrome_trace(str(bench.folder / "timesformer.json.gz"))
    attribute = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    kind = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU  # an operation's kernels stand beside it
    kernels = [one for one in found.key_averages() if one.device_type == kind and not one.is_user_annotation]
    by_time = sorted(kernels, key=lambda one: -getattr(one, attribute))
    total = sum(getattr(one, attribute) for one in by_time) / 1e3
    idle = max(0.0, 100 * (1 - total / (1e3 * wall)))
    yield bench.speed("the device waits", idle if device.type == "cuda" else None, "%", "< 5 (with a profiler, more)")
    for one in by_time[:15]:
        took = getattr(one, attribute) / 3e3
        share = 100 * took / max(total / 3, 1e-9)
        yield Row(one.key[:70], took, "ms a step", f"{share:.0f} % of all, {one.count // 3} times")


def machine_stage(bench: Bench) -> Iterator[Row]:
    """Measure what products and copies reach."""
    device, cuda = torch.device(bench.device), bench.device == "cuda"
    for key, value in machine().items():
        yield Row(key, f"{value:g}" if isinstance(value, float) else str(value))
    if cuda:
        yield Row(
            "CUDA, cuDNN, NCCL", f"{torch.version.cuda}, {torch.backends.cudnn.version()}, {torch.cuda.nccl.version()}"
        )
    size, count = (8192, 10) if bench.full else (64, 2)
    expected = {"bfloat16": "770-800", "TF32": "350-420", "float32": "50-60"}
    for name, words in expected.items():
        Backends(float32="tf32" if name == "TF32" else "ieee").use(device)
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        one, two = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        took = milliseconds(partial(torch.matmul, one, two), device, count=count, warmup=3)
        yield bench.speed(f"product of {size} x {size}, {name}", 2 * size**3 / took / 1e9, "TFLOP/s", words)
    source = torch.empty(2**30 if bench.full else 2**16, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took = milliseconds(partial(target.copy_, source), device, count=count, warmup=3)
    yield bench.speed("copy on the device, read and written", 2 * source.numel() / took / 1e9, "TB/s", "4.3")
    for name, words in (("pinned", "45-55"), ("pageable", "5-15")):
        host = torch.empty(source.numel() // 4, dtype=torch.uint8, pin_memory=cuda and name == "pinned")
        into = target[: host.numel()]
        took = milliseconds(partial(into.copy_, host, non_blocking=True), device, count=count, warmup=3)
        yield bench.speed(f"copy from the CPU, {name}", host.numel() / took / 1e6, "GB/s", words)
