"""Forward and training step of MViTv2-S and SlowFast R50 beside torchvision's and pytorchvideo's, CPU, in turns.

python -m benchmarks.backbones mvit_v2_s slowfast_r50 --rounds 5 --threads 1   from the root of a checkout.
"""

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn

from dust.benchmark.report import Report
from dust.config import load_config
from dust.models import build_model
from dust.utils.errors import DustError

METHOD = (
    "One clip of noise, fp32, the same weights in both; in turns within each round after one that does not count. "
    "cpu_s is the median, all threads together; ratio the median of the rounds' ratios to dust. A step is forward, "
    "cross entropy and backward, dropout and stochastic depth off."
)
MODELS = {
    "mvit_v2_s": ("configs/Kinetics/MVITv2_S_16x4.yaml", ("MVIT.DROPPATH_RATE", "0.0", "MODEL.DROPOUT_RATE", "0.0")),
    "slowfast_r50": ("configs/Kinetics/SLOWFAST_8x8_R50.yaml", ("MODEL.DROPOUT_RATE", "0.0")),
}


def peer(name: str) -> tuple[str, nn.Module, Callable[[torch.Tensor, nn.Module], Any]]:
    """Another library's model: the library, the model, and what it takes of a video."""
    if name == "mvit_v2_s":
        from torchvision.models.video import mvit_v2_s

        return "torchvision", mvit_v2_s(dropout=0.0, stochastic_depth_prob=0.0), lambda video, _: video
    try:
        from pytorchvideo.models.hub import slowfast_r50
    except ImportError as error:
        raise DustError(f"slowfast_r50 is compared with pytorchvideo's: pip install pytorchvideo ({error})") from error
    theirs = slowfast_r50(pretrained=False)
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return "pytorchvideo", theirs, lambda video, ours: ours.pathways_of(video)  # type: ignore[operator]


def measure_backbones(names: list[str], *, rounds: int, threads: int, size: int = 224) -> Report:
    """Measure each of ``names``, forward and step, ``rounds`` times."""
    if threads:
        torch.set_num_threads(threads)
    rows = []
    for name in names:
        path, overrides = MODELS[name]
        cfg = load_config(path, overrides)
        torch.manual_seed(0)
        ours = build_model(cfg)
        library, theirs, inputs_of = peer(name)
        ours.load_state_dict(ours.adapt_state_dict(dict(theirs.state_dict()), []))  # type: ignore[operator]
        video = torch.randn(1, 3, cfg.DATA.NUM_FRAMES, size, size)
        label = torch.tensor([1])
        models = {"dust": (ours, video), library: (theirs, inputs_of(video, ours))}

        def forward(which: str, models: dict[str, Any] = models) -> Any:
            model, given = models[which]
            return model(list(given) if isinstance(given, list) else given)

        def step(which: str, label: torch.Tensor = label, forward: Any = forward) -> None:
            nn.functional.cross_entropy(forward(which), label).backward()

        for what, call in (("forward", forward), ("step", step)):
            for model, _ in models.values():
                model.train(what == "step")
            with torch.set_grad_enabled(what == "step"):
                if what == "forward":
                    torch.testing.assert_close(forward("dust"), forward(library), atol=1e-3, rtol=1e-3)
                seconds = _in_turns(call, list(models), rounds)
            for which, values in seconds.items():
                ratios = [value / base for value, base in zip(values, seconds["dust"], strict=True)]
                row = {"model": name, "what": what, "by": which, "cpu_s": round(median(values), 3)}
                rows.append({**row, "ratio": round(median(ratios), 3)})
    return Report("backbones", METHOD, rows)


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
