"""Which files of a folder are clips or pictures; whatever is left out is counted, with the reason.

Every reader of folders goes through here, so that all of them see the same files: hidden ones (AppleDouble's
``._a.jpg`` too) and those of the system are nobody's data, links are followed but never in a circle, and a folder of
pictures is a clip, like a video file.
"""

import fnmatch
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dust.utils.errors import Problems
from dust.utils.files import natural_order
from dust.utils.text import whole_number

#: Containers and raw streams that FFmpeg reads as video.
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".qt", ".f4v", ".3gp", ".3g2", ".avi", ".divx", ".mkv", ".mk3d", ".webm", ".ogv", ".ogm"}
    | {".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".mpv", ".mp2v", ".vob", ".ts", ".mts", ".m2ts", ".m2t", ".tod", ".mod"}
    | {".wmv", ".asf", ".flv", ".mxf", ".gif", ".dv", ".dif", ".rm", ".rmvb", ".wtv", ".nut", ".ivf", ".y4m", ".amv"}
    | {".264", ".h264", ".avc", ".265", ".h265", ".hevc", ".obu", ".mjpeg", ".mjpg", ".dav"}
)
#: Pictures that Pillow reads.
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2"})

_SYSTEM_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})
#: Folders beside the frames of a clip that hold pictures of something else.
_OTHER_PICTURES = frozenset(
    {"flow", "flow_x", "flow_y", "optical_flow", "depth", "mask", "masks", "thumbs", "thumbnails"}
)

HIDDEN = "hidden, or the system's"
DEAD_LINK = "a link that leads nowhere"
_NUMBER = re.compile(r"\d+")


@dataclass
class Scan:
    """What was found, and what was left out: reason -> paths."""

    found: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def summary(self) -> str:
        """Return ``3 x hidden, or the system's (._a.mp4, ...); 1 x .txt ...``; "" where nothing was left out."""
        parts = []
        for reason, paths in self.left_out.items():
            names = ", ".join(os.path.basename(path) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
            parts.append(f"{len(paths)} x {reason} ({names})")
        return "; ".join(parts)

    @property
    def only_hidden(self) -> bool:
        return not set(self.left_out) - {HIDDEN}


def is_video(name: str | os.PathLike) -> bool:
    """Tell whether a name ends as a video's does."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def is_picture(name: str | os.PathLike) -> bool:
    """Tell whether a name ends as a picture's does."""
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of that name is nobody's data."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def visible(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden, by name; none if it is no folder."""
    try:
        with os.scandir(os.fspath(folder)) as entries:
            return sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder or a link to one. A link to itself is none, where ``entry.is_dir()`` raises."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_file(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a plain file or a link to one, likewise."""
    try:
        return entry.is_file()
    except OSError:
        return False


# ------------------------------------------------------------------------------------------------------------- clips


def scan_clips(folder: str | os.PathLike, *, frames: bool = True) -> Scan:
    """Find the clips below a folder at any depth: videos and, with ``frames``, folders of pictures.

    The order is that of names, the files of a folder before those of its sub-folders.
    """
    scan = Scan()
    scan.found = list(iter_clips(folder, scan, frames=frames))
    return scan


def iter_clips(folder: str | os.PathLike, scan: Scan | None = None, *, frames: bool = True) -> Iterator[str]:
    """Yield what :func:`scan_clips` finds, one by one; ``scan`` gets what is left out."""
    scan = Scan() if scan is None else scan
    yield from _walk(os.fspath(folder), scan, frames, (), frozenset())


def _walk(folder: str, scan: Scan, frames: bool, above: tuple[str, ...], video_names: frozenset[str]) -> Iterator[str]:
    """Yield the files below a folder. ``above``: the real paths of the folders that this one lies in. ``video_names``:
    of the videos beside it."""
    real = os.path.realpath(folder)
    if real in above:
        scan.left_out["a link back to a folder that it lies in"].append(folder)
        return
    videos, pictures, folders = _sorted_out(folder, scan)
    yield from videos
    stems = frozenset(_stem(path) for path in videos)
    clips_below = False
    for path in folders:
        for clip in _walk(path, scan, frames, (*above, real), stems):
            clips_below = True
            yield clip
    if not pictures:
        return
    if not frames or not above or videos or clips_below:
        reason = "a picture that is not in a folder of frames"
    elif os.path.basename(folder).lower() in _OTHER_PICTURES or _are_previews(pictures, video_names):
        reason = "a picture of something else (flow, depth, masks, previews of the videos beside it)"
    else:
        yield folder
        return
    scan.left_out[reason] += pictures


def _are_previews(pictures: Sequence[str], video_names: frozenset[str]) -> bool:
    """Tell whether pictures are called as the videos beside their folder; plain numbers are what frames are called,
    too."""
    stems = {_stem(path) for path in pictures}
    return stems <= video_names and not any(stem.isdecimal() for stem in stems)


def _sorted_out(folder: str, scan: Scan) -> tuple[list[str], list[str], list[str]]:
    """Return (videos, pictures, folders) in a folder, by name; all else is left out."""
    videos: list[str] = []
    pictures: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        scan.left_out[f"a folder that cannot be read ({error.strerror})"].append(folder)
        return videos, pictures, folders
    for entry in entries:
        if is_hidden(entry.name):
            scan.left_out[HIDDEN].append(entry.path)
        elif is_folder(entry):
            folders.append(entry.path)
        elif not is_file(entry):
            broken = entry.is_symlink() and not os.path.exists(entry.path)
            reason = DEAD_LINK if broken else "not a plain file"
            scan.left_out[reason].append(entry.path)
        elif is_video(entry.name):
            videos.append(entry.path)
        elif is_picture(entry.name):
            pictures.append(entry.path)
        else:
            suffix = os.path.splitext(entry.name)[1].lower()
            reason = f"{suffix}, which is not read as video" if suffix else "a file without a suffix"
            scan.left_out[reason].append(entry.path)
    return videos, pictures, folders


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


# ---------------------------------------------------------------------------------------------------------- pictures


def scan_pictures(folder: str | os.PathLike, pattern: str = "") -> Scan:
    """Find the pictures of a folder: their names, numbers in them in order.

    Args:
        pattern: file patterns separated by ``|``, one without a star being an ending ("img_*.jpg", "jpg|png"); "" takes
            all that :data:`PICTURE_SUFFIXES` names.

    Raises OSError.
    """
    patterns = [one if "*" in one else f"*.{one.lstrip('.')}" for one in pattern.lower().split("|") if one]
    scan = Scan()
    for name in sorted(sorted(os.listdir(folder)), key=natural_order):
        if is_hidden(name):
            scan.left_out[HIDDEN].append(name)
        elif any(fnmatch.fnmatchcase(name.lower(), one) for one in patterns) if patterns else is_picture(name):
            scan.found.append(name)
        else:
            scan.left_out["not a picture that is asked for"].append(name)
    return scan


def picture_kinds(names: Sequence[str]) -> dict[str, int]:
    """Return how many pictures there are of each kind: ``{"img_#.jpg": 12, "flow_x_#.jpg": 12}``.

    A kind is a name with its numbers left out; .jpg and .jpeg are one. Where a number that stands behind letters
    (``cam0_0001.jpg``) takes a few values, and each of them has the same further numbers, each value is a kind. Names
    without a number are one kind together, unless there are others with numbers.
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in names:
        stem, suffix = os.path.splitext(name)
        suffix = suffix.lower().replace(".jpeg", ".jpg").replace(".tiff", ".tif")
        shape = _NUMBER.sub("#", re.sub(r"\d+\.\d+", "#", stem))
        kinds[(shape if "#" in shape else "*") + suffix].append(stem)
    counts: dict[str, int] = {}
    for kind, stems in kinds.items():
        for name, count in _sub_kinds(kind, stems).items():
            counts[name] = count
    endings = {os.path.splitext(kind)[1] for kind in counts}
    if len({os.path.splitext(kind)[0] for kind in counts}) == 1 and len(endings) > 1 and not _same_stem_twice(names):
        return {next(iter(counts)): len(names)}  # a sequence whose pictures were saved in two formats
    return counts


def _sub_kinds(kind: str, stems: list[str]) -> dict[str, int]:
    if not re.match(r".*[A-Za-z]#.*#", kind):
        return {kind: len(stems)}
    further: dict[str, set[str]] = defaultdict(set)
    for stem in stems:
        first = re.search(r"(?<=[A-Za-z])\d+", stem)
        assert first is not None
        further[stem[: first.end()]].add(stem[first.end() :])
    sets = list(further.values())
    if not 2 <= len(sets) <= 16 or len(sets[0]) < 2 or any(one != sets[0] for one in sets):
        return {kind: len(stems)}
    return {f"{begin}*{os.path.splitext(kind)[1]}": len(sets[0]) for begin in further}


def _same_stem_twice(names: Sequence[str]) -> bool:
    return len({os.path.splitext(name)[0] for name in names}) < len(names)


def count_numbered(folder: Path, first: int | None, pattern: str, problems: Problems) -> int:
    """Count pictures that are numbered without a gap from ``first`` (None: 0 or 1) on; all else is a problem."""
    numbers: dict[int, str] = {}
    names = scan_pictures(folder, pattern).found
    kinds = {} if pattern else picture_kinds([name for name in names if re.search(r"\d", name)])
    if len(kinds) > 1:
        listed = ", ".join(f"{kind} ({count})" for kind, count in list(kinds.items())[:10])
        problems.add("pictures of several kinds: say which with DATA.FRAME_PATTERN", f"{folder}: {listed}")
    for name in names:
        digits = re.search(r"(\d+)$", os.path.splitext(name)[0])
        number = whole_number(digits[1]) if digits else None
        if number is None:
            problems.add("a picture without a number at the end of its name", f"{folder / name}")
        elif number in numbers:
            problems.add("two pictures of one number", f"{folder}: {numbers[number]} and {name}")
        else:
            numbers[number] = name
    if not numbers:
        problems.add("a folder without pictures", str(folder))
        return 0
    start = min(numbers)
    if start not in ((0, 1) if first is None else (first,)):
        expected = "0 or 1" if first is None else str(first)
        problems.add(f"pictures must be numbered from {expected} on", f"{folder}: begins with {numbers[start]}")
    missing = max(numbers) - start + 1 - len(numbers)
    if missing:  # of a picture whose number has 18 digits, very many
        gap = next(number for number in itertools.count(start) if number not in numbers)
        text = f"{missing} of {max(numbers) - start + 1} are missing, the first is number {gap}"
        problems.add("a gap in the pictures: every frame must be there", f"{folder}: {text}")
    return max(numbers) - start + 1
