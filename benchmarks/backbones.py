"""Forward and training step of MViTv2-S and SlowFast R50 beside torchvision's and pytorchvideo's, CPU, in turns.

python -m benchmarks.backbones mvit_v2_s slowfast_r50 --rounds 5 --threads 1   from the root of a checkout.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Any

import torch
from torch import nn

from dust.benchmark.cost import peak_rss_mib, rss_mib
from dust.benchmark.report import Report
from dust.config import load_config
from dust.models import build_model
from dust.utils.errors import DustError

METHOD = (
    "One clip of noise, fp32, the same weights in both; in turns within each round after one that does not count. "
    "cpu_s is the median, all threads together; ratio the median of the rounds' ratios to dust. A step is forward, "
    "cross entropy and backward, dropout and stochastic depth off. peak_mib is the largest resident memory of a "
    "process of its own after two of them, libraries and weights included; above_mib less what it had before the first."
)
MODELS = {
    "mvit_v2_s": ("configs/Kinetics/MVITv2_S_16x4.yaml", ("MVIT.DROPPATH_RATE", "0.0", "MODEL.DROPOUT_RATE", "0.0")),
    "slowfast_r50": ("configs/Kinetics/SLOWFAST_8x8_R50.yaml", ("MODEL.DROPOUT_RATE", "0.0")),
}

LIBRARIES = {"mvit_v2_s": "torchvision", "slowfast_r50": "pytorchvideo"}


def peer(name: str) -> tuple[nn.Module, Callable[[torch.Tensor], Any]]:
    """Build another library's model, and what it takes of a video."""
    if name == "mvit_v2_s":
        from torchvision.models.video import mvit_v2_s

        return mvit_v2_s(dropout=0.0, stochastic_depth_prob=0.0), lambda video: video
    try:
        from pytorchvideo.models.hub import slowfast_r50
    except ImportError as error:
        raise DustError(f"slowfast_r50 is compared with pytorchvideo's: pip install pytorchvideo ({error})") from error
    theirs = slowfast_r50(pretrained=False)
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.device("meta"):
        ours: Any = build_model(load_config(MODELS[name][0]))  # draws the slow pathway by SlowFast's rule
    return theirs, ours.pathways_of


def measure_backbones(names: list[str], *, rounds: int, threads: int, size: int = 224) -> Report:
    """Measure each of ``names``, forward and step, ``rounds`` times."""
    if threads:
        torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for name in names:
        models = {which: _build(name, which, size) for which in ("dust", "peer")}
        ours, theirs = (model for model, _ in models.values())
        ours.load_state_dict(ours.adapt_state_dict(dict(theirs.state_dict()), []))  # type: ignore[operator]
        for what in ("forward", "step"):
            for model, _ in models.values():
                model.train(what == "step")
            if what == "forward":
                with torch.no_grad():
                    outputs = [_forward(*one) for one in models.values()]
                torch.testing.assert_close(*outputs, atol=1e-3, rtol=1e-3)

            def call(which: str, what: str = what, models: dict[str, Any] = models) -> None:
                _do(what, *models[which])

            seconds = _in_turns(call, list(models), rounds)
            peaks = {which: _in_a_process(name, which, what, size) for which in models}
            for which, values in seconds.items():
                ratios = [value / base for value, base in zip(values, seconds["dust"], strict=True)]
                row: dict[str, Any] = {"model": name, "what": what, "by": LIBRARIES[name] if which == "peer" else which}
                row |= {"cpu_s": round(median(values), 3), "ratio": round(median(ratios), 3)}
                peak, above = peaks[which]
                row |= {"peak_mib": peak, "peak_ratio": round(peak / peaks["dust"][0], 3), "above_mib": above}
                rows.append(row | {"above_ratio": round(above / peaks["dust"][1], 3)})
    return Report("backbones", METHOD, rows)


def _build(name: str, which: str, size: int) -> tuple[nn.Module, Any]:
    """Build the model and what it takes of a clip of noise."""
    path, overrides = MODELS[name]
    cfg = load_config(path, overrides)
    torch.manual_seed(0)
    video = torch.randn(1, 3, cfg.DATA.NUM_FRAMES, size, size)
    if which == "peer":
        theirs, inputs_of = peer(name)
        return theirs, inputs_of(video)
    return build_model(cfg), video


def _forward(model: nn.Module, given: Any) -> Any:
    return model(list(given) if isinstance(given, list) else given)


def _do(what: str, model: nn.Module, given: Any) -> None:
    with torch.set_grad_enabled(what == "step"):
        out = _forward(model, given)
        if what == "step":
            nn.functional.cross_entropy(out, torch.tensor([1])).backward()


def _in_a_process(name: str, which: str, what: str, size: int) -> tuple[int, int]:
    """Return the MiB of a process that builds one model and does the same twice: in all, and beyond what it had
    before."""
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, name, which, what, size, threads).result()


def _peak(name: str, which: str, what: str, size: int, threads: int) -> tuple[int, int]:
    torch.set_num_threads(threads)
    model, given = _build(name, which, size)
    model.train(what == "step")
    before = rss_mib()
    for _ in range(2):
        _do(what, model, given)
    return round(peak_rss_mib()), round(peak_rss_mib() - before)


def _in_turns(call: Callable[[str], Any], names: list[str], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names:
            begun = time.process_time()
            call(name)
            if number:
                seconds[name].append(time.process_time() - begun)
    return seconds


def main() -> int:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; 0: torch's choice")
    args = parser.parse_args()
    try:
        report = measure_backbones(args.models, rounds=args.rounds, threads=args.threads)
    except DustError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(report.text() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
