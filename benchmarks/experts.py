"""What frozen experts save in CAST's training step and in TSTL, and VideoMAE's attention against the naive form."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from dust.benchmark.cost import MIB, cpu_of, peak_rss_mib, rss_mib
from dust.benchmark.device import with_classes
from dust.benchmark.model import in_own_process, random_batch
from dust.benchmark.report import Report
from dust.config import load_config, with_values
from dust.config.expand import grouping_of
from dust.engine.setup import build_for
from dust.models import cast, videomae_vit
from dust.models.cast_weights import trained_names
from dust.models.layers import frozen
from dust.models.optimizer import construct_optimizer
from dust.models.tstl import TSTL
from dust.utils.checkpoint import save_checkpoint
from dust.utils.errors import ConfigError, DustError

METHODS = {
    "CAST": "Training steps (forward, loss, backward, optimizer) on one random clip, fp32, every row and round a "
    "process of its own. The optimizer is the configured one over what CAST trains, in every row; nothing is "
    "checkpointed. peak_mib is the largest resident memory of the process, kept_mib what autograd holds between the "
    "forward and the backward pass beside parameters, each piece of memory once. ratio: the peak's, to the row in "
    "which all parameters have gradients; median of the rounds.",
    "TSTL": "Forward passes in eval mode on a batch of random clips, in turns within each round after one that does "
    "not count; cpu_s is the median, all threads together, ratio the median of the rounds' ratios to one CAST. The "
    "selector is computed as it is and its answer then replaced, so that the clips go to so many experts. Memory: mib "
    "is that of the tensors, each piece once, or what the process grew by (resident) when the model was built; its "
    "ratio is to one trunk and 1 + G times what CAST trains, with a head of all classes. Files: as checkpoints hold "
    "them.",
    "VideoMAE": "One forward pass in eval mode, in turns within each round after one that does not count; cpu_s is the "
    "median, all threads together, ratio the median of the rounds' ratios to dust.",
}


@dataclass(frozen=True)
class ExpertsRun:
    """What is measured: a configuration file with overrides, and how often.

    Attributes:
        clips: in TSTL's batch; the others take one.
        experts: that these clips are sent to.
        steps: of training in a process.
        threads: torch's CPU threads; 0 leaves them as they are.
    """

    cfg_file: str
    overrides: tuple[str, ...] = ()
    rounds: int = 3
    clips: int = 8
    experts: int = 4
    steps: int = 2
    threads: int = 0
    variant: str = ""


def benchmark_experts(run: ExpertsRun) -> Report:
    """Return the report for the configured model, which is a CAST, a TSTL or a VideoMAE. On the CPU."""
    counts = {"--rounds": run.rounds, "--clips": run.clips, "--experts": run.experts, "--steps": run.steps}
    problems = [f"{name} {value}: at least 1" for name, value in counts.items() if value < 1]
    if problems:
        raise DustError("; ".join(problems))
    name = load_config(run.cfg_file, list(run.overrides)).MODEL.MODEL_NAME
    measures: dict[str, Callable[[ExpertsRun], tuple[list[dict[str, Any]], dict[str, Any]]]] = {
        "CAST": _cast,
        "TSTL": lambda run: in_own_process(measure_tstl, run),
        "VideoMAE": lambda run: in_own_process(measure_attention, run),
    }
    if name not in measures:
        raise ConfigError(f"MODEL.MODEL_NAME {name}: the benchmark is of {', '.join(measures)}")
    rows, settings = measures[name](run)
    return Report("experts", METHODS[name], rows, [], {"model": name, "rounds": run.rounds} | settings)


def _build(run: ExpertsRun) -> tuple[Any, Any]:
    """Return (the configuration, its model)."""
    if run.threads:
        torch.set_num_threads(run.threads)
    cfg = load_config(run.cfg_file, list(run.overrides))
    if cfg.MODEL.MODEL_NAME == "TSTL" and cfg.MODEL.NUM_CLASSES < 0:
        cfg = with_values(cfg, {"MODEL.NUM_CLASSES": grouping_of(cfg).num_classes})
    cfg = with_classes(cfg)
    return cfg, build_for(cfg, torch.device("cpu"))


def _in_turns(actions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds of each action in each round."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for name, action in actions.items():
                seconds = cpu_of(action)
                if number:
                    taken[name].append(seconds)
    return taken


def _time_rows(taken: dict[str, list[float]], base: str) -> list[dict[str, Any]]:
    return [
        {
            "what": name,
            "cpu_s": median(seconds),
            "ratio": median(one / other for one, other in zip(seconds, taken[base], strict=True)),
        }
        for name, seconds in taken.items()
    ]


# --------------------------------------------------------------------------------------------- CAST: a training step

#: The rows. In the second one a frozen MLP keeps its hidden layer, as everywhere else, instead of computing it again.
AS_BUILT, HIDDEN_KEPT, ALL_LEARN = "experts frozen", "the same, hidden layers kept", "gradients of everything"


def _cast(run: ExpertsRun) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    variants = (AS_BUILT, HIDDEN_KEPT, ALL_LEARN)
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(run.rounds):
        for name in variants:
            variant = ExpertsRun(**{**vars(run), "variant": name})
            taken[name].append(in_own_process(measure_cast, variant))
    rows = []
    for name, results in taken.items():
        row: dict[str, Any] = {"what": name}
        row |= {key: median(result[key] for result in results) for key in results[0]}
        peaks = zip(results, taken[ALL_LEARN], strict=True)
        rows.append(row | {"ratio": median(one["peak_mib"] / other["peak_mib"] for one, other in peaks)})
    return rows, {"batch": 1, "steps": run.steps, "threads": run.threads or torch.get_num_threads()}


def measure_cast(run: ExpertsRun) -> dict[str, float]:
    """Return the peak memory of a process that trains a CAST as ``variant`` says."""
    cfg, model = _build(run)
    if run.variant != AS_BUILT:  # in a process of its own, so it needs no way back
        cast.frozen_hidden = lambda linear, activation, x: frozen.activate(linear(x), activation)
    optimizer = construct_optimizer(model.train(), cfg)  # over what CAST trains
    if run.variant == ALL_LEARN:
        model.requires_grad_(True)
    batch = random_batch(cfg, 1, torch.device("cpu"))

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(**batch["inputs"]), batch["label"])

    seconds = []
    for _ in range(run.steps):
        seconds.append(cpu_of(lambda: (loss().backward(), optimizer.step())))
        model.zero_grad(set_to_none=True)
    peak = peak_rss_mib()
    trained = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
    return {"cpu_s": median(seconds), "kept_mib": _kept(model, loss), "peak_mib": peak, "optimized_m": trained / 1e6}


def _kept(model: nn.Module, loss: Callable[[], Tensor]) -> float:
    """Return MiB that autograd holds after the forward pass, beside parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    pieces: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        pieces[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        held = loss()
    del held
    return sum(size for address, size in pieces.items() if address not in own) / MIB


# ---------------------------------------------------------------------------------------------- TSTL: time and memory


def measure_tstl(run: ExpertsRun) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return rows of time, memory and file sizes of a TSTL."""
    tiny: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    cast.CAST(**tiny, all_frames=4)(torch.zeros(1, 3, 4, 16, 16))  # the libraries' own memory stands before
    before = rss_mib()
    cfg, model = _build(run)
    resident = rss_mib() - before
    groups = len(model.experts)
    if run.experts > min(groups, run.clips):
        raise DustError(f"--experts {run.experts}: at most {groups}, the groups, and {run.clips}, the clips")
    rows = [*_memory_rows(model, resident), *_file_rows(model.experts[0])]

    video = random_batch(cfg, run.clips, torch.device("cpu"))["inputs"]["video"]
    scores = nn.functional.one_hot(torch.arange(run.clips) % run.experts, groups).float()
    model.eval().top_k = 1
    model.selector.register_forward_hook(lambda module, inputs, output: scores)
    taken = _in_turns({"one CAST": lambda: model.selector(video), "TSTL": lambda: model(video)}, run.rounds)
    settings = {"groups": groups, "top_k": 1, "clips": run.clips, "experts": run.experts}
    return [*_time_rows(taken, "one CAST"), *rows], settings | {"threads": torch.get_num_threads()}


def _memory_rows(model: TSTL, resident: float) -> list[dict[str, Any]]:
    one, parts = model.selector, 1 + len(model.experts)
    trained = {name: one.get_parameter(name).nbytes for name in trained_names(one)}
    trunk = held_bytes(one) - sum(trained.values())
    head = nn.Linear(one.embed_dim, model.num_classes)  # of all classes; the parts' own may be smaller
    each = sum(size for name, size in trained.items() if not name.startswith("head.")) + held_bytes(head)
    bound = (trunk + parts * each) / MIB
    own = held_bytes(model) / MIB
    return [
        {"what": f"trunk + {parts} x trained", "mib": bound, "ratio": 1.0},
        {"what": "TSTL's tensors", "mib": own, "ratio": own / bound},
        {"what": "TSTL, resident", "mib": resident, "ratio": resident / bound},
    ]


def _file_rows(expert: Any) -> list[dict[str, Any]]:
    expert.init_from = {"trunk": ("", "")}  # its trunk is in a file of its own
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, state in (("an expert", expert.partial_state_dict()), ("a whole CAST", expert.state_dict())):
            path = Path(folder, f"{name}.pyth")
            save_checkpoint(path, {"model_state": state})
            sizes[f"file of {name}"] = path.stat().st_size / MIB
            path.unlink()
    whole = max(sizes.values())
    return [{"what": name, "mib": size, "ratio": size / whole} for name, size in sizes.items()]


def held_bytes(model: nn.Module) -> int:
    """Return the bytes of memory behind parameters and buffers, each piece once."""
    storages = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


# ------------------------------------------------------------------------------------------------ VideoMAE: attention


def naive_attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, drop: float = 0.0) -> Tensor:
    """Compute :func:`dust.models.videomae_vit.attend` as it stands in textbooks, in evaluation."""
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def measure_attention(run: ExpertsRun) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return rows of a VideoMAE's forward, as it is and with the naive form of attention."""
    cfg, model = _build(run)
    video = random_batch(cfg, 1, torch.device("cpu"))["inputs"]["video"]
    model.eval()
    ours = videomae_vit.attend

    def naive() -> Tensor:
        videomae_vit.attend = naive_attend
        try:
            return model(video)
        finally:
            videomae_vit.attend = ours

    taken = _in_turns({"dust": lambda: model(video), "naive softmax(q k) v": naive}, run.rounds)
    with torch.inference_mode():
        logits = model(video)
        relative = ((logits - naive()).abs().max() / logits.abs().max()).item()
    return _time_rows(taken, "dust"), {"relative_difference": f"{relative:.1e}", "threads": torch.get_num_threads()}
