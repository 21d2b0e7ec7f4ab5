"""Look for damaged files, wrong labels and clips in two splits, and write lists without them.

dust check data/mine
dust check data/mine --cfg configs/quickstart/video.yaml      the spans, cameras and channels of a configuration
dust check data/mine --fix data/clean                         clean train.csv, val.csv, test.csv
dust check data/mine --fix corrections.csv                    for DATA.CORRECTIONS

Exit status: 0 without errors (there may be warnings), 1 with, 2 where the lists cannot be read.
"""

import argparse
import os
import sys
from typing import Any

from dust.cli.command import command
from dust.config import CfgNode, load_config
from dust.convert.check import check_data
from dust.convert.fixes import folder_of_findings, refuse_fix, write_clean, write_corrections, write_findings
from dust.convert.lists import KINDS, ListOptions
from dust.datasets.manifest.background import Background
from dust.datasets.manifest.manifest import FORMATS
from dust.datasets.manifest.several import distinct_ends, one_folder
from dust.datasets.manifest.shards import build_shard_cache
from dust.datasets.multimodal.series import SeriesRules
from dust.decode.segment import FRAMES, SECONDS
from dust.utils.errors import ConfigError
from dust.utils.logging import console_logging
from dust.utils.registry import build
from dust.utils.text import counted, printable_lines

#: Which dataset class of a configuration reads which kind of list.
_DATASETS = {"FusedDataset": "fusion", "PointTracks": "tracks", "EpicKitchens": "epic"}
_FORMATS = {"SSv2": "ssv2", "Charades": "charades"}
_RECORDINGS = ("KeyFrames", "RecordingFrames", "EmbeddingWindows", "VideoWindows", "ProcedureRecordings")


#: What is asked besides the folder, as keyword arguments of argparse's add_argument.
OPTIONS: dict[str, dict[str, Any]] = {
    "out": {
        "default": "",
        "metavar": "DIR",
        "help": "folder for bad_clips.csv and check.csv (default: the data folder)",
    },
    "fix": {"default": "", "metavar": "DIR|FILE.csv", "help": "write clean lists, or a list of corrections"},
    "force": {"action": "store_true", "help": "replace files that are there already"},
    "workers": {"type": int, "default": os.cpu_count() or 1, "help": "processes (default: all cores)"},
    "kind": {"default": "", "choices": KINDS, "help": "kind of the lists (default: as the files show)"},
    "format": {"default": "", "choices": FORMATS, "help": "DATA.FORMAT of the lists (default: auto)"},
    "separator": {"default": "", "metavar": "CHAR", "help": "between csv columns (default: as the file shows)"},
    "path-prefix": {"default": "", "metavar": "DIR", "help": "folder that relative paths are under"},
    "multi-label": {"action": "store_true", "help": "several labels per clip"},
    "soft-labels": {"action": "store_true", "help": "several people's labels, as DATA.SOFT_LABELS reads them"},
    "split-number": {"type": int, "default": 0, "choices": (1, 2, 3), "help": "official split (default 1)"},
    "annotations": {
        "default": "",
        "metavar": "PATH",
        "help": "annotation file or folder of --format activitynet, kinetics or epic",
    },
    "group-column": {
        "default": "",
        "metavar": "COLUMN",
        "help": "its values may be in one split only (default: group)",
    },
    "segment-unit": {"default": "", "choices": (SECONDS, FRAMES), "help": "of the columns start and end (seconds)"},
    "corrections": {"default": "", "metavar": "FILE.csv", "help": "corrections that are applied first"},
    "cfg": {"default": "", "metavar": "FILE.yaml", "help": "a configuration whose keys say how lists are read"},
}


def can_write(cfg: CfgNode) -> bool:
    """Tell whether lists that ``--fix`` writes are of a kind that the configuration's dataset reads."""
    return cfg.TRAIN.DATASET in ("VideoDataset", *_DATASETS, *_RECORDINGS)


def build_options(cfg: CfgNode) -> dict[str, Any]:
    """Return what a configuration says of its lists, as arguments of ListOptions."""
    data, dataset = cfg.DATA, cfg.TRAIN.DATASET
    build_shard_cache(cfg)
    kind = _DATASETS.get(dataset, "keystep" if dataset in _RECORDINGS else "clips")
    size, frames = tuple(cfg.TRACKS.FRAME_SIZE), data.NUM_FRAMES * data.CLIPS_PER_VIEW
    no_clips = kind in ("tracks", "keystep") or "video" not in data.MODALITIES
    return {
        "kind": kind,
        "format": data.FORMAT if data.FORMAT != "auto" else _FORMATS.get(dataset, "auto"),
        "separator": data.PATH_LABEL_SEPARATOR,
        "path_prefix": data.PATH_PREFIX,
        "multi_label": data.MULTI_LABEL,
        "split_number": data.SPLIT_NUMBER,
        "group_column": data.GROUP_COLUMN,
        "corrections": data.CORRECTIONS,
        "segment_unit": data.SEGMENT_UNIT,
        "extra_columns": data.EXTRA_COLUMNS,
        "frame_pattern": data.FRAME_PATTERN,
        "span": 0.0 if no_clips else frames * data.SAMPLING_RATE / data.TARGET_FPS,
        "layout": cfg.KEYSTEP.LAYOUT,
        "table": cfg.KEYSTEP.PROCEDURE,
        "rules": build(SeriesRules, cfg) if "series" in data.MODALITIES else None,
        "frame_size": (int(size[0]), int(size[1])) if size else None,
        "num_verbs": cfg.CAST.NUM_VERBS,
        "num_nouns": cfg.CAST.NUM_NOUNS,
        "soft_labels": data.SOFT_LABELS,
        "annotations": data.ANNOTATIONS,
        "epic_label": data.EPIC_LABEL,
        "background": build(Background, cfg) if data.BACKGROUND else None,
    }


def run(args: argparse.Namespace) -> int:
    """Check a folder or list, or each of several; returns the exit status."""
    console_logging()
    root = args.root
    values: dict[str, Any] = {}
    overrides = list(args.overrides)
    if len(overrides) % 2:  # of "--cfg FILE KEY VALUE" the first word was taken for the folder
        root, overrides = "", [root, *overrides]
    if overrides and not args.cfg:
        raise ConfigError(f"{' '.join(overrides)}: keys belong to a configuration, give it as --cfg FILE.yaml")
    if args.cfg:
        cfg = load_config(args.cfg, overrides)
        values, root = build_options(cfg), root or cfg.DATA.PATH_TO_DATA_DIR
    if not root:
        raise ConfigError("which data? Give a folder, or a --cfg with DATA.PATH_TO_DATA_DIR")
    own = ("kind", "format", "separator", "path_prefix", "multi_label", "soft_labels", "annotations", "split_number",
           "group_column", "corrections", "segment_unit")  # fmt: skip
    values |= {name: getattr(args, name) for name in own if getattr(args, name)}
    if isinstance(root, str):
        return check_folder(args, root, args.out, values)
    if args.fix:
        one_folder(root, "dust check --fix")
    codes = []
    for folder, end in zip(root, distinct_ends(root), strict=True):
        sys.stdout.write(f"{folder}\n")
        codes.append(check_folder(args, folder, os.path.join(args.out, end) if args.out else "", values))
    return max(codes)


def check_folder(args: argparse.Namespace, root: str, out: str, values: dict[str, Any]) -> int:
    """Check one data folder, and write what was found; returns the exit status."""
    folder = folder_of_findings(root, out, force=args.force)
    if args.fix:
        refuse_fix(args.fix, force=args.force)
    options = ListOptions(**values)
    report = check_data(root, options, workers=args.workers)
    print("\n".join(printable_lines(line) for line in report.lines()))
    bad = len({one.path for one in report.findings if one.kind == "bad"})
    path = write_findings(report, folder)
    warnings = len(report.findings) - len(report.errors)
    found = f"{counted(len(report.errors), 'error')} and {counted(warnings, 'warning')} are in {path}"
    print(f"{counted(report.files, 'file')} read, {bad} bad; {found}")
    if args.fix.endswith(".csv"):
        counts = write_corrections(report, args.fix, force=args.force)
        listed = ", ".join(f"{count} {action}" for action, count in counts.items())
        print(f"wrote {args.fix} ({listed}): look through it, then set DATA.CORRECTIONS {args.fix}")
    elif args.fix:
        kept = write_clean(report, args.fix, force=args.force)
        listed = ", ".join(f"{split} {count} of {len(report.lists.clips[split])}" for split, count in kept.items())
        prefix = ""
        if report.lists.kind == "epic":  # whose lists have no paths
            prefix = f" DATA.PATH_PREFIX {os.path.commonpath([os.path.dirname(path) for path in report.lists.files])}"
        # what the lists mean only together with keys
        keys = {"SEGMENT_UNIT frames": options.segment_unit == FRAMES, "MULTI_LABEL True": options.multi_label,
                "SOFT_LABELS True": options.soft_labels, "GROUP_COLUMN ''": bool(options.group_column),
                "FORMAT auto": options.format != "auto"}  # fmt: skip
        needed = "".join(f" DATA.{key}" for key, is_set in keys.items() if is_set)
        print(f"wrote {args.fix}: {listed} samples; next: set DATA.PATH_TO_DATA_DIR {args.fix}{prefix}{needed}")
    return 1 if report.errors else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", nargs="?", default="", metavar="DIR", help="a data folder, or a csv")
    for name, facts in OPTIONS.items():
        parser.add_argument(f"--{name}", **facts)


main = command("check", __doc__, add_arguments, run, flags_of_old=("--root",))
