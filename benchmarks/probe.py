"""What a probe's epoch costs on stored tokens and through the encoder, and a grid of 20 heads beside one; CPU.

python -m benchmarks.probe counted                 FLOP of ViT-L, 16 x 256 x 256, 2,048 tokens; no values are computed
python -m benchmarks.probe epoch grid --rounds 5   a small encoder and its tokens, measured
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

from dust.benchmark.report import Report
from dust.models.optimizer import build_optimizer, set_lr
from dust.models.probe import Probe
from dust.utils.features import FeatureStore, FeatureWriter
from dust.utils.flops import flop_counter

VIT_L = {"embed_dim": 1024, "depth": 24, "num_heads": 16, "probe_depth": 1, "num_classes": 0}
SMALL = {"embed_dim": 192, "depth": 12, "num_heads": 3, "probe_depth": 1, "probe_heads": 3, "num_classes": 0}
GRID_3D = {"kind": "grid", "grid": (8, 4, 4)}
#: name: (head, its arguments, pooling of the tokens)
DEPTH_1, DEPTH_4 = "attentive, depth 1, all tokens", "attentive, depth 4, all tokens"
HEADS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    DEPTH_4: ("attentive", {"depth": 4}, {}),
    DEPTH_1: ("attentive", {"depth": 1}, {}),
    "attentive, depth 4, grid 8x4x4": ("attentive", {"depth": 4}, GRID_3D),
    "linear, all tokens": ("linear", {}, {}),
}
RATES = [(lr, decay) for lr in (0.005, 0.003, 0.001, 0.0003, 0.0001) for decay in (0.01, 0.1, 0.4, 0.8)]
BATCH = 8


def build(backbone: dict[str, Any], name: str, **more: Any) -> Probe:
    """Build a probe of 174 classes on V-JEPA 2's encoder."""
    head, arguments, pooling = HEADS[name]
    if head == "attentive":
        arguments = {**arguments, "num_heads": backbone["num_heads"]}
    return Probe(
        backbone="VJEPA2", backbone_arguments=backbone, num_classes=174, head=head, head_arguments=arguments,
        pooling=pooling, base_lr=0.001, **more,
    )  # fmt: skip


def learn(model: Probe, **inputs: torch.Tensor) -> None:
    """Run forward and backward of a batch."""
    outputs = model(**inputs)
    logits = outputs["heads"].flatten(0, 1) if isinstance(outputs, dict) else outputs
    label = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    torch.nn.functional.cross_entropy(logits, label, reduction="sum").backward()


def count() -> list[dict[str, Any]]:
    """Count FLOP per clip of ViT-L at 16 x 256 x 256."""
    rows = []
    for name in HEADS:
        with torch.device("meta"):
            model = build(VIT_L, name).train()
            video = torch.zeros(1, 3, 16, 256, 256)
        flops = {}
        tokens = model.forward_features(video).detach()
        for what, inputs in (("encoder", {"video": video}), ("stored", {"tokens": tokens})):
            counter = flop_counter()
            with counter:
                learn(model, **inputs)
            flops[what] = counter.get_total_flops()
        row = {"head": name, "tokens": tokens.shape[1], "encoder_gflop": round(flops["encoder"] / 1e9, 1)}
        rows.append({**row, "stored_gflop": round(flops["stored"] / 1e9, 2),
                     "ratio": round(flops["encoder"] / flops["stored"], 1)})  # fmt: skip
    return rows


def measure_epoch(rounds: int) -> list[dict[str, Any]]:
    """Measure CPU seconds per clip of a step through a small encoder, and on its stored tokens."""
    rows = []
    for name in HEADS:
        torch.manual_seed(0)
        model = build(SMALL, name).train()
        video = torch.randn(BATCH, 3, 16, 128, 128)
        tokens = model.forward_features(video).half()
        calls = {"encoder": lambda m=model, v=video: learn(m, video=v),
                 "stored": lambda m=model, t=tokens: learn(m, tokens=t)}  # fmt: skip
        seconds = in_turns(calls, rounds)
        ratio = median(a / b for a, b in zip(seconds["encoder"], seconds["stored"], strict=True))
        cpu = {f"{what}_cpu_ms": round(1000 * median(values) / BATCH, 2) for what, values in seconds.items()}
        rows.append({"head": name, "tokens": tokens.shape[1], **cpu, "ratio": round(ratio, 1)})
    return rows


def measure_grid(
    rounds: int, clips: int = 128, batch: int = 64, names: Sequence[str] = ("linear, all tokens", DEPTH_1)
) -> list[dict[str, Any]]:
    """Measure CPU seconds of a pass over stored tokens: 20 heads in one pass, 20 passes of one head, one pass of
    one."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        writer = FeatureWriter(folder, "train", [str(n) for n in range(clips)], (1, 512, 192), "float16", {})
        writer.write(0, np.random.RandomState(0).standard_normal((clips, 1, 512, 192)).astype(np.float32))
        writer.finish()
        store = FeatureStore.open(folder, "train")
        for name in names:

            def runs(grids: list[list[tuple[float, float]]], name: str = name) -> Callable[[], None]:
                models = [build({**SMALL, "depth": 1}, name, grid=grid).train() for grid in grids]
                optimizers = [build_optimizer(model, name="adamw", lr=0.001, weight_decay=0.0) for model in models]

                def passes() -> None:
                    for model, optimizer in zip(models, optimizers, strict=True):
                        for start in range(0, clips, batch):
                            set_lr(optimizer, 0.001)
                            tokens = store.features[start : start + batch][:, 0]
                            learn(model, tokens=torch.from_numpy(tokens))
                            optimizer.step()
                            optimizer.zero_grad()

                return passes

            calls = {"one": runs([RATES[:1]]), "grid": runs([RATES]), "alone": runs([[pair] for pair in RATES])}
            seconds = in_turns(calls, rounds)
            row = {"head": name, **{f"{what}_cpu_s": round(median(v), 2) for what, v in seconds.items()}}
            row["grid/one"] = round(median(a / b for a, b in zip(seconds["grid"], seconds["one"], strict=True)), 2)
            row["grid/alone"] = round(median(a / b for a, b in zip(seconds["grid"], seconds["alone"], strict=True)), 3)
            rows.append(row)
    return rows


def in_turns(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds of each call in each round; a first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            begun = time.process_time()
            call()
            if number:
                seconds[name].append(time.process_time() - begun)
    return seconds


METHODS = {
    "counted": "Forward and backward of the head, and for 'encoder' the forward of the frozen encoder, per clip.",
    "epoch": "V-JEPA 2's encoder, 12 blocks of 192, 16 x 128 x 128, batch 8, fp32, one thread; in turns, medians.",
    "grid4": "As grid, 4 clips in one batch.",
    "grid": "128 clips of 512 tokens of 192, batch 64: read, learn, step; 20 rates in one pass, in 20 passes, and one.",
}


def main() -> int:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=list(METHODS))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for what in args.what:
        measures: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "counted": count,
            "epoch": lambda: measure_epoch(args.rounds),
            "grid": lambda: measure_grid(args.rounds),
            "grid4": lambda: measure_grid(args.rounds, 4, 4, [DEPTH_4]),
        }
        rows = measures[what]()
        sys.stdout.write(Report(f"probe {what}", METHODS[what], rows).text() + "\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
