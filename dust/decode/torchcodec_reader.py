"""Frames by torchcodec (https://github.com/meta-pytorch/torchcodec, BSD-3), a second and optional backend.

It decodes as fast as it can and believes what it gets: files whose frames are not where their index says, or that are
damaged, are read all the same, and nothing tells so. :class:`dust.decode.reader.VideoReader` reads those exactly, or
says what is wrong with them.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from dust.decode.clip import DECODER_REGISTRY, Clip, Sink, check_aspect, check_resize, deal
from dust.decode.deadline import check_time
from dust.decode.index import VideoReport
from dust.decode.members import member_of
from dust.decode.pixels import UPRIGHT, FrameConverter, FrameRequest, shown_size
from dust.utils.errors import ConfigError, VideoError
from dust.utils.files import refuse_special
from dust.utils.package import import_extra

READ_ERRORS = (RuntimeError, ValueError, IndexError, OSError)  # what torchcodec raises for bad data
UNKNOWN = "torchcodec cannot tell damage: nobody has looked for it"


@DECODER_REGISTRY.register()
class TorchCodecReader(Clip):
    """Reads one video file, with the arguments of VideoReader. ``index_cache`` is not needed.

    Frames come whole and in RGB, and are then cut and scaled, where VideoReader scales brightness and the coarser
    colours each by itself: whole frames are alike, scaled ones differ at the edges of colours.

    Raises:
        VideoError: the file cannot be opened, has no video stream or holds no frame.
    """

    tells_damage = False

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        threads: int = 1,
        resize: str = "swscale",
        index_cache: str | None = None,
        aspect: str = "stored",
    ) -> None:
        self.path, self.resize, self._threads = os.fspath(path), check_resize(resize), threads
        if member_of(self.path):
            raise ConfigError("DATA.DECODER torchcodec reads files, no parts of tars: set DATA.DECODER pyav for shards")
        self._decoder: Any = None
        self._owner = 0
        decoder = self._open()
        facts, count = decoder.metadata, len(decoder)
        if not count:
            raise VideoError(self.path, "holds no frame")
        stated = float(getattr(facts, "pixel_aspect_ratio", None) or 1)  # of a turned file, as it is shown
        self._stretch = stated if check_aspect(aspect) == "displayed" else 1.0
        self.height, self.width = shown_size(facts.height, facts.width, self._stretch, UPRIGHT)
        self.fps = float(facts.average_fps)
        self._pts: np.ndarray | None = None
        self._count = count
        declared = facts.num_frames_from_header or 0
        self.report = VideoReport(declared=declared, decoded=count, unknown=UNKNOWN)

    @classmethod
    def require(cls) -> None:
        """Raise ConfigError where torchcodec is absent, or finds no FFmpeg."""
        try:
            import_extra("torchcodec.decoders", "torchcodec", "DATA.DECODER torchcodec")
        except (RuntimeError, OSError) as error:  # its libraries do not load
            first = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"DATA.DECODER torchcodec: torchcodec is installed and does not load ({first}). It needs the shared "
                "libraries of FFmpeg 4 to 8, and a torch that its version was built for"
            ) from error

    def __len__(self) -> int:
        return self._count

    @property
    def pts(self) -> np.ndarray:  # type: ignore[override]
        """Seconds of every frame; the whole file is decoded for it."""
        if self._pts is None:
            self._pts = np.concatenate([self._batch([number]).pts_seconds.numpy() for number in range(len(self))])
        return self._pts

    @property
    def duration(self) -> float:
        """Seconds by the frame rate."""
        return len(self) / self.fps

    def read(self, requests: Sequence[FrameRequest]) -> list[np.ndarray]:
        """See ``Clip.read``."""
        import av

        wanted = self._numbers(requests)
        facts: Any = {"resize": self.resize, "stretch": self._stretch}
        sinks = [Sink(one, FrameConverter(one, self.height, self.width, **facts)) for one in requests]
        take = deal(sinks)
        if wanted:
            for number, picture in zip(wanted, self._batch(wanted).data.numpy(), strict=True):
                take(number, av.VideoFrame.from_ndarray(picture, format="rgb24"))
        return [consumer.result() for consumer in sinks]

    def check(self) -> VideoReport:
        """Decode every frame; what raises is damage, and what does not may still be."""
        for number in range(len(self)):
            try:
                self._batch([number])
            except VideoError as error:
                self.report = VideoReport([error.reason], 0, self.report.declared, number, UNKNOWN)
                break
        return self.report

    def close(self) -> None:
        self._decoder = None

    def _open(self) -> Any:
        from torchcodec.decoders import VideoDecoder

        if self._decoder is None or self._owner != os.getpid():  # the parent process's file: its place would be shared
            options: dict[str, Any] = {"dimension_order": "NHWC", "num_ffmpeg_threads": self._threads}
            try:
                refuse_special(self.path)
                self._decoder = VideoDecoder(os.path.abspath(self.path), seek_mode="exact", **options)
                self._owner = os.getpid()
            except READ_ERRORS as error:
                raise VideoError(self.path, f"cannot be opened: {_words(error)}") from error
        return self._decoder

    def _batch(self, numbers: list[int]) -> Any:
        check_time()
        try:
            return self._open().get_frames_at(indices=numbers)
        except READ_ERRORS as error:
            raise VideoError(self.path, f"cannot be read: {_words(error)}") from error


def _words(error: BaseException) -> str:
    """Return an error's first line, without the place in torchcodec's sources."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rpartition(".cpp:")[2].partition(", ")[2] or lines[0]
