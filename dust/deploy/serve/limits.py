"""What a stranger may ask of a server: how much at once, which files, which folder."""

import errno
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import av

from dust.datasets.multimodal.series import SUFFIXES
from dust.decode.container import read_errors, words
from dust.decode.deadline import open_options
from dust.decode.reader import open_clip
from dust.utils.errors import DustError, VideoError
from dust.utils.text import printable

#: Containers that hold their pictures themselves. What is not here may name other files and addresses, which FFmpeg
#: would open: playlists (HLS, DASH, concat), session descriptions, patterns of pictures.
CONTAINERS = (
    "3g2,3gp,apng,asf,asf_o,av1,avi,cavsvideo,dirac,dnxhd,dv,flv,gif,gxf,h261,h263,h264,hevc,ivf,live_flv,m4a,m4v,"
    "matroska,mj2,mjpeg,mjpeg_2000,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nsv,nut,nuv,obu,ogg,rm,swf,vc1,vvc,webm,wtv,"
    "yuv4mpegpipe"
)
#: Pixels of a picture, at most: those of 8K with some room.
LARGEST = 40_000_000
PICTURES_PER_SECOND = 30  # of a folder, as a reader takes them
#: What stands in the name of a point track's file behind its sample's name.
VIEW = re.compile(r"_view_\d+$")


class Refused(DustError):
    """A request that is not answered. ``status`` is HTTP's number for it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        max_mb: megabytes (2**20 bytes) of an upload.
        max_minutes: of a video.
        timeout: seconds from a request's first byte to its answer.
        queue: requests that are under way at once; one more is told to come again.
    """

    max_mb: float = 512
    max_minutes: float = 10
    timeout: float = 120
    queue: int = 32

    def __post_init__(self) -> None:
        wrong = [
            f"{name} {value:g}: must be a number above 0"
            for name, value in vars(self).items()
            if not 0 < value < math.inf
        ]
        if wrong:
            raise DustError("; ".join(wrong))

    @property
    def max_bytes(self) -> int:
        return int(self.max_mb * (1 << 20))


def check_video(path: str, limits: Limits) -> None:
    """Raise VideoError for a file that another file's pictures would come out of, for what is too long or too large,
    and for what cannot be opened.

    Args:
        path: a file, or a folder of pictures.
    """
    if os.path.isdir(path):
        _check_length(path, len(os.listdir(path)) / PICTURES_PER_SECOND, limits)
        return
    _check_container(path, limits)
    with open_clip(path) as reader:
        if reader.height * reader.width > LARGEST:
            raise VideoError(path, f"has pictures of {reader.width}x{reader.height} pixels, far too many")
        _check_length(path, len(reader) / (reader.fps or 1.0), limits)


def _check_container(path: str, limits: Limits) -> None:
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        how = {"options": options, "metadata_errors": "ignore", **open_options()}
        with av.open(os.path.abspath(path), **how) as container:
            _check_length(path, (container.duration or 0) / 1e6, limits)
            for stream in container.streams.video:
                context = stream.codec_context
                if context is not None and context.width * context.height > LARGEST:
                    raise VideoError(path, f"has pictures of {context.width}x{context.height} pixels, far too many")
    except (*read_errors(), ValueError) as error:
        reason = f"cannot be opened: {words(error)}"
        if getattr(error, "errno", 0) == errno.EINVAL:  # PyAV's own name for it differs between its versions
            reason = "is no video file: pictures, and what names other files (playlists), are not opened here"
        raise VideoError(path, reason) from error


def _check_length(path: str, seconds: float, limits: Limits) -> None:
    if seconds > limits.max_minutes * 60:
        raise VideoError(
            path, f"lasts {seconds:.0f} s, and at most {limits.max_minutes * 60:g} s are taken here (--max-minutes)"
        )


def sees_video(kind: str) -> bool:
    """Tell whether a model of ``kind`` (``preprocess["input"]``) opens the file that is named to it as a video."""
    return "video" in kind or "recording" in kind


def main_file(files: Sequence[tuple[str, str]], kind: str) -> tuple[str, str]:
    """Return of a sample's files, (name, path), the one that is named to its reader, which finds the others beside
    it."""
    videos = [one for one in files if not one[1].lower().endswith(SUFFIXES)]
    return videos[0] if videos and sees_video(kind) else files[0]


def find_under(root: str, name: str) -> str:
    """Return the file or folder of pictures ``name`` under ``root``, a path without links.

    Raises:
        Refused: it leads out of ``root``, itself, by a file of its sample or by a picture in it; or is not there.
    """
    top = os.path.realpath(root)
    outside = Refused(403, f"path {printable(name)}: leads out of the folder that is served")
    if "\0" in name or os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
        raise outside
    found = os.path.realpath(os.path.join(top, name))
    if not _within(found, top):
        raise outside
    if not os.path.exists(found):
        raise Refused(404, f"path {printable(name)}: there is no such file in the folder that is served")
    # a reader opens more than what is named: pictures of a folder, a series beside its video, other cameras' tracks
    folder = found if os.path.isdir(found) else os.path.dirname(found)
    stem = "" if os.path.isdir(found) else VIEW.sub("", os.path.splitext(os.path.basename(found))[0])
    with os.scandir(folder) as entries:
        for entry in entries:
            leads = entry.name.startswith(stem) and entry.is_symlink()
            if leads and not _within(os.path.realpath(entry.path), top):
                raise outside
    return found


def _within(path: str, top: str) -> bool:
    return os.path.commonpath([path, top]) == top
