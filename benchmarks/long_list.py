"""A list of millions of clips: what opening it costs, and what all processes of a machine hold of it.

python -m benchmarks.long_list first --rows 10000000 --folder DIR      writes the list and its columns; one process
python -m benchmarks.long_list record --rows 10000000 --folder DIR     what the first process keeps of it for resuming
                                                                       and for later tests
python -m benchmarks.long_list next --rows 10000000 --folder DIR       opens it: --ranks processes of --workers each
python -m benchmarks.long_list next --rows 1000 --folder DIR           the same of a short list, for the difference

The files that the list names do not exist: workers ask for clips and get a BadClip each, so that nothing is decoded.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch.distributed as dist

from dust.benchmark.report import Report
from dust.config import load_config
from dust.datasets import construct_loader
from dust.engine.data_lists import fingerprint, record_training_list
from dust.utils.errors import DustError

METHOD = (
    "A csv of paths of 40 bytes with one of 400 classes each. CPU seconds of one process, the largest of all ranks, "
    "without imports: open_s until the training loader is built, epoch_s the order of an epoch and some batches of "
    "BadClips. pss_mb is the sum over all ranks and their workers at that moment, without page cache that nobody maps."
)
CLASSES = 400


def write_list(folder: Path, rows: int) -> Path:
    """Write ``train.csv`` with paths of 40 bytes, if it is not there."""
    path = folder / str(rows) / "train.csv"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write("path,label\n")
            for row in range(rows):
                label = row * 7919 % CLASSES
                file.write(f"videos/class_{label:04d}/{row:018d}.mp4,{label}\n")
    return path.parent


def built(folder: Path, workers: int, check: bool) -> tuple[Any, dict[str, float]]:
    """Return the training loader of the list, and the CPU seconds of what led to it."""
    times, before = {}, time.process_time()

    def took(name: str) -> None:
        nonlocal before
        now = time.process_time()
        times[name], before = round(now - before, 2), now

    options = [
        "DATA.PATH_TO_DATA_DIR", str(folder), "MODEL.NUM_CLASSES", str(CLASSES), "DATA.CHECK_FILES", str(check),
        "DATA_LOADER.NUM_WORKERS", str(workers), "NUM_GPUS", "0", "TRAIN.BATCH_SIZE", "64",
    ]  # fmt: skip
    cfg = load_config(None, options)
    loader: Any = construct_loader(cfg, "train")
    took("open_s")
    dataset: Any = loader.dataset
    counts = dataset.class_counts()
    assert sum(counts) == len(dataset) and len(counts) == CLASSES
    took("class_counts_s")
    return loader, times


def first(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one process that makes the columns."""
    folder = write_list(args.folder, args.rows)
    for file in folder.glob(".*.npz"):
        file.unlink()
    wall = time.perf_counter()
    _, times = built(folder, 0, args.check)
    wall = time.perf_counter() - wall
    kept = sum(file.stat().st_size for file in folder.glob(".*.npz"))
    sizes = {"csv_mb": (folder / "train.csv").stat().st_size >> 20, "columns_mb": kept >> 20}
    return [{"rows": args.rows, **times, "wall_s": round(wall, 1), **sizes, "peak_mb": peak_mb()}]


def record(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the hash and the list of clips that a training keeps, and their use by a test; the first process does
    this."""
    loader, times = built(write_list(args.folder, args.rows), 0, args.check)
    opened, clips, before = peak_mb(), loader.dataset.clips, time.process_time()
    with tempfile.TemporaryDirectory(prefix="dust-benchmark-") as place:
        fingerprint(loader.dataset, {})
        times["fingerprint_s"] = round(time.process_time() - before, 2)
        record_training_list(Path(place), clips, None)
        times["record_s"] = round(time.process_time() - before - times["fingerprint_s"], 2)
    return [{"rows": args.rows, **times, "opened_peak_mb": opened, "peak_mb": peak_mb()}]


def peak_mb() -> int:
    """Return the most memory that this process has had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def rank(args: argparse.Namespace) -> None:
    """Run one process: open the list, begin an epoch, say what it took, and wait."""
    store = f"file://{args.store}"
    dist.init_process_group("gloo", init_method=store, rank=args.rank, world_size=args.ranks)
    loader, times = built(args.folder / str(args.rows), args.workers, args.check)
    before = time.process_time()
    batches = iter(loader)
    for _ in range(min(args.batches, len(loader.batch_sampler))):
        next(batches)
    times["epoch_s"] = round(time.process_time() - before, 2)
    dist.barrier()
    print(*(f"{name}={value}" for name, value in times.items()), flush=True)
    sys.stdin.readline()
    os._exit(0)  # with its workers, which end with it


def following(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all processes of a machine that open a list whose columns are there; the ranks' largest CPU times."""
    write_list(args.folder, args.rows)
    with tempfile.TemporaryDirectory(prefix="dust-benchmark-") as place:
        command = [
            sys.executable,
            "-m",
            "benchmarks.long_list",
            "rank",
            "--store",
            f"{place}/store",
            "--folder",
            str(args.folder),
        ]
        for name in ("rows", "ranks", "workers", "batches"):
            command += [f"--{name}", str(getattr(args, name))]
        command += ["--check"] if args.check else []
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        ranks = [subprocess.Popen([*command, "--rank", str(number)], **pipes) for number in range(args.ranks)]
        try:
            outputs: list[Any] = [one.stdout for one in ranks]
            said = [dict(pair.split("=") for pair in output.readline().split()) for output in outputs]
            if not all(said):
                raise DustError("a process has ended before all were ready; what it said stands above")
            processes = [p for one in ranks for p in (psutil.Process(one.pid), *psutil.Process(one.pid).children())]
            pss = sum(process.memory_full_info().pss for process in processes)
            for process in processes:
                process.kill()
        finally:
            for one in ranks:
                one.kill()
                one.wait()
    worst = {name: max(float(one[name]) for one in said) for name in said[0]}
    return [{"rows": args.rows, "processes": len(processes), **worst, "pss_mb": round(pss / 2**20)}]


def main() -> int:
    """Run one measurement and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("first", "next", "record", "rank"))
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, required=True, help="where lists are written, one folder for each size")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2, help="of each process")
    parser.add_argument("--batches", type=int, default=200, help="that each process takes, of 64 clips over all")
    parser.add_argument("--check", action="store_true", help="DATA.CHECK_FILES True")
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--store", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "rank":
        rank(args)
    else:
        rows = {"first": first, "record": record, "next": following}[args.what](args)
        settings = {"ranks": args.ranks, "workers": args.workers, "DATA.CHECK_FILES": args.check}
        sys.stdout.write(Report(f"long_list {args.what}", METHOD, rows, [], settings).text() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
