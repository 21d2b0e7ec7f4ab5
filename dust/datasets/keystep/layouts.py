"""Procedures as the public data sets have them on disk: IndustReal and MECCANO-PSR; and which layout a folder has.

IndustReal (https://arxiv.org/abs/2310.17323): ``recordings/<split>/<recording>/rgb/%06d.jpg`` from 0 on, 10 frames per
second. MECCANO-PSR (labels of https://arxiv.org/abs/2510.12385): ``<split>/<recording>/%05d.jpg`` from 1 on, 12 frames
per second. Instead of pictures a recording may be one video file: ``rgb.mp4`` or any single one in its folder, or
``<recording>.mp4`` beside it. In the recording's folder stand ``PSR_labels.csv`` (picture, step id, description) and
``PSR_labels_raw.csv`` (picture, K states), without headers.
"""

import glob
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dust.datasets.keystep.data import check_procedure
from dust.datasets.keystep.files import (
    RECORDINGS,
    ProcedureData,
    Recording,
    Row,
    count_frames,
    read_own,
    read_rows,
    with_labels,
)
from dust.datasets.manifest.columns import to_number
from dust.datasets.manifest.corrections import Corrections
from dust.datasets.manifest.manifest import SPLITS
from dust.decode.folders import is_file, is_folder, is_video, scan_pictures, visible
from dust.utils.errors import DataError, Problems
from dust.utils.structured import read_json
from dust.utils.text import whole_number

TABLE = "procedure_info.json"
STEP_LABELS, STATE_LABELS = "PSR_labels.csv", "PSR_labels_raw.csv"
PREDICTIONS = "_results_pred.csv"
# the classes of IndustReal's object detector, in their order: components from left to right
INDUSTREAL_STATES = [
    "background", "10000000000", "10010010000", "10010100000", "10010110000", "11100000000",
    "11110010000", "11110100000", "11110110000", "11110111100", "11110111110", "11110110001",
    "11110111101", "11110111111", "11110101111", "11110011111", "11110011110", "11110101110",
    "11100001110", "11101101110", "11101011110", "11101111110", "11101111111", "error_state",
]  # fmt: skip
Detections = list[list[tuple[int, float]]]


@dataclass(frozen=True)
class Layout:
    """What the files do not say. ``pictures``: folder of a recording's pictures. ``start_states``: where a name stands
    in the recording's, that is its procedure; a single one is everyone's."""

    pictures: str
    first: int
    fps: float
    start_states: dict[str, str]
    state_names: list[str]


LAYOUTS = {
    "industreal": Layout("rgb", 0, 10.0, {"assy": "10000000000", "main": "11110111111"}, INDUSTREAL_STATES),
    "meccano": Layout("", 1, 12.0, {"assy": 17 * "0"}, []),
}


def read_procedures(
    root: str | os.PathLike,
    split: str,
    *,
    layout: str = "auto",
    table: str = "",
    labels: bool = True,
    frames: bool = True,
    index_cache: str = "",
    pattern: str = "",
    group_column: str = "",
    corrections: str | os.PathLike = "",
    check_files: bool = True,
    extra_columns: Sequence[str] = (),
) -> ProcedureData:
    """Return one split of a data folder.

    Args:
        layout: auto (looks at the files) | own | industreal | meccano.
        table: the public data sets' ``procedure_info.json``, where it is not in the folder.
        labels, frames, index_cache, pattern, group_column, corrections, check_files, extra_columns: as in
            :func:`dust.datasets.keystep.files.read_own`.

    Raises:
        DataError: with every problem of the split, its file and line.
    """
    folder = Path(os.path.expanduser(root))
    if not root or not folder.is_dir():
        raise DataError(f"the data folder {str(root)!r} does not exist: set DATA.PATH_TO_DATA_DIR")
    if split not in SPLITS:
        raise DataError(f"split {split!r} is none of {', '.join(SPLITS)}")
    layout = detect_layout(folder) if layout == "auto" else layout
    if layout == "own":
        return read_own(
            folder,
            split,
            labels=labels,
            frames=frames,
            index_cache=index_cache,
            pattern=pattern,
            group_column=group_column,
            corrections=corrections,
            check_files=check_files,
            extra_columns=extra_columns,
        )
    if group_column:
        raise DataError(f"DATA.GROUP_COLUMN {group_column}: {folder} has no list with columns; set it to ''")
    reading: dict[str, Any] = {"index_cache": index_cache, "pattern": pattern, "check_files": check_files}
    data = _read_public(folder, split, layout, table, labels, frames, reading)
    problems, base = Problems(), _base(folder)
    kept = Corrections(corrections).apply(
        data.recordings,
        split,
        problems,
        others=lambda: [one.name for other in SPLITS for one in _recording_folders(base / other, Problems())],
    )
    problems.raise_if_any(str(folder))
    return replace(data, recordings=kept)


def detect_layout(folder: Path) -> str:
    """Return the layout: own | industreal | meccano. DataError says what was looked for."""
    if (folder / RECORDINGS).exists():
        return "own"
    if (folder / "recordings").is_dir() or any(folder.glob("*/*/rgb")):
        return "industreal"
    if any((folder / split).is_dir() for split in SPLITS):
        return "meccano"
    raise DataError(
        f"{folder} holds neither {RECORDINGS} (our format), nor recordings/<split>/ (IndustReal), nor <split>/ "
        "(MECCANO): set DATA.PATH_TO_DATA_DIR, or KEYSTEP.LAYOUT"
    )


def _read_public(
    folder: Path, split: str, name: str, table: str, labels: bool, frames: bool, reading: dict[str, Any]
) -> ProcedureData:
    """Read one split of a public data set. ``reading``: how frames are counted, see :func:`count_frames`."""
    layout, problems, base = LAYOUTS[name], Problems(), _base(folder)
    facts = _read_table(Path(table) if table else folder / TABLE, layout)
    recordings = []
    for home in _recording_folders(base / split, problems):
        recording = Recording(
            id=home.name,
            path=_frames_of(home, layout, problems, reading["check_files"]) if frames else str(home),
            fps=layout.fps,
            procedure=_procedure_of(home, layout, problems),
            object_states=_predictions_of(home, folder),
        )
        if frames and recording.path:
            recording = count_frames(recording, problems, first=layout.first, **reading)
        if labels:
            states = _label_rows(home / STATE_LABELS, layout.first, problems)
            steps = _label_rows(home / STEP_LABELS, layout.first, problems)
            recording = with_labels(recording, states, steps, facts, problems)
        recordings.append(recording)
    problems.raise_if_any(str(base / split))
    return replace(facts, recordings=recordings, source=str(folder))


def _base(folder: Path) -> Path:
    """Return the folder of the splits' folders."""
    return folder / "recordings" if (folder / "recordings").is_dir() else folder


def _recording_folders(base: Path, problems: Problems) -> list[Path]:
    found = [Path(entry.path) for entry in visible(base) if is_folder(entry)]
    if not found:
        problems.add("no recordings: each is a folder in that of its split", str(base))
    return found


def _procedure_of(home: Path, layout: Layout, problems: Problems) -> str:
    names = list(layout.start_states)
    found = [name for name in names if name in home.name] or names
    if len(found) != 1:
        problems.add(f"the name of a recording must say which procedure it is of: {' or '.join(names)}", str(home))
    return found[0]


def _frames_of(home: Path, layout: Layout, problems: Problems, check_files: bool) -> str:
    """Return the folder of pictures, or the video file; "" and a problem where there is not exactly one. Without
    ``check_files``, where there is none, the file that should be there."""
    pictures = home / layout.pictures
    if pictures.is_dir() and scan_pictures(pictures).found:
        return str(pictures)
    inside = [Path(entry.path) for entry in visible(home) if is_video(entry.name) and is_file(entry)]
    named = [path for path in inside if path.stem in ("rgb", home.name)] or inside
    beside = sorted(path for path in home.parent.glob(f"{glob.escape(home.name)}.*") if is_video(path))
    found = named or beside
    if len(found) == 1:
        return str(found[0])
    if not found and not check_files:
        return str(home / "rgb.mp4")
    looked = f"{layout.pictures or '.'}/*.jpg, rgb.mp4, one video file, or ../{home.name}.mp4"
    problems.add(f"not one set of frames for a recording: looked for {looked}", f"{home}: {len(found)} video files")
    return ""


def _predictions_of(home: Path, folder: Path) -> str:
    name = f"{home.name}{PREDICTIONS}"
    found = [path for path in (home / name, folder / "object_states" / name) if path.exists()]
    return str(found[0]) if found else ""


def _label_rows(path: Path, first: int, problems: Problems) -> list[Row]:
    """Return rows [frame, ...]: the number of the picture that the first column names, from ``first`` on."""
    if not path.exists():
        problems.add("labels that are not there", str(path))
        return []
    rows = []
    for where, cells in read_rows(path, problems):
        named = re.fullmatch(r"(\d+)\.\w+", cells[0])
        number = whole_number(named[1]) if named else None
        if number is None or number < first:
            kind = f"the first column names a picture, numbered from {first} on, such as 000123.jpg"
            problems.add(kind, f"{where}: {cells[0]!r}")
            continue
        rows.append((where, [str(number - first), *cells[1:]]))
    return rows


def _read_table(path: Path, layout: Layout) -> ProcedureData:
    if not path.exists():
        raise DataError(f"{path}: the table of the procedure is not there: put {TABLE} there, or set KEYSTEP.PROCEDURE")
    try:
        rows = [dict(row) for row in read_json(path)]
        names = [str(row["description"]) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a list of steps with id, description, install ... ({error})") from None
    components = [re.sub(r"^[Ii]nstall(ed)? ", "", name).replace(",", " ") for name in names[::3]]
    data = ProcedureData([], components, rows, dict(layout.start_states), str(path), list(layout.state_names))
    check_procedure(data)
    return data


# -------------------------------------------------------------------------------------------------- object states


def read_object_states(path: str | os.PathLike, num_frames: int, num_classes: int) -> Detections:
    """Return what an object detector saw: for each frame its (class, confidence), in the detector's order.

    A csv with a header, as IndustReal's ``<recording>_results_pred.csv``: column 1 is the frame (a number, or the name
    of its picture), 2 the class, 3 the confidence 0..1; the others are not read.

    Raises:
        DataError: with every row that does not say such things.
    """
    problems: Problems = Problems()
    detections: Detections = [[] for _ in range(num_frames)]
    for where, cells in read_rows(Path(path), problems)[1:]:
        try:
            frame, label, confidence = int(cells[1].split(".")[0]), int(to_number(cells[2])), to_number(cells[3])
        except (IndexError, ValueError, OverflowError):
            problems.add("columns 1 to 3 (from 0) are frame, class and confidence", f"{where}: {','.join(cells[:8])}")
            continue
        if not 0 <= frame < num_frames:
            problems.add(f"a frame that the recording lacks: it has 0 to {num_frames - 1}", f"{where}: {frame}")
        elif not 0 <= label < num_classes:
            problems.add(f"a class that is none of 0 to {num_classes - 1}", f"{where}: {label}")
        elif not (math.isfinite(confidence) and 0 <= confidence <= 1):
            problems.add("a confidence outside 0..1", f"{where}: {cells[3]}")
        else:
            detections[frame].append((label, confidence))
    problems.raise_if_any(str(path))
    return detections
