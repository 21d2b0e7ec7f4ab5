"""Decodes every clip of a data folder and lists the bad ones, before a training finds them."""

import os
from pathlib import Path

from dust.convert.health import examine_all
from dust.convert.splits import BAD_CLIPS, bad_rows, refuse_overwriting, write_bad_clips
from dust.datasets.manifest.manifest import available_splits, read_manifest
from dust.utils.errors import DataError


def check_data(
    root: str,
    *,
    out: str | os.PathLike = "",
    format: str = "auto",
    separator: str = "",
    path_prefix: str = "",
    multi_label: bool = False,
    split_number: int = 1,
    workers: int = 0,
    force: bool = False,
) -> tuple[int, list[tuple[str, str, str, str]], Path]:
    """Reads every split that there is, decodes each of its clips to the end, and writes ``bad_clips.csv``.

    Args:
        root, format, separator, path_prefix, multi_label, split_number: as for read_manifest.
        out: the folder of bad_clips.csv; "" = the data folder.
        workers: processes that decode; 0 works in this one.
        force: replace an older bad_clips.csv.

    Returns:
        (number of different clips, [(split, id, path, reason)] of the bad ones, the path of bad_clips.csv).
    """
    folder = Path(out or (os.path.dirname(os.path.abspath(root)) if os.path.isfile(root) else root))
    splits = ["test"] if os.path.isfile(root) else available_splits(root, format, split_number)
    if not splits:
        raise DataError(f"{root} has no train, val or test split in the format {format}")
    refuse_overwriting(folder, [BAD_CLIPS], force)
    clips = {}
    class_names = None
    for split in splits:
        manifest = read_manifest(
            root=root,
            split=split,
            format=format,
            separator=separator,
            path_prefix=path_prefix,
            class_names=class_names,
            multi_label=multi_label,
            split_number=split_number,
            check_files=False,  # a missing file is one more bad clip
        )
        class_names = manifest.class_names or None
        clips[split] = manifest.clips
    paths = dict.fromkeys(clip.path for part in clips.values() for clip in part)
    bad = {path: "missing" for path in paths if not os.path.exists(path)}
    bad |= examine_all([path for path in paths if path not in bad], decode=True, workers=workers)
    rows = bad_rows(clips, bad)
    return len(paths), rows, write_bad_clips(folder, rows)
