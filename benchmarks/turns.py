"""What is around a model, by two commits in turns: CPU milliseconds of a training batch, and of a view that is tested.

python -m benchmarks.turns --base COMMIT [--rounds 9] [--only alone,two,test]

Each tree has a process of its own, on one thread, and they work in turns; a ratio is the median of the rounds' ratios.
The models are tiny, so that what is around them shows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CFG = "configs/quickstart/video.yaml"
TINY = (
    "DATA.TRAIN_CROP_SIZE", "32", "DATA.TRAIN_JITTER_SCALES", "[32, 32]", "DATA.TEST_CROP_SIZE", "32",
    "DATA.NUM_FRAMES", "2", "TIMESFORMER.EMBED_DIM", "32", "TRAIN.BATCH_SIZE", "4", "MODEL.NUM_CLASSES", "4",
)  # fmt: skip
BATCHES, WARMUP, ITEMS, VIEWS = 120, 20, 100, 6


def _alone() -> float:
    """Time a batch of one process, its start and end left out."""
    from dust.benchmark import in_memory
    from dust.engine.run_dir import RunDir
    from dust.engine.train import build_trainer

    os.environ[in_memory.BATCHES] = str(BATCHES)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(in_memory.in_memory_config(CFG, TINY, "OUTPUT_DIR", folder), RunDir(folder))
        trainer.fit()
    dataset: Any = trainer.loader.dataset
    return 1e3 * (dataset.cpu[-1] - dataset.cpu[WARMUP]) / (BATCHES - 1 - WARMUP)


def _two() -> float:
    """Time a batch of two processes, both counted."""
    from dust.benchmark.in_memory import in_memory_config, train_in_memory

    stamps = train_in_memory(in_memory_config(CFG, TINY, "NUM_PROCS_PER_NODE", "2"), BATCHES)
    return sum(1e3 * (one.cpu[-1] - one.cpu[WARMUP]) / (BATCHES - 1 - WARMUP) for one in stamps)


def _test() -> float:
    """Time a view of a test, in micro-batches of 8."""
    import torch

    from dust.config import load_config
    from dust.datasets.transforms.device import DeviceTransform
    from dust.engine.inference import Inference
    from dust.models import build_model
    from dust.utils.registry import build

    cfg, device = load_config(CFG, list(TINY)), torch.device("cpu")
    forward: Callable[..., Any] = lambda model, inputs: model(**inputs)  # noqa: E731
    loop = Inference(build_model(cfg), forward, build(DeviceTransform, cfg), device, 8)
    video = torch.randint(256, (VIEWS, 3, 2, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    items = [{"inputs": {"video": video}, "label": 0, "id": str(number), "path": ""} for number in range(ITEMS)]
    began = time.process_time()
    for _ in loop(items):
        pass
    return 1e3 * (time.process_time() - began) / (VIEWS * ITEMS)


CASES: dict[str, Callable[[], float]] = {"alone": _alone, "two": _two, "test": _test}


class Tree:
    """A process that measures what it is asked for, in the files of one commit."""

    def __init__(self, path: Path) -> None:
        environ = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).resolve()), "--serve"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=path, env=environ, stdin=pipe, stdout=pipe, text=True)

    def measure(self, case: str) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).startswith("measured "):
            if not line:
                raise SystemExit(f"{case} failed")
        return float(json.loads(line.removeprefix("measured ")))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        for line in sys.stdin:
            print("measured", CASES[line.strip()](), flush=True)
        return 0
    from benchmarks.identical import checkout

    with tempfile.TemporaryDirectory() as folder:
        trees = [Tree(checkout(args.base, Path(folder))), Tree(ROOT)]
        for case in args.only.split(","):
            for tree in trees:
                tree.measure(case)  # the first time loads what is needed
            rounds = [[tree.measure(case) for tree in trees] for _ in range(args.rounds)]
            before, after = (median(one[index] for one in rounds) for index in (0, 1))
            ratio = median(one[1] / one[0] for one in rounds)
            print(f"{case}: {before:.3f} -> {after:.3f} ms CPU, ratio {ratio:.3f}", flush=True)
        for tree in trees:
            tree.process.communicate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
