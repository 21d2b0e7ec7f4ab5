"""Ask a trained model about new clips: ``dust predict runs/kitchen clip.mp4 more/ "b*.avi" list.csv -o out/``.

MODEL is a run's folder, the root of several stages, a checkpoint, or zoo://NAME. A source is a video file, a folder of
pictures, a folder of videos, a pattern, or a csv list. See docs/PREDICT.md.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from dust.utils.errors import DustError


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="dust predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("model", metavar="MODEL", help="run folder, checkpoint, or zoo://NAME")
    top.add_argument("sources", nargs="+", metavar="SOURCE", help="file, folder, pattern or csv list")
    top.add_argument("-o", "--out", metavar="DIR", help="folder for predictions.csv and predictions.json")
    top.add_argument("--force", action="store_true", help="overwrite an earlier prediction in DIR")
    top.add_argument("--top", type=int, default=2, metavar="K", help="show the K likeliest classes (default 2)")
    top.add_argument("--threshold", type=float, default=0.0, metavar="P", help='below P: "none of these"')
    top.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default auto)")
    top.add_argument("--dtype", default="", choices=("", "float32", "bfloat16", "float16"), help="of forward passes")
    top.add_argument("--batch-size", type=int, default=0, metavar="N", help="views at once (default: as tested)")
    top.add_argument(
        "--workers", type=int, default=None, metavar="N", help="threads that read ahead (default: up to 4)"
    )
    top.add_argument("--cfg", default="", metavar="YAML", help="for weights that hold no configuration")
    top.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="other values of keys")
    return top


def check(args: argparse.Namespace, top: argparse.ArgumentParser) -> None:
    if args.top < 1:
        top.error(f"--top {args.top}: must be at least 1")
    if not 0 <= args.threshold <= 1:
        top.error(f"--threshold {args.threshold}: a probability from 0 to 1")
    if args.batch_size < 0:
        top.error(f"--batch-size {args.batch_size}: must be at least 1")


def predict(args: argparse.Namespace) -> int:
    """Predict the sources. Returns 1 where one of them could not be read."""
    from dust.deploy.loading import load
    from dust.deploy.report import Output, Table, Tally
    from dust.deploy.sources import find_sources

    output = Output(args.out, force=args.force) if args.out else None
    model = load(
        args.model,
        device=args.device,
        dtype=args.dtype,
        batch_size=args.batch_size,
        threshold=args.threshold,
        overrides=args.opts,
        config=args.cfg,
    )
    sources = find_sources(args.sources, model.reader)
    table = Table([name_of(source) for source in sources], model.classes, top=args.top)
    evaluation, tally, kept = model.evaluation(), Tally(), []
    say(table.head())
    with progress(len(sources)) as bar:
        for one in model.predict(sources, evaluation=evaluation, workers=args.workers):
            for line in table.rows(one):
                bar.write(line, file=sys.stdout)
            bar.update()
            tally.add(one)
            kept.append(one)
    sys.stdout.flush()
    sys.stderr.write(f"{tally}\n")
    if output is not None:
        written = output.write(model, evaluation, kept)
        sys.stderr.write(f"written: {', '.join(map(str, written))}\n")
    return 1 if tally.failed else 0


def name_of(source: Any) -> str:
    return source if isinstance(source, str) else str(source.id)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def progress(total: int) -> Any:
    """A bar on a terminal with clips per second; elsewhere nothing but the lines that are written through it."""
    from tqdm import tqdm

    return tqdm(total=total, unit=" clips", disable=not sys.stderr.isatty(), leave=False, dynamic_ncols=True)


def main(argv: Sequence[str] | None = None) -> int:
    top = parser()
    args = top.parse_args(argv)
    check(args, top)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("dust.utils.checkpoint").setLevel(logging.ERROR)  # heads of other stages, which nobody needs
    try:
        return predict(args)
    except DustError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
