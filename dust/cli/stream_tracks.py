"""Play recordings to a point track model, frame by frame, and write their timelines.

dust stream-tracks --cfg configs/quickstart/tracks_transformer.yaml --split test

A window is TRACKS.WINDOW frames. Words that are left over are overrides of the configuration: KEY VALUE ...
"""

import argparse

from dust.cli.command import add_cfg, command, run_in_output_dir
from dust.utils.text import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cfg(parser)
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="whose recordings (test)")
    parser.add_argument("--stride", type=int, default=5, help="frames from one window to the next (default 5)")
    parser.add_argument("--how", default="vote", choices=("vote", "mean"), help="how windows of a frame agree (vote)")
    parser.add_argument("--stateful", action="store_true", help="PointTrackLSTM: windows that continue each other")


def run(args: argparse.Namespace) -> None:
    from dust.streaming.tracks import run_stage

    options = {name: getattr(args, name) for name in ("split", "stride", "how", "stateful")}
    folder, report = run_in_output_dir(args, run_stage, **options)
    figures = ", ".join(f"{name} {value:.2f}" for name, value in report["metrics"].items()) or "no labels"
    counts = report["counts"]
    print(f"{', '.join(counted(counts[f'{one}s'], one) for one in ('recording', 'frame', 'window'))}: {figures}")
    print(
        f"the front end saw {counts['front_end_frames']} frames instead of {counts['front_end_frames_without_cache']}; "
        f"timelines are in {folder}/stream_{args.split}"
    )


main = command("stream-tracks", __doc__, add_arguments, run)
