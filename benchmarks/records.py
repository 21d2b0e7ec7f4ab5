"""What an evaluation of many samples holds in memory: made-up logits through the evaluation loop, on several processes.

python -m benchmarks.records --samples 1000000 --classes 400 --processes 2 --out DIR   from the root of a checkout.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dust.benchmark.report import Report
from dust.datasets.samplers import EvaluationSampler
from dust.engine.evaluator import Evaluator
from dust.engine.run_dir import RECORDS, BadClipLog
from dust.tasks.classification import Classification
from dust.utils import distributed

METHOD = (
    "Labels, and 16 numbers of a sample by its own seed, whose product with a fixed matrix are its logits, run through "
    "Inference and Classification; each clip is a file, and so a group, of its own. peak_mb is ru_maxrss of a process "
    "after all of it, imported_mb the same before; spilled_mb the size of all records; cpu_s leaves out the imports."
)
FEATURES, BLOCK = 16, 1000


class Clips:
    """A loader of samples that are made as they are asked for: one share of them."""

    def __init__(self, samples: int, classes: int) -> None:
        self.classes = classes
        self.order = EvaluationSampler(samples, rank=distributed.rank(), world_size=distributed.world_size())

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        block, numbers = -1, torch.empty(0)
        for index in self.order:
            if index // BLOCK != block:
                block = index // BLOCK
                numbers = torch.randn(BLOCK, 1, FEATURES, generator=torch.Generator().manual_seed(block))
            label = index * 7919 % self.classes
            one = {"id": f"clip_{index:09d}", "path": f"recording_{index // 20:07d}/clip_{index:09d}.mp4"}
            yield {**one, "label": label, "inputs": {"x": numbers[index % BLOCK]}}


class Head(torch.nn.Module):
    """(B, 16) -> (B, K)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(FEATURES, classes, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def megabytes() -> float:
    """Return the most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def evaluate(rank: int, world: int, samples: int, classes: int, folder: str, answers: Any) -> None:
    """Do the work of one process; the first writes the files of a test."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    names = [f"class {number}" for number in range(classes)]
    task = Classification(class_names=names, predictions_top_k=5)
    evaluator = Evaluator(task, lambda batch, training: batch, torch.device("cpu"), micro_batch=250)  # type: ignore[arg-type]
    log = BadClipLog(Path(folder) / "bad_clips.csv", "test", "raise")
    from sklearn.metrics import f1_score  # noqa: F401 - part of what is imported, not of what is held

    before, start, cpu = megabytes(), time.monotonic(), time.process_time()
    evaluation, counts = evaluator.evaluate(Head(classes), Clips(samples, classes), split="test", bad_clips=log)  # type: ignore[arg-type]
    files = Path(folder) / RECORDS
    spilled = sum(path.stat().st_size for path in files.rglob("*")) if files.is_dir() else 0
    looped, metrics = time.monotonic() - start, distributed.from_main(evaluation.metrics)
    if rank == 0:
        out = Path(folder) / "results"
        out.mkdir()
        evaluation.write(out)
        groups = {}
        report = {**evaluation.report(), "metrics": metrics, "counts": counts}
        report["intervals"] = {name: [one.low, one.high] for name, one in evaluation.intervals(groups).items()}
        (out / "test.json").write_text(json.dumps(report))
    answers.put(
        {
            "process": rank,
            "samples": samples,
            "classes": classes,
            "imported_mb": round(before),
            "peak_mb": round(megabytes()),
            "grown_mb": round(megabytes() - before),
            "spilled_mb": round(spilled / 1e6),
            "loop_s": round(looped, 1),
            "wall_s": round(time.monotonic() - start, 1),
            "cpu_s": round(time.process_time() - cpu, 1),
        }
    )
    dist.barrier()
    dist.destroy_process_group()


def measure_records(samples: int, classes: int, processes: int, folder: str) -> Report:
    """Evaluate once; a row for each process. The files stay in ``folder``."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    workers = [
        context.Process(target=evaluate, args=(rank, processes, samples, classes, folder, answers))
        for rank in range(processes)
    ]
    for worker in workers:
        worker.start()
    rows = sorted((answers.get() for _ in workers), key=lambda row: row["process"])
    for worker in workers:
        worker.join()
    return Report("records", METHOD, rows, [], {"processes": processes})


def main(argv: list[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=400)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", help="keep the results there")
    args = parser.parse_args(argv)
    folder = tempfile.mkdtemp()
    try:
        sys.stdout.write(measure_records(args.samples, args.classes, args.processes, folder).text() + "\n")
        if args.out:
            shutil.copytree(Path(folder) / "results", args.out)
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
