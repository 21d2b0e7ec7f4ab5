"""Write the report of a tested run: one page of HTML with figures, confusions, and clips that play.

dust report runs/kitchen

The page opens from disk and asks no other address for anything. TEST writes one without clips (TEST.REPORT); this adds
the clips that are wrong or least sure.
"""

import argparse
from pathlib import Path

from dust.cli.command import command, count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run's folder that was tested")
    parser.add_argument("--clips", type=count, default=24, metavar="N", help="clips that are shown playing (24)")
    parser.add_argument("--maps", action="store_true", help="beside each clip what the model looked at")
    parser.add_argument(
        "--against", nargs="+", default=[], metavar="RUN", help="compare with these runs, or predictions.csv"
    )
    parser.add_argument("--pdf", action="store_true", help="print it as a PDF, too (needs Chromium or Chrome)")
    parser.add_argument("-o", "--out", metavar="FILE.html", help="where to write (RUN/results/report.html)")


def run(args: argparse.Namespace) -> None:
    from dust.analysis.report import write_report
    from dust.analysis.report.pdf import find_browser, write_pdf

    if args.pdf:
        find_browser()  # which is said before the work
    out = Path(args.out) if args.out else None
    path = write_report(args.run, clips=args.clips, maps=args.maps, path=out, against=args.against)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if args.pdf:
        print(f"wrote {write_pdf(path, path.with_suffix('.pdf'))}")


main = command("report", __doc__, add_arguments, run)
