"""Make point tracks from videos, for the models that read points.

dust make-tracks videos.csv --out data/tracks
dust make-tracks data/clips --out data/tracks

videos.csv has a row per clip and camera: video,sample,view,label,sequence,split and, if you like, group,mask,start,end.
Only the column video is needed. A folder of clips (train.csv, val.csv, test.csv, or class folders) is one camera.
"""

import argparse

from tqdm import tqdm

from dust.cli.command import command
from dust.convert.make_tracks import make_tracks
from dust.convert.trackers import COTRACKER, COTRACKER_LICENCE, TRACKERS, Settings
from dust.utils.text import counted, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = Settings()
    parser.add_argument(
        "source", metavar="SOURCE", help="a csv of videos, or a folder of clips; the videos are only read"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for tracks.csv and the tracks")
    parser.add_argument(
        "--tracker",
        default=default.tracker,
        choices=TRACKERS,
        help=f"lk: OpenCV's Lucas-Kanade (default); cotracker: {COTRACKER_LICENCE}",
    )
    parser.add_argument("--points", type=int, default=default.points, help="points per camera (default %(default)s)")
    parser.add_argument(
        "--short-side", type=int, default=default.short_side, help="pixels; 0: as it is (default %(default)s)"
    )
    parser.add_argument("--fps", type=float, default=default.fps, help="frames per second that are looked at; 0: all")
    parser.add_argument(
        "--max-error",
        type=float,
        default=default.max_error,
        help="lk: pixels that a point may be off after going forth and back (default %(default)s)",
    )
    parser.add_argument(
        "--hub", default=COTRACKER, metavar="REPO|DIR", help="cotracker: repository or checkout (default %(default)s)"
    )
    parser.add_argument(
        "--device", default=default.device, metavar="DEVICE", help="cotracker: cpu or cuda (default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    names = ("tracker", "points", "short_side", "fps", "max_error", "hub", "device")
    settings = Settings(**{name: getattr(args, name) for name in names})
    made = make_tracks(args.source, args.out, settings, progress=lambda jobs: tqdm(jobs, unit="video", disable=None))
    written = counted(made.written, "file")
    print(f"wrote {written} of tracks to {args.out} ({made.ready} ready before), listed in tracks.csv")
    for video, reason in made.left_out.items():
        print(printable(f"left out: {video}: {reason}"))
    print(f"next: set DATA.PATH_TO_DATA_DIR {args.out} TRACKS.NUM_POINTS {args.points}")
    return 1 if made.left_out else 0


main = command("make-tracks", __doc__, add_arguments, run, resumable=True)
