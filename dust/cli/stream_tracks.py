"""Plays the recordings of a split to a trained point track model, frame by frame, and writes their timelines.

dust stream-tracks --cfg configs/quickstart/tracks_transformer.yaml --split test

A window is TRACKS.WINDOW frames. Words that are left over are overrides of the configuration: KEY VALUE ...
"""

import argparse
import sys

from dust.utils.errors import DustError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, metavar="FILE.yaml")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--stride", type=int, default=5, help="frames from one window to the next (default 5)")
    parser.add_argument("--how", default="vote", choices=("vote", "mean"), help="of a frame's windows: majority vote")
    parser.add_argument("--stateful", action="store_true", help="PointTrackLSTM: windows that go on from each other")
    args, overrides = parser.parse_known_args(argv)
    if any(word.startswith("--") for word in overrides):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    from dust.config import load_config
    from dust.engine.run_dir import RunDir
    from dust.streaming.tracks import run_stage
    from dust.utils.logging import setup_logging

    try:
        cfg = load_config(args.cfg, overrides)
        run = RunDir(cfg.OUTPUT_DIR)
        with run.lock():
            setup_logging(run.path)
            options = {"split": args.split, "stride": args.stride, "how": args.how, "stateful": args.stateful}
            report = run_stage(cfg, run, **options)
    except DustError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    figures = ", ".join(f"{name} {value:.2f}" for name, value in report["metrics"].items()) or "no labels"
    counts = report["counts"]
    print(f"{counts['recordings']} recordings, {counts['frames']} frames, {counts['windows']} windows: {figures}")
    print(
        f"the front end saw {counts['front_end_frames']} frames instead of {counts['front_end_frames_without_cache']}; "
        f"timelines are in {run.path}/stream_{args.split}"
    )
    return 0
