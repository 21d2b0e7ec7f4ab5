"""``dust benchmark`` with what only this repository measures: other readers, processes, saving, frozen experts.

dust benchmark COMMAND ... from the root of a checkout.
"""

import argparse
import importlib
import sys
from typing import Any

from dust.cli import benchmark
from dust.cli.command import command

#: Commands whose processes read the configuration themselves: module, function and options.
RUNS = {
    "scaling": ("scaling", "benchmark_scaling", ("processes", "threads", "steps", "warmup", "rounds")),
    "checkpoint": ("saving", "benchmark_saving", ("period", "saves", "processes", "threads", "rounds")),
    "resume": ("resume", "benchmark_resume", ("rounds",)),
    "memory": ("memory", "benchmark_memory", ("steps",)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of dust, and those of this repository."""
    add = benchmark.add_arguments(parser)
    decode = add("decode-peers", "decode, beside SlowFast's PyAV path, decord and torchcodec", decode_peers)
    benchmark.decode_options(decode)
    what = "what frozen experts save: a step of CAST, TSTL against CAST, VideoMAE's attention"
    experts = add("experts", what, measure_experts)
    experts.add_argument("--rounds", type=int, default=3)
    experts.add_argument("--clips", type=int, default=8, help="TSTL: in a batch")
    experts.add_argument("--experts", type=int, default=4, help="TSTL: that they are sent to")
    experts.add_argument("--steps", type=int, default=2, help="CAST: of training, in each process")
    experts.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    what = "throughput of several processes on this machine's CPU against one, data in memory"
    scaling = add("scaling", what, in_processes)
    checkpoint = add("checkpoint", "what saving within an epoch costs, synchronous and asynchronous", in_processes)
    scaling.add_argument("--processes", type=int, default=2)
    scaling.add_argument("--steps", type=int, default=60, help="steps that count, in each round")
    scaling.add_argument("--warmup", type=int, default=5)
    checkpoint.add_argument("--processes", type=int, default=1)
    checkpoint.add_argument("--period", type=int, default=50, help="steps from one save to the next")
    checkpoint.add_argument("--saves", type=int, default=4, help="in each round")
    for one in (scaling, checkpoint):
        one.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
        one.add_argument("--rounds", type=int, default=3)
    resume = add("resume", "seconds to the first step of a resumed run, beyond its imports", in_processes)
    resume.add_argument("--rounds", type=int, default=5)
    memory = add("memory", "resident memory over a long training: whether it grows", in_processes)
    memory.add_argument("--steps", type=int, default=10_000, help="optimizer steps")


def measure_experts(args: argparse.Namespace) -> Any:
    """Measure what frozen experts save."""
    from benchmarks.experts import ExpertsRun, benchmark_experts

    names = ("rounds", "clips", "experts", "steps", "threads")
    options = {name: getattr(args, name) for name in names}
    return benchmark_experts(ExpertsRun(args.cfg, tuple(args.overrides), **options))


def in_processes(args: argparse.Namespace) -> Any:
    """Start a measurement whose processes read the configuration themselves."""
    module, name, options = RUNS[args.command]
    run_of = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    return run_of(args.cfg, args.overrides, **{option: getattr(args, option) for option in options})


def decode_peers(args: argparse.Namespace) -> Any:
    """Measure dust's decoder beside other readers."""
    return benchmark.measure_decode(args, peers)


def peers(protocol):
    """Return (the readers that dust is compared with, a line for each that is not installed)."""
    from benchmarks import peers as readers
    from dust.benchmark.clips import Peer, peer_by_frames

    def one_view(path, view, box):
        (height, width), (y, x, *_) = view.geometry.size, box
        place = (y / max(height - protocol.crop, 1), x / max(width - protocol.crop, 1))
        options = {"frames": protocol.frames, "rate": protocol.rate, "crop_size": protocol.crop}
        short = min(height, width)
        return readers.slowfast_view(path, view.indices[0], short_side=short, crop=place, **options)

    def one_clip(path, view):
        return one_view(path, view, view.geometry.crops[0])

    def every_view(path, wanted):
        return [one_view(path, view, box) for view in wanted for box in view.geometry.crops]

    def torchcodec(mode):
        return lambda *ask: readers.torchcodec_frames(*ask, mode=mode).permute(0, 2, 3, 1).numpy()

    found, absent = [Peer("SlowFast, PyAV", one_clip, every_view, gives="float32")], []
    libraries = [
        ("decord", "decord", readers.decord_frames),
        ("torchcodec", "torchcodec exact", torchcodec("exact")),
        ("torchcodec", "torchcodec approximate", torchcodec("approximate")),
    ]
    for module, name, read in libraries:
        try:
            importlib.import_module(module)
            found.append(peer_by_frames(name, read))
        except (ImportError, OSError, RuntimeError) as error:  # torchcodec: no FFmpeg that it can use
            absent.append(f"{name} is left out: {str(error).strip().splitlines()[0]}")
    return found, absent


main = command("benchmark", __doc__, add_arguments, benchmark.run)


if __name__ == "__main__":
    sys.exit(main())
