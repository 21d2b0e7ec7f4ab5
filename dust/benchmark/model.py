"""Time and memory of a model's step, alone in a process, for one configuration or several side by side."""

import shlex
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from dust.benchmark.cost import MIB, peak_rss_mib, rss_mib
from dust.benchmark.device import one_device, peak_flops, synchronize, with_classes
from dust.benchmark.report import Report
from dust.config import load_config
from dust.engine.setup import build_autocast, build_compiled, build_for
from dust.models.optimizer import construct_optimizer
from dust.tasks import build_task
from dust.tasks.task import DataInfo, Task
from dust.utils.errors import DustError
from dust.utils.flops import flop_counter

METHOD = (
    "A step is forward, loss and backward (with --optimizer its step too), in eval the forward alone, on random clips "
    "that stand on the device. Every variant and round is a process of its own; in each round the variants run one "
    "after the other. Per process the median of the steps after the warm-up, then the median over the rounds; a ratio "
    "is the median of the rounds' ratios to the first row. peak_mib is the largest resident memory of the process; "
    "above_mib is how far that lies above what stood before the first forward (weights, clips and libraries). GFLOP "
    "are counted by dust.utils.flops for one clip's forward (2 per multiply-add)."
)
#: What a training step costs beside its forward, in forwards, as MFU counts it (recomputation does not count).
BACKWARD_IN_FORWARDS = 2


@dataclass(frozen=True)
class ModelRun:
    """What one process measures: a configuration file with overrides, and how often.

    Attributes:
        cfg_file: path of a YAML.
        overrides: [KEY, VALUE, ...].
        batch: clips per step.
        steps, warmup: steps that count, and steps before them.
        train: forward and backward; else forward in eval mode.
        optimizer: also the optimizer's step.
        device: see :func:`dust.benchmark.device.one_device`.
        threads: torch's CPU threads; 0 leaves them as they are.
        peer: a model of torchvision.models.video instead of the configured one, on the same clips.
    """

    cfg_file: str
    overrides: tuple[str, ...] = ()
    batch: int = 1
    steps: int = 5
    warmup: int = 1
    train: bool = True
    optimizer: bool = False
    device: str = "auto"
    threads: int = 0
    peer: str = ""


def benchmark_model(
    run: ModelRun, *, variants: Sequence[str] = (), peers: Sequence[str] = (), rounds: int = 1
) -> Report:
    """Measure ``run``, each variant of it (further overrides, ``KEY VALUE ...`` in one string) and each model of
    torchvision that is named, round by round."""
    counts = {"--batch": run.batch, "--steps": run.steps, "--rounds": rounds}
    problems = [f"{name} {value}: at least 1" for name, value in counts.items() if value < 1]
    problems += [f"{name} {value}: at least 0" for name, value in {"--warmup": run.warmup}.items() if value < 0]
    if problems:
        raise DustError("; ".join(problems))
    named = {"as configured": run}
    for words in variants:
        named[words] = replace(run, overrides=(*run.overrides, *shlex.split(words)))
    for peer in peers:
        named[f"torchvision {peer}"] = replace(run, peer=peer)
    for one in named.values():  # all of them can be built, before the first is measured
        load_config(one.cfg_file, list(one.overrides))
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in named}
    for _ in range(rounds):
        for name, one in named.items():
            taken[name].append(in_own_process(measure_model, one))
    base = taken["as configured"]
    rows = [_row(name, results, base) for name, results in taken.items()]
    notes = list(dict.fromkeys(note for results in taken.values() for result in results for note in result["notes"]))
    first = base[0]
    settings = {
        "model": first["model"],
        "clip": "x".join(map(str, first["clip"])),
        "batch": run.batch,
        "mode": "train" if run.train else "eval",
        "optimizer": run.optimizer,
        "steps": run.steps,
        "warmup": run.warmup,
        "rounds": rounds,
        "device": first["device"],
        "threads": first["threads"],
    }
    return Report("model", METHOD, rows, notes, settings)


#: Figures of a process that a row shows as the median over the rounds.
_MEDIANS = ("step_s", "forward_s", "backward_s", "cpu_s", "peak_mib", "above_mib", "cuda_peak_mib", "mfu_percent")


def _row(name: str, results: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"variant": name}
    for key in _MEDIANS:
        if key in results[0]:
            row[key] = median(result[key] for result in results)
    row["clips_per_s"] = median(result["clips_per_s"] for result in results)
    for key, column in (("step_s", "step_ratio"), ("cpu_s", "cpu_ratio"), ("above_mib", "above_ratio")):
        ratios = [one[key] / other[key] for one, other in zip(results, base, strict=True) if other[key] > 0]
        if ratios:
            row[column] = median(ratios)
    return row | {key: results[0][key] for key in ("params_m", "gflop_per_clip")}


def in_own_process(function: Callable[[Any], Any], argument: Any) -> Any:
    """Call ``function(argument)`` in a fresh process, whose memory is nobody else's.

    Raises the DustError that it raised; DustError too if it was killed, RuntimeError if it failed in another way.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, argument), daemon=True)
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        answer = None
    process.join()
    if answer is None:
        code = process.exitcode or 0
        if code < 0:
            name = signal.Signals(-code).name
            raise DustError(f"the measuring process was ended by {name}; if memory ran out, lower --batch")
        raise RuntimeError(f"the measuring process failed with exit code {code}; its own error is above")
    result, error = answer
    if error is not None:
        raise error
    return result


def _answer(sender: Any, function: Callable[[Any], Any], argument: Any) -> None:
    answer: tuple[Any, DustError | None]
    try:
        answer = function(argument), None
    except DustError as error:
        answer = None, error
    sender.send(answer)


def measure_model(run: ModelRun) -> dict[str, Any]:
    """Return the figures of one process: seconds, MiB, parameters in millions, GFLOP per clip, MFU on a known CUDA
    device."""
    if run.threads:
        torch.set_num_threads(run.threads)
    cfg, device = one_device(with_classes(load_config(run.cfg_file, list(run.overrides))), run.device)
    model = (_Torchvision(run.peer, cfg).to(device) if run.peer else build_for(cfg, device)).train(run.train)
    task = build_task(cfg, DataInfo([str(index) for index in range(cfg.MODEL.NUM_CLASSES)])).to(device)
    batch = random_batch(cfg, run.batch, device)
    _touch_libraries(cfg, device)
    step = Step(cfg, build_compiled(cfg, model), task, batch, device, run)
    before = rss_mib()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for index in range(run.warmup + run.steps):
        step(index)
    figures: dict[str, Any] = {name: median(values[run.warmup :]) for name, values in step.seconds.items() if values}
    peak = peak_rss_mib()
    figures |= {"peak_mib": peak, "above_mib": peak - before, "clips_per_s": run.batch / figures["step_s"]}
    if device.type == "cuda":
        figures["cuda_peak_mib"] = torch.cuda.max_memory_allocated(device) / MIB
    figures["params_m"] = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    flops = count_flops(model, task, batch["inputs"]) / run.batch
    mfu, notes = _mfu(cfg, device, flops * (1 + BACKWARD_IN_FORWARDS * run.train) * figures["clips_per_s"])
    if mfu is not None:
        figures["mfu_percent"] = mfu
    return figures | {
        "gflop_per_clip": flops / 1e9,
        "notes": notes,
        "model": type(model).__name__,
        "clip": tuple(batch["inputs"]["video"].shape[1:]),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


class _Torchvision(nn.Module):
    """A video classifier of torchvision's, with our name for its input."""

    def __init__(self, name: str, cfg) -> None:
        super().__init__()
        import torchvision

        if name not in torchvision.models.list_models(torchvision.models.video):
            known = ", ".join(torchvision.models.list_models(torchvision.models.video))
            raise DustError(f"--peer {name}: torchvision.models.video has {known}")
        torch.manual_seed(cfg.RNG_SEED)
        self.model = torchvision.models.get_model(name, num_classes=cfg.MODEL.NUM_CLASSES)

    def forward(self, video: Tensor) -> Tensor:
        return self.model(video)


def random_batch(cfg, size: int, device: torch.device) -> dict[str, Any]:
    """Return a batch as the loader and the device transform make it: normalised clips (B, C, T, H, W) and labels."""
    generator = torch.Generator().manual_seed(cfg.RNG_SEED)
    crop, classes = cfg.DATA.TRAIN_CROP_SIZE, cfg.MODEL.NUM_CLASSES
    shape = (size, cfg.DATA.INPUT_CHANNEL_NUM[0], cfg.DATA.NUM_FRAMES * cfg.DATA.CLIPS_PER_VIEW, crop, crop)
    video = torch.randn(shape, generator=generator)
    label = torch.randint(classes, (size,), generator=generator)
    if cfg.DATA.MULTI_LABEL:
        label = nn.functional.one_hot(label, classes).float()
    return {"inputs": {"video": video.to(device)}, "label": label.to(device), "id": list(range(size))}


class Step:
    """One step of training or evaluation; notes what each takes."""

    def __init__(
        self, cfg, model: nn.Module, task: Task, batch: dict[str, Any], device: torch.device, run: ModelRun
    ) -> None:
        self.model, self.task, self.batch, self.device, self.run = model, task, batch, device, run
        self.autocast = build_autocast(cfg, device)
        scaled = cfg.TRAIN.MIXED_PRECISION and cfg.TRAIN.AMP_DTYPE == "float16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.optimizer = construct_optimizer(model, cfg) if run.train and run.optimizer else None
        self.seconds: dict[str, list[float]] = {"step_s": [], "forward_s": [], "backward_s": [], "cpu_s": []}

    def __call__(self, index: int) -> None:
        torch.manual_seed(index)  # dropout and drop-path
        synchronize(self.device)
        cpu, start = time.process_time(), time.perf_counter()
        loss = self._forward()
        synchronize(self.device)
        middle = time.perf_counter()
        if self.run.train:
            self.scaler.scale(loss).backward()
            if self.optimizer is not None:
                self.scaler.step(self.optimizer)
                self.scaler.update()
            synchronize(self.device)
            self.seconds["backward_s"].append(time.perf_counter() - middle)
        self.seconds["step_s"].append(time.perf_counter() - start)
        self.seconds["forward_s"].append(middle - start)
        self.seconds["cpu_s"].append(time.process_time() - cpu)
        self.model.zero_grad(set_to_none=True)

    def _forward(self) -> Tensor:
        with torch.set_grad_enabled(self.run.train), self.autocast():
            outputs = self.task.forward(self.model, self.batch["inputs"])
            if not self.run.train:
                return torch.zeros(())
            return torch.stack([value.float() for value in self.task.losses(outputs, self.batch).values()]).sum()


def _touch_libraries(cfg, device: torch.device) -> None:
    """Run a tiny layer forward and backward, so that the libraries' own memory stands before the model's."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(), nn.Linear(32, 8), nn.LayerNorm(8)).to(device)
    with build_autocast(cfg, device)():
        out = layers(torch.randn(2, 3, 8, 8, device=device))
        q = out.view(1, 1, 2, 8)
        loss = nn.functional.scaled_dot_product_attention(q, q, q).float().sum()
    loss.backward()


def count_flops(model: nn.Module, task: Task, inputs: dict[str, Tensor]) -> int:
    """Return the FLOP of one forward in eval mode, 2 per multiply-add. Moves the model to the meta device: nothing is
    computed."""
    model.to("meta").eval()
    abstract = {name: value.to("meta") for name, value in inputs.items()}
    with torch.no_grad(), flop_counter() as counter:
        task.forward(model, abstract)
    return counter.get_total_flops()


def _mfu(cfg, device: torch.device, flops_per_s: float) -> tuple[float | None, list[str]]:
    """Return (percent of the device's 16-bit peak, a line that says why there is none)."""
    if device.type != "cuda":
        return None, ["no CUDA device: MFU is left out"]
    name = torch.cuda.get_device_name(device)
    if not cfg.TRAIN.MIXED_PRECISION:
        return None, ["MFU is left out: it is told of 16-bit peaks. Set TRAIN.MIXED_PRECISION True"]
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}[cfg.TRAIN.AMP_DTYPE]
    peak = peak_flops(name, dtype)
    if peak is None:
        return None, [f"MFU is left out: the {cfg.TRAIN.AMP_DTYPE} peak of {name!r} is not known here"]
    return 100.0 * flops_per_s / peak, []
