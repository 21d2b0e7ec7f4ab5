"""Estimate how far a sensor's clock is from a video's, by the motion that both show; apply nothing.

dust estimate-offset recordings/monday.mp4 watch/monday.csv

Prints offset_s as a list of several modalities takes it (a column beside start and end), the correlation there, how
probable it is that recordings of different things correlate as much, and the next best answer; and drift_ppm, where one
clock is seen to run faster, which belongs to that offset_s. Exit status 1 where the answer is not clear.
"""

import argparse

from dust.cli.command import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO", help="a video of the recording")
    parser.add_argument("series", metavar="SERIES", help="csv or npz with times in seconds")
    parser.add_argument("--most", type=float, default=60.0, metavar="S", help="offsets up to so many seconds (60)")
    parser.add_argument(
        "--drift", type=float, default=300.0, metavar="PPM", help="drifts up to so many millionths (300; 0: none)"
    )


def run(args: argparse.Namespace) -> int:
    from dust.convert.clock import estimate_offset, motion_of_series, motion_of_video
    from dust.datasets.multimodal.series import count_channels, read_series

    series = read_series(args.series, count_channels(args.series), mend=True)
    found = estimate_offset(motion_of_video(args.video), motion_of_series(series, args.series), args.most, args.drift)
    with_drift = f" with drift_ppm {found.drift_ppm}" if found.drift_ppm else ""
    sure = f"(correlation {found.correlation:.2f}, by chance: {found.chance:.2g})"
    print(f"offset_s {found.offset_s:.2f}{with_drift} {sure}")
    if found.drift_ppm:
        print(f"drift: {abs(found.drift_ppm) * 0.0036:.2f} s an hour; both columns are needed")
    elif found.least_ppm:
        print(f"drift: none is seen; {found.least_ppm:.0f} ppm and more would be")
    if found.next_correlation == found.next_correlation:
        print(f"next best: {found.next_offset_s:.2f} (correlation {found.next_correlation:.2f})")
    if not found.is_clear:
        print("not clear: look at both, or record a clap at the beginning")
    return 0 if found.is_clear else 1


main = command("estimate-offset", __doc__, add_arguments, run)
