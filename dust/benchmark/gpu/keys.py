"""Stages for what one chooses: keys of kernels and of augmentation, several processes, and models that answer."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from statistics import median, quantiles
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dust.benchmark.device import synchronize
from dust.benchmark.gpu.plan import Bench, Row
from dust.benchmark.gpu.right import relative_error
from dust.benchmark.gpu.speed import BareStep, config, guarded, milliseconds, release, steps, synchronisations
from dust.engine.backends import Backends
from dust.engine.inference import Inference
from dust.engine.setup import build_autocast, build_device_transform, build_for, replicated
from dust.engine.sharding import shard
from dust.launch.launcher import free_port
from dust.launch.rendezvous import DistEnv, Rendezvous, process_group
from dust.models import MODEL_REGISTRY
from dust.streaming.keystep import StepStream
from dust.streaming.tracks import TrackStream

_MAIN = "TimeSformer-B"
#: Steps after which the losses of a model and of its forms for several processes are compared.
_STEPS = 3
#: DIST_TIMEOUT of the groups here: none that torch would take by itself.
_TIMEOUT_S = 90.0


def keys(bench: Bench) -> Iterator[Row]:
    """Measure the main model's step with each key that chooses kernels, and augmentation on the device."""
    yield from steps(
        bench,
        (
            (_MAIN, 32, "", ("TRAIN.DETERMINISTIC", "True")),  # first: cuBLAS reads its setting once
            (_MAIN, 32, "", ()),
            (_MAIN, 32, "", ("TRAIN.SDPA", "cudnn")),
            (_MAIN, 32, "", ("TRAIN.SDPA", "auto")),
            (_MAIN, 32, "", ("MODEL.ACT_CHECKPOINT", "True")),
            ("SlowFast-R50", 16, "", ()),
            ("SlowFast-R50", 16, "", ("TRAIN.CHANNELS_LAST", "True")),
        ),
    )
    plain = ("AUG.ENABLE", "True", "AUG.AA_TYPE", "", "AUG.RE_PROB", "0.0")
    cases: dict[str, tuple[str, tuple[str, ...]]] = {
        "normalising": ("", plain),
        "AUG.RE_NOISE device": ("+ 0.3", (*plain, "AUG.RE_PROB", "0.25")),
        "AUG.RE_NOISE cpu": ("+ 26", (*plain, "AUG.RE_PROB", "0.25", "AUG.RE_NOISE", "cpu")),
        "AUG.AA_WHERE device": ("+ 6", (*plain, "AUG.AA_TYPE", "rand-m7-n4-mstd0.5-inc1", "AUG.AA_WHERE", "device")),
        "MIXUP.ENABLE": ("", (*plain, "MIXUP.ENABLE", "True")),
    }
    for title, (expected, words) in cases.items():
        yield from guarded(title, _transform_rows(bench, title, expected, words))


def _transform_rows(bench: Bench, title: str, expected: str, words: tuple[str, ...]) -> Iterator[Row]:
    """Measure what a batch on the device takes on its way to the model, as the loop makes it: seeded each time."""
    device, clips = torch.device(bench.device), 32 if bench.full else 2
    cfg = config(bench, _MAIN, *words)
    transform = build_device_transform(cfg, cfg.MODEL.NUM_CLASSES)
    side, generator = cfg.DATA.TRAIN_CROP_SIZE, torch.Generator().manual_seed(0)
    video = torch.randint(256, (clips, 3, cfg.DATA.NUM_FRAMES, side, side), dtype=torch.uint8, generator=generator)
    batch = {"inputs": {"video": video.to(device)}, "label": torch.zeros(clips, dtype=torch.int64, device=device)}
    count = iter(range(10**6))

    def action() -> None:
        transform(batch, training=True, seed_words=(0, "step", next(count), 0))

    took = milliseconds(action, device, count=20 if bench.full else 2, warmup=3 if bench.full else 1)
    yield bench.speed(f"{title}: a batch of {clips}", took, "ms", expected)
    yield Row(f"{title}: synchronisations", len(synchronisations(action, device)), "", "0; cpu: 1 a box")


# ------------------------------------------------------------------------------------------------ several processes


def several(bench: Bench) -> Iterator[Row]:
    """Train in a group of one process, which sends what several would: NCCL's on a GPU, gloo's on a CPU; then by gloo
    on both."""
    cuda = bench.device == "cuda"
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    wanted = 0.0
    for backend in ("nccl", "gloo"):
        env = DistEnv(0, 1, 0, 1, f"tcp://127.0.0.1:{free_port()}")
        with process_group(env, Rendezvous(env), num_gpus=int(cuda), backend=backend, timeout_s=_TIMEOUT_S):
            group: Any = dist.distributed_c10d._get_default_group()
            limit = group._get_backend(device).options._timeout.total_seconds()
            title = f"{group._get_backend(device).name()}: DIST_TIMEOUT that the device's group has"
            yield Row(title, limit, "s", f"{_TIMEOUT_S:g}", at_most=_TIMEOUT_S, at_least=_TIMEOUT_S)
            wanted = yield from _forms(bench, device, backend, wanted)


def _forms(bench: Bench, device: torch.device, backend: str, wanted: float) -> Generator[Row, None, float]:
    """Measure each form of training on several processes, and return the loss of one that trains alone: ``wanted``, or
    what is measured where that is 0.0. By gloo it is DDP only, which is what one would choose it for."""
    reduced = torch.bfloat16 if device.type == "cuda" else None
    first: list[torch.dtype] = []  # what the first block is given

    def ddp(dtype: str) -> Callable[[nn.Module], Any]:
        return lambda model: replicated(model, model, device, static_graph=True, dtype=dtype)

    def fsdp(model: nn.Module) -> nn.Module:
        shard(model, device, reduced)
        blocks: Any = model.blocks
        blocks[0].register_forward_pre_hook(lambda module, given: first.append(given[0].dtype))
        return model

    forms: dict[str, tuple[Callable[[nn.Module], Any] | None, float]] = {
        "alone": (None, 0.0),
        "DDP": (ddp("float32"), 1e-4),
        "DDP, TRAIN.DDP_DTYPE bfloat16": (ddp("bfloat16"), 1e-2),
        "FSDP": (fsdp, 1e-2),
    }
    if backend == "gloo":
        forms = {"DDP, DIST_BACKEND gloo": forms["DDP"]}
    for title, (wrap, bound) in forms.items():
        rows = guarded(title, _form_rows(bench, title, device, wrap, wanted, bound))
        for row in rows:
            wanted = wanted or (row.measured if isinstance(row.measured, float) and "loss" in row.what else 0.0)
            yield row
        release(device)
    if backend != "gloo":
        wrong = sum(dtype is not torch.float32 for dtype in first)
        yield Row("FSDP: streams into the first block that are not float32", wrong, "", "0", at_most=0)
    return wanted


def _form_rows(
    bench: Bench, title: str, device: torch.device, wrap: Callable[[nn.Module], Any] | None, wanted: float, bound: float
) -> Iterator[Row]:
    bare = BareStep(config(bench, _MAIN), device, 32 if bench.full else 2, wrap)
    loss = [bare().item() for _ in range(_STEPS)][-1]
    if wrap is None:
        yield Row(f"{title}: loss after {_STEPS} steps", loss)
    else:
        yield Row(f"{title}: loss / that of one alone - 1", abs(loss / wanted - 1), "", "", at_most=bound)
    took = milliseconds(bare, device, count=20 if bench.full else 2, warmup=2 if bench.full else 1)
    yield bench.speed(f"{title}: step", took, "ms", "as alone" if wrap else "100-125")


# --------------------------------------------------------------------------------------------- models that answer


def answers(bench: Bench) -> Iterator[Row]:
    """Measure how long one waits for a frame of a stream, what a test of many views takes, and TSTL's experts."""
    device = torch.device(bench.device)
    cases = {"KeyStep": _steps_stream, "point tracks": _tracks_stream, "a test": _views, "TSTL": _experts}
    for title, rows in cases.items():
        yield from guarded(title, rows(bench, device))
        release(device)


def _waits(action: Callable[[int], Any], device: torch.device, count: int) -> tuple[float, float]:
    """Return the median and 99th percentile of what one waits for an answer, ms."""
    taken = []
    for number in range(count):
        began = time.perf_counter()
        action(number)
        synchronize(device)
        taken.append(1e3 * (time.perf_counter() - began))
    late = taken[count // 5 :]  # a stream answers once it has seen a window
    return median(late), quantiles(late, n=100)[-1]


def _latency(bench: Bench, what: str, waits: tuple[float, float], expected: str) -> Iterator[Row]:
    yield bench.speed(f"{what}: median", waits[0], "ms", expected)
    yield bench.speed(f"{what}: 99 % are quicker", waits[1], "ms")


def _steps_stream(bench: Bench, device: torch.device) -> Iterator[Row]:
    side, frames = (224, 65) if bench.full else (32, 4)
    size: dict[str, Any] = {"arch": "vit_small_patch16_224", "img_size": 224, "embed_dim": 128}
    temporal: dict[str, Any] = {"seq_len": frames, "depth": 4, "heads": 8, "dim_head": 128, "mlp_dim": 512}
    if not bench.full:
        size = {"arch": "test_vit", "img_size": 32, "embed_dim": 16}
        temporal |= {"depth": 1, "heads": 2, "dim_head": 8, "mlp_dim": 24}
    model = MODEL_REGISTRY.get("KeyStepVideo")(frames=size, temporal=temporal, num_classes=11).to(device)
    decoder: Any = SimpleNamespace(phases=1, digits=lambda changes: changes)  # steps are the CPU's, and not asked for
    pictures = torch.randn(16, 3, side, side)
    for reduced in (False, True):
        context = (lambda: torch.autocast(device.type, torch.bfloat16)) if reduced else nullcontext
        stream = StepStream(model, decoder, lambda: lambda *given: [], frames=frames, skip=0, autocast=context)
        waits = _waits(lambda number, to=stream: to.push(pictures[number % 16]), device, 5 * frames)  # type: ignore[misc]
        yield from _latency(bench, f"KeyStep, a frame, {'bfloat16' if reduced else 'float32'}", waits, "2-4")


def _tracks_stream(bench: Bench, device: torch.device) -> Iterator[Row]:
    window, points = (50, 500) if bench.full else (4, 12)
    size = {} if bench.full else {"view_dim": 8, "embed_dim": 16, "heads": 2}
    model: Any = MODEL_REGISTRY.get("PointTrackTransformer")(num_classes=6, num_views=4, num_points=points, **size)
    stream = TrackStream(model.to(device), window=window, stride=1)
    tracks = torch.rand(16, 4, points, 2)
    waits = _waits(lambda number: stream.push(tracks[number % 16]), device, 5 * window)
    yield from _latency(bench, "point tracks of 4 cameras, a window for each frame", waits, "")


def _views(bench: Bench, device: torch.device) -> Iterator[Row]:
    videos, views, batch = (16, 30, 32) if bench.full else (2, 3, 2)
    cfg = config(bench, _MAIN)
    model = build_for(cfg, device)
    side = cfg.DATA.TEST_CROP_SIZE
    clip = torch.randint(256, (views, 3, cfg.DATA.NUM_FRAMES, side, side), dtype=torch.uint8)
    clip = clip.pin_memory() if device.type == "cuda" else clip
    items = [{"inputs": {"video": clip}, "label": 0, "id": str(index), "path": ""} for index in range(videos)]

    def forward(module: nn.Module, inputs: dict[str, Any]) -> Tensor:
        return module(**inputs)

    taken = {}
    for flying in (1, 0, 1):
        loop = Inference(
            model, forward, build_device_transform(cfg), device, batch, autocast=build_autocast(cfg, device),
            in_flight=flying,
        )  # fmt: skip
        synchronize(device)
        began = time.perf_counter()
        list(loop(items))
        taken[flying] = time.perf_counter() - began
    yield bench.speed(f"a test, {batch} views at a time", videos * views / taken[1], "views/s", "1.2-1.5x of the next")
    yield bench.speed("the same, each waited for", videos * views / taken[0], "views/s")


def _experts(bench: Bench, device: torch.device) -> Iterator[Row]:
    clips, side, frames = (8, 224, 16) if bench.full else (2, 16, 4)
    size: dict[str, Any] = {"img_size": 224, "all_frames": 16}
    if not bench.full:
        size = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "all_frames": 4}
    groups = [range(start, start + 25) for start in range(0, 100, 25)]
    torch.manual_seed(0)
    model: Any = MODEL_REGISTRY.get("TSTL")(groups=[tuple(group) for group in groups], **size).to(device).eval()
    video = torch.randn(clips, 3, frames, side, side, device=device)
    routes = torch.arange(clips, device=device)[:, None] % len(groups)
    scores = torch.zeros(clips, len(groups), device=device)
    Backends(float32="ieee").use(device)
    ways = {"at once": model._ask_all_at_once, "one by one": model._ask_one_by_one}
    with torch.no_grad():
        once, each = (ask(video, routes, None, scores)[0].cpu() for ask in ways.values())
        there = torch.isfinite(each)
        yield Row("TSTL: at once against one by one", relative_error(once[there], each[there]), "", "", at_most=1e-3)
        for name, ask in ways.items():

            def action(ask: Callable[..., Any] = ask) -> None:
                with torch.autocast(device.type, torch.bfloat16):
                    ask(video, routes, None, scores)

            took = milliseconds(action, device, count=10 if bench.full else 1, warmup=2 if bench.full else 0)
            yield bench.speed(f"TSTL, {clips} clips to 4 experts, {name}", took, "ms", "at once: 3-8x quicker")
