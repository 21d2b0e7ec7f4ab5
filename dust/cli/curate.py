"""Look at data through features: copies, labels that look wrong, outliers, what to label next.

dust curate runs/kitchen clips/

The first word is a run that extracted features (FEATURES.ENABLE True), or a folder of features; the second the folder
of the lists. Of a run without features (OUTPUT_DIR/pooled of `dust train --folds 5` for one) the answers judge labels.
Nothing is changed: lists are written, and corrections.csv. Read it before DATA.CORRECTIONS names it.
"""

import argparse
import logging
from pathlib import Path

from dust.cli.command import command
from dust.utils.logging import console_logging
from dust.utils.text import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("features", metavar="FEATURES", help="a run with features, or their folder")
    parser.add_argument("data", metavar="DIR", help="the folder of the lists")
    parser.add_argument("-o", "--out", default="curated", metavar="DIR", help="where the lists go (curated)")
    parser.add_argument(
        "--threshold", type=float, default=0.95, help="cosine that makes copies without pictures (0.95)"
    )
    parser.add_argument("--no-pictures", action="store_true", help="tell copies by features alone; opens no clip")
    parser.add_argument("--soft-labels", action="store_true", help="several people's labels, as DATA.SOFT_LABELS")
    parser.add_argument("--folds", type=int, default=5, help="of the classifier that judges labels (5)")
    parser.add_argument("--seed", type=int, default=0, help="of the folds (0)")


def run(args: argparse.Namespace) -> None:
    from dust.analysis.curate import SURE
    from dust.analysis.curation import curate, write_curated

    console_logging(logging.WARNING)
    logging.getLogger("dust.analysis").setLevel(logging.INFO)  # how long it will take
    found = curate(
        args.features,
        args.data,
        threshold=args.threshold,
        folds=args.folds,
        seed=args.seed,
        pictures=not args.no_pictures,
        soft_labels=args.soft_labels,
    )
    across = sum(len({found.splits[i] for i in family}) > 1 for family in found.copies)
    print(counted(len(found.ids), "clip"))
    if not found.odd:
        print("copies and outliers were not looked for, which needs features")
    else:
        print(f"{len(found.copies)} families of copies, {across} of them across splits")
    if found.odd and found.seen < len(found.ids):
        unseen = counted(len(found.ids) - found.seen, "clip")
        print(f"  by features alone of {unseen}, whose pictures were not looked at")
    print(f"{len(found.issues)} labels that look wrong" + ", the first:" * bool(found.issues))
    for one in found.issues[:5]:
        names = found.class_names[one.given], found.class_names[one.suggested]
        print(f"  {found.ids[one.index]}: {names[0]} ({one.own:.2f}), looks like {names[1]} ({one.other:.2f})")
    if found.agreement is not None:
        print(f"  judged by answers that agree with {100 * found.agreement:.1f} % of the labels")
        if found.issues and found.agreement < SURE:
            print(
                f"  that is below {100 * SURE:.0f} %: the classes overlap in them, or many labels are wrong. Most of "
                "these findings may be right labels, so look at the clips before corrections.csv is used"
            )
    if found.learnt:
        print(
            "  the model of these features had learnt these labels, and may vouch for wrong ones. Surer: train with "
            "--folds 5, and curate OUTPUT_DIR/pooled"
        )
    for path in write_curated(found, Path(args.out)):
        print(f"wrote {path}")


main = command("curate", __doc__, add_arguments, run)
