"""Measure what dust costs on this machine: loader, decoder, model, test, tracks, cluster, GPU."""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dust.cli.command import add_cfg, command
from dust.utils.errors import DustError
from dust.utils.logging import console_logging

EPILOG = "Words that are left over are overrides of the configuration: KEY VALUE ... (decode and gpu take none)."
#: (name, what it does, the function options -> report) -> the parser of one more sub-command.
Add = Callable[[str, str, Callable[[argparse.Namespace], Any]], argparse.ArgumentParser]
VARIANT = 'another row, with these overrides: "KEY VALUE ..."; repeatable'


def add_arguments(parser: argparse.ArgumentParser) -> Add:
    """Describe every measurement; returns what adds another."""
    parser.epilog = EPILOG
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str, measure: Callable[[argparse.Namespace], Any]) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text, epilog=EPILOG, allow_abbrev=False)
        one.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
        if not name.startswith(("decode", "gpu")):
            add_cfg(one)
        one.set_defaults(measure=measure)
        return one

    loader = add("loader", "clips per second and CPU time of the training loader", measure_loader)
    loader.add_argument("--batches", type=int, default=20, help="batches that count")
    loader.add_argument("--warmup", type=int, default=2, help="batches before them")

    decode = add("decode", "CPU time per training clip and per multi-view test of a video", measure_decode)
    decode_options(decode)

    model = add("model", "time and memory of a step, in a process of its own", measure_model)
    model.add_argument("--batch", type=int, default=1, help="clips per step")
    model.add_argument("--steps", type=int, default=5, help="steps of a round that count (5)")
    model.add_argument("--warmup", type=int, default=1, help="steps before them (1)")
    model.add_argument("--rounds", type=int, default=1, help="rounds, in which all rows take turns (1)")
    mode = model.add_mutually_exclusive_group()
    mode.add_argument("--train", dest="train", action="store_true", default=True, help="forward and backward (default)")
    mode.add_argument("--eval", dest="train", action="store_false", help="forward only")
    model.add_argument("--optimizer", action="store_true", help="also the optimizer's step")
    model.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    model.add_argument("--variant", action="append", default=[], metavar="OVERRIDES", help=VARIANT)

    model.add_argument("--peer", action="append", default=[], metavar="NAME", help="a row of torchvision.models.video")

    test = add("test", "seconds per video of multi-view testing, reading and model apart", measure_test)
    test.add_argument("--checkpoint", required=True, metavar="FILE", help="the weights that are tested")
    test.add_argument("--limit", type=int, default=0, help="test only N videos (0: all)")

    tracks = add("tracks", "a window of point tracks against the published model, and a stream", measure_tracks)
    tracks.add_argument("--rounds", type=int, default=10, help="times that everything is measured (10)")
    tracks.add_argument("--windows", type=int, default=20, help="windows of a stream")
    tracks.add_argument("--stride", type=int, default=5, help="frames from one of them to the next")

    _about_clusters(add)
    _about_gpus(add)
    for one in (model, test):
        one.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default auto")
    return add


def decode_options(decode: argparse.ArgumentParser) -> None:
    """Add the options: which videos, and how they are read."""
    decode.add_argument("--videos", nargs="+", required=True, metavar="PATH", help="folders, csv lists, video files")
    decode.add_argument("--frames", type=int, default=8, help="frames of a clip (8)")
    decode.add_argument("--rate", type=int, default=8, help="distance of frames, at 30 frames per second")
    decode.add_argument("--crop", type=int, default=224, help="pixels")
    decode.add_argument("--short", type=int, nargs=2, default=(256, 320), metavar=("LOW", "HIGH"), help="short side")
    decode.add_argument("--rounds", type=int, default=5, help="times that everything is measured (5)")
    decode.add_argument("--views", default="10x3", metavar="CLIPSxCROPS", help="of a test; 0 leaves the test out")


def _about_clusters(add: Add) -> None:
    cluster = add("cluster", "a simulation: what the configured training costs on 8 to 512 GPUs", measure_cluster)
    cluster.add_argument("--gpu", default="H100", metavar="NAME", help="A100, H100 or H200")
    cluster.add_argument("--gpus", default="8,16,32,64,128,256,512", metavar="N,N,...", help="GPUs, a row each")
    cluster.add_argument("--batch", type=int, default=0, help="clips per GPU at a time; 0: as configured")
    cluster.add_argument("--clips", type=int, default=240000, help="of the training set; default: Kinetics-400's")
    cluster.add_argument("--step-ms", type=float, default=0.0, help="measured time of a batch on one GPU")
    cluster.add_argument("--achieved", type=float, default=0.4, help="else this share of the GPU's peak is reached")
    cluster.add_argument("--link", type=float, default=0.8, help="share of the links' bandwidth that is reached")
    cluster.add_argument("--overlap", type=float, default=0.7, help="share of the backward that exchange hides behind")
    cluster.add_argument("--per-node", type=int, default=8, help="GPUs of a node")
    cluster.add_argument("--nics", type=int, default=8, help="network cards of a node")
    cluster.add_argument("--decode-ms", type=float, default=0.0, help="CPU time of reading a clip; 0: the recipe's")
    cluster.add_argument("--startup-s", type=float, default=60.0, help="from the job's start to its first step")


def _about_gpus(add: Add) -> None:
    gpu = add("gpu", "whether a GPU computes the right things, and how fast: three parts of 250 s each", measure_gpu)
    gpu.add_argument("--out", type=Path, metavar="DIR", help="results.jsonl, logs and a trace; needed without --plan")
    gpu.add_argument(
        "--part", type=int, default=0, choices=(1, 2, 3), help="right, and the main model; where time goes; each key"
    )
    gpu.add_argument("--stages", metavar="NAME,...", help="these instead of a part")
    gpu.add_argument("--budget", type=float, default=0.0, metavar="SECONDS", help="of all; default: 250 for each part")
    gpu.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="on a CPU sizes are tiny")
    gpu.add_argument("--tiny", action="store_true", help="tiny sizes on a GPU too: does every stage run?")
    gpu.add_argument("--plan", action="store_true", help="say what would be done, and do nothing")


# ------------------------------------------ the reports; torch is imported only here, so that --help answers at once


def configured(args: argparse.Namespace) -> Any:
    """Return the configuration that is measured."""
    from dust.config import load_config

    return load_config(args.cfg, args.overrides)


def measure_loader(args: argparse.Namespace) -> Any:
    from dust.benchmark.loader import benchmark_loader

    return benchmark_loader(configured(args), batches=args.batches, warmup=args.warmup)


def measure_model(args: argparse.Namespace) -> Any:
    from dust.benchmark.model import ModelRun, benchmark_model

    names = ("batch", "steps", "warmup", "train", "optimizer", "device", "threads")
    step = ModelRun(args.cfg, tuple(args.overrides), **{name: getattr(args, name) for name in names})
    return benchmark_model(step, variants=args.variant, peers=args.peer, rounds=args.rounds)


def measure_test(args: argparse.Namespace) -> Any:
    from dust.benchmark.multiview import benchmark_test

    return benchmark_test(configured(args), checkpoint=args.checkpoint, device=args.device, limit=args.limit)


def measure_tracks(args: argparse.Namespace) -> Any:
    from dust.benchmark.tracks import benchmark_tracks

    return benchmark_tracks(configured(args), rounds=args.rounds, windows=args.windows, stride=args.stride)


def measure_cluster(args: argparse.Namespace) -> Any:
    from dust.benchmark.cluster import Assumptions, benchmark_cluster, node_of

    node = node_of(args.gpu, per_node=args.per_node, nics=args.nics)
    assumed = Assumptions(args.achieved, args.link, args.overlap, args.step_ms / 1e3, startup_s=args.startup_s)
    if not all(word.isdigit() for word in args.gpus.split(",")):
        raise DustError(f"--gpus {args.gpus}: write numbers with commas, such as 8,64,512")
    gpus = [int(word) for word in args.gpus.split(",")]
    sizes = {"gpus": gpus, "batch": args.batch, "clips": args.clips, "decode_s": args.decode_ms / 1e3}
    return benchmark_cluster(configured(args), node=node, assumed=assumed, **sizes)


def measure_gpu(args: argparse.Namespace) -> Any:
    from dust.benchmark.gpu.process import benchmark_gpu, plan_report

    if args.plan:
        return plan_report(args.budget, args.part, args.stages)
    if args.out is None:
        raise DustError("--out DIR: name the folder for results.jsonl and the logs, or ask for the --plan")
    asked = {"budget": args.budget, "part": args.part, "names": args.stages, "device": args.device, "tiny": args.tiny}
    return benchmark_gpu(args.out, **asked)


def measure_decode(args: argparse.Namespace, peers: Callable[..., Any] | None = None) -> Any:
    """Time the decoder; ``peers(protocol)`` gives other readers and notes on those that are absent."""
    from dust.benchmark.clips import Protocol, find_videos
    from dust.benchmark.decode import benchmark_decode

    clips, crops = views(args.views)
    protocol = Protocol(args.frames, args.rate, args.crop, tuple(args.short), max(clips, 1), max(crops, 1))
    others, notes = peers(protocol) if peers is not None else ([], [])
    videos = find_videos(args.videos)
    return benchmark_decode(videos, protocol, rounds=args.rounds, peers=others, views=clips > 0, notes=notes)


def views(text: str) -> tuple[int, int]:
    """Turn ``10x3`` into (10, 3), and ``0`` into (0, 0)."""
    clips, times, crops = text.partition("x")
    if text == "0":
        return 0, 0
    if not (times and clips.isdigit() and crops.isdigit() and int(clips) and int(crops)):
        raise DustError(f"--views {text}: write CLIPSxCROPS, such as 10x3, or 0 for none")
    return int(clips), int(crops)


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 where a figure has missed its limit (only gpu's have any)."""
    console_logging(logging.WARNING, "%(levelname)s: %(message)s")
    report = args.measure(args)
    if args.json is not None:
        from dust.benchmark.report import save_json

        save_json(args.json, report.as_dict(["dust benchmark", *args.argv]))
    print(report.text())
    return int(any(row.get("verdict") == "FAILED" for row in report.figures))


main = command("benchmark", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main(None))
