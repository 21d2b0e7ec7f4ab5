"""Ask a trained model about new clips.

dust predict runs/kitchen clip.mp4 more/ "b*.avi" list.csv -o out/
dust predict runs/kitchen match.mp4 --timeline --overlay -o out/
dust predict runs/kitchen camera:0
dust predict runs/kitchen --watch incoming/ -o out/
dust predict zoo://clip_vit_b16 clip.mp4 --classes "cutting bread" stirring

MODEL is a run's folder, the root of several stages, a checkpoint, or zoo://NAME. A source is a video file or its web
address, a folder of pictures, a folder of videos, a pattern, a csv list; or one camera (camera:0) or network stream
(rtsp://..., http://...). Each clip gets one answer; a long video with --timeline one for every window. The exit code is
1 where a clip could not be read.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dust.cli.command import command
from dust.utils.errors import DustError
from dust.utils.files import file_stems
from dust.utils.text import counted, printable

LISTED = 8  # files that are named at the end
TOP, BARS = 2, 3  # classes in a line of the table, and in the band of an overlay


def add_arguments(top: argparse.ArgumentParser) -> None:
    top.add_argument("model", metavar="MODEL", help="run folder, checkpoint, or zoo://NAME")
    top.add_argument("sources", nargs="*", metavar="SOURCE", help="file, folder, pattern, csv list, camera or stream")
    top.add_argument("-o", "--out", metavar="DIR", help="folder for predictions.csv, predictions.json and the rest")
    top.add_argument("--force", action="store_true", help="write into DIR although it is not empty")
    top.add_argument("--top", type=int, metavar="K", help="show the K likeliest classes (2; with --overlay 3)")
    top.add_argument("--threshold", type=float, default=0.0, metavar="P", help='below P: "none of these"')
    top.add_argument("--calibrated", action="store_true", help="probabilities by the temperature of the run's test")
    top.add_argument(
        "--classes", nargs="+", default=[], metavar="NAME",
        help="what to choose from, or a file of names, one per line; for models that read names (CLIP)",
    )  # fmt: skip
    top.add_argument("--watch", metavar="FOLDER", help="predict the videos of FOLDER, and new ones as they come")
    long = top.add_argument_group("long videos and streams")
    long.add_argument("--timeline", action="store_true", help="what happens when: csv, ActivityNet json, a picture")
    long.add_argument("--overlay", action="store_true", help="the video with label, bars and timeline burnt in")
    long.add_argument("--window", type=float, default=0.0, metavar="S", help="seconds (default: the training's length)")
    long.add_argument("--stride", type=float, default=0.0, metavar="S", help="seconds (default: half a window)")
    long.add_argument("--hysteresis", type=float, default=0.0, metavar="P", help="a new label must be likelier by P")
    long.add_argument("--min-length", type=float, default=0.0, metavar="S", help="shorter segments are merged")
    long.add_argument("--seconds", type=float, default=0.0, metavar="S", help="end a live source after so long")
    how = top.add_argument_group("how it runs")
    how.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 (default auto)")
    how.add_argument("--dtype", default="", choices=("float32", "bfloat16", "float16"), help="of forward passes")
    how.add_argument("--batch-size", type=int, default=0, metavar="N", help="views at once (default: as tested)")
    how.add_argument(
        "--workers", type=int, default=None, metavar="N", help="threads that read ahead (default: up to 4)"
    )
    how.add_argument("--procedure", default="", metavar="NAME", help="what recordings show, of those that were trained")
    how.add_argument("--cfg", dest="config", default="", metavar="YAML", help="for weights that hold no configuration")
    how.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="other values of keys")


def check(args: argparse.Namespace) -> None:
    """Raise a DustError with all that is wrong with the words."""
    problems = problems_of(args)
    if problems:
        raise DustError("; ".join(problems))


def problems_of(args: argparse.Namespace) -> list[str]:
    """Return all that is wrong with the words."""
    from dust.decode.live import is_live

    problems = []
    if args.top is not None and args.top < 1:
        problems.append(f"--top {args.top}: must be at least 1")
    if args.batch_size < 0:
        problems.append(f"--batch-size {args.batch_size}: must be at least 1")
    for name in ("threshold", "hysteresis"):
        if not 0 <= getattr(args, name) <= 1:
            problems.append(f"--{name} {getattr(args, name)}: a probability from 0 to 1")
    for name in ("window", "stride", "min_length", "seconds"):
        if getattr(args, name) < 0:
            problems.append(f"--{name.replace('_', '-')} {getattr(args, name)}: seconds, 0 or more")
    if bool(args.sources) == bool(args.watch):
        problems.append("name sources, or a folder with --watch" + ("; not both" if args.watch else ""))
    if args.overlay and not args.out:
        problems.append("--overlay needs a folder: -o DIR")
    if args.watch and not Path(args.watch).is_dir():
        problems.append(f"--watch {args.watch}: there is no such folder")
    if args.watch and (args.timeline or args.overlay):
        problems.append("--watch answers clip by clip: --timeline and --overlay are for files that are there")
    live = [source for source in args.sources if is_live(source)]
    if live and len(args.sources) > 1:
        problems.append(f"{live[0]}: a camera or a stream is predicted by itself, without other sources")
    return [*problems, *without_effect(args, bool(live))]


def without_effect(args: argparse.Namespace, live: bool) -> list[str]:
    """Return options that would be ignored, each with when they act."""
    long = args.timeline or args.overlay
    idle: dict[str, tuple[str, ...]] = {}
    if live:
        idle["a camera or a stream has its timeline with -o, and no overlay"] = ("timeline", "overlay")
        idle["a camera or a stream is read as it comes, a window at a time"] = ("workers", "batch_size")
        if not args.out:
            idle["segments are written with -o DIR"] = ("hysteresis", "min_length")
    else:
        idle["it ends a camera or a stream"] = ("seconds",)
        if not long:
            idle["it is for --timeline, --overlay, a camera or a stream"] = (
                "window",
                "stride",
                "hysteresis",
                "min_length",
            )
        elif args.timeline and not args.overlay:
            idle["a timeline has all classes"] = ("top",)
    if args.watch or long:
        idle["it is for clips that are there, without --timeline and --overlay"] = ("workers",)
    return [
        f"--{name.replace('_', '-')} has no effect here: {reason}"
        for reason, names in idle.items()
        for name in names
        if getattr(args, name) not in (None, False, 0)
    ]


def run(args: argparse.Namespace, load_model: Callable[..., Any] | None = None) -> int:
    """Answer for the clips, and return 1 where a clip could not be read.

    Args:
        load_model: as :func:`dust.load` without what it is loaded from, for a model that is not named by a word.
    """
    check(args)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("dust.utils.checkpoint").setLevel(logging.ERROR)  # heads of other stages, which nobody needs
    from dust.decode.live import is_live
    from dust.deploy.loading import load
    from dust.deploy.report import Output

    output = Output(args.out, force=args.force) if args.out else None
    options = {"device": args.device, "threshold": args.threshold}
    if load_model is not None:
        model = load_model(**options)
    else:
        model = load(
            args.model,
            dtype=args.dtype,
            batch_size=args.batch_size,
            overrides=args.opts,
            config=args.config,
            procedure=args.procedure,
            calibrated=args.calibrated,
            class_names=classes_of(args.classes),
            **options,
        )
    if args.sources and is_live(args.sources[0]):
        return run_live(args, model, output, args.sources[0])
    if args.timeline or args.overlay:
        return run_long(args, model, output)
    return run_clips(args, model, output)


def classes_of(words: Sequence[str]) -> Sequence[str] | None:
    """Return the names behind --classes, or those of the one file that stands there; None where there are none."""
    from dust.datasets.manifest.labels import read_class_list

    return read_class_list(words[0]) if len(words) == 1 and Path(words[0]).is_file() else list(words) or None


def run_clips(args: argparse.Namespace, model: Any, output: Any) -> int:
    """Give one answer for each clip, of sources or of a watched folder."""
    from dust.deploy.jobs import watch
    from dust.deploy.reading import names_of
    from dust.deploy.report import Table, Tally
    from dust.deploy.sources import find_sources

    kind = model.preprocess.get("input")
    if args.watch and kind in ("tracks", "series"):
        raise DustError(f"--watch waits for videos, and this model reads {kind}: name the files, or their folder")
    evaluation, tally, kept = model.evaluation(), Tally(), []
    sources = [] if args.watch else find_sources(args.sources, model.reader)
    names = ["x" * 40] if args.watch else [names_of(source)[0] for source in sources]
    table = Table(names, model.classes, top=args.top or TOP)
    say(table.head())

    def take(one: Any, bar: Any) -> None:
        for line in table.rows(one):
            bar.write(line, file=sys.stdout)
        bar.update()
        tally.add(one)
        kept.append(one)

    if args.watch:
        sys.stderr.write(f"watching {args.watch}; Ctrl-C ends it\n")
        try:
            with progress(None) as bar:
                for path in watch(args.watch):
                    sys.stdout.flush()
                    if path is not None:
                        for one in model.predict([path], evaluation=evaluation, workers=0):
                            take(one, bar)
                        if output is not None:
                            output.write(model, evaluation, kept)
        except KeyboardInterrupt:
            pass
    else:
        with progress(len(sources)) as bar:
            for one in model.predict(sources, evaluation=evaluation, workers=args.workers):
                take(one, bar)
    sys.stdout.flush()
    sys.stderr.write(f"{tally}\n")
    if output is not None and kept:
        tell_written(output.write(model, evaluation, kept))
    return 1 if tally.failed else 0


def run_long(args: argparse.Namespace, model: Any, output: Any) -> int:
    """Write timelines, and videos with the answers burnt in."""
    from dust.deploy.jobs import LongVideos, whole_video
    from dust.deploy.report import shorten
    from dust.deploy.sources import find_sources
    from dust.deploy.timeline import MergeRule

    sources = [whole_video(source) for source in find_sources(args.sources, model.reader)]
    rule = MergeRule(args.threshold, args.hysteresis, args.min_length)
    what = {"timeline": args.timeline, "overlay": args.overlay, "top": args.top or BARS}
    job = LongVideos(model, args.window, args.stride, rule, output, **what)
    bar = progress(1000, "{desc} {percentage:3.0f}%|{bar}| {elapsed}")

    def show(path: str, now: float, whole: float) -> None:
        bar.set_description_str(shorten(path, 40, left=True), refresh=False)
        bar.n = min(round(1000 * now / whole), 1000) if whole else 0
        bar.refresh()

    with bar:
        for found, segments in job.run(sources, show):
            lines = [found.path, *(segment_line(one) for one in segments), *(f"  ! {note}" for note in found.notes)]
            for line in lines:
                bar.write(printable(line), file=sys.stdout)
    for path, reason in job.failed:
        say(path)
        say(f"  unreadable: {reason}")
    sys.stdout.flush()
    failed = f", {len(job.failed)} unreadable" if job.failed else ""
    sys.stderr.write(f"{counted(len(sources), 'video')}: {len(job.done)} answered{failed}\n")
    tell_written(job.written)
    return 1 if job.failed else 0


def run_live(args: argparse.Namespace, model: Any, output: Any, source: str) -> int:
    """Give answers while they come, until Ctrl-C, --seconds, or the end of the stream."""
    from dust.deploy.jobs import WindowLog, options_of, timeline_of
    from dust.deploy.report import about
    from dust.deploy.timeline import MergeRule, write_activitynet, write_segments

    rule = MergeRule(args.threshold, args.hysteresis, args.min_length)
    stream = model.stream(source, **options_of(window=args.window, stride=args.stride, seconds=args.seconds))
    found, (name,) = timeline_of(stream, rule), file_stems([source])
    log = WindowLog(output.path / f"{name}.windows.csv", found) if output is not None else None
    pace = f"{args.stride:g} s" if args.stride else "half a window"
    sys.stderr.write(f"{printable(source)}: answers every {pace}; Ctrl-C ends it\n")
    delays, count = 0.0, 0
    try:
        for one in stream:
            count, delays = count + 1, delays + (one.delay or 0.0)
            say(live_line(one, args.top or TOP))
            sys.stdout.flush()
            if log is not None:
                log.add(one)
    except KeyboardInterrupt:
        pass
    notes = [*stream.notes, f"mean delay from frame to answer {1000 * delays / max(count, 1):.0f} ms"]
    sys.stderr.write(f"{counted(count, 'window')}; {'; '.join(notes)}\n")
    if log is not None:
        segments = log.close().segments(rule)
        written = [log.path, *write_segments(output.path, name, found, segments), output.path / "timeline.json"]
        write_activitynet(written[-1], [(name, found, segments)], about(model))
        tell_written(written)
    return 0 if count else 1


def segment_line(one: Any) -> str:
    return f"  {clock(one.start)} - {clock(one.end)}  {one.confidence:>6.1%}  {one.label}"


def live_line(one: Any, top: int) -> str:
    """Return the line of a window: when, what, what else, and how long after its last frame."""
    words = ", ".join(f"{name} {value:.1%}" for name, value in one.top(top) if name != one.label)
    delay = f"  ({1000 * one.delay:.0f} ms)" if one.delay is not None else ""
    label = one.label or "-"
    alarms = "".join(f"  ! {alarm['kind']}: {alarm['description']}" for alarm in one.facts.get("alarms", ()))
    return f"{clock(one.end)}  {label}  {one.confidence:.1%}  {words}{delay}{alarms}"


def clock(seconds: float) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{int(hours)}:{int(rest // 60):02d}:{rest % 60:05.2f}"


def tell_written(paths: Sequence[Path]) -> None:
    if len(paths) > LISTED:
        sys.stderr.write(f"written: {len(paths)} files in {printable(str(paths[0].parent))}\n")
    elif paths:
        sys.stderr.write(f"written: {', '.join(printable(str(path)) for path in paths)}\n")


def say(line: str) -> None:
    sys.stdout.write(f"{printable(line)}\n")


def progress(total: int | None, form: str | None = None) -> Any:
    """Return a bar on a terminal with clips per second; elsewhere nothing but the lines that are written through it."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty()
    return tqdm(total=total, unit=" clips", disable=hidden, leave=False, dynamic_ncols=True, bar_format=form)


main = command("predict", __doc__, add_arguments, run)
