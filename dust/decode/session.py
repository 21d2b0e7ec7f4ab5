"""An open video file and the reading of chosen frames out of it, as its index allows."""

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dust.decode.container import KEEP_TIMES, be_strict, discard_others, open_stream, packets, shown
from dust.decode.index import VideoIndex
from dust.decode.pixels import orientation_of
from dust.decode.times import NO_PTS

Take = Callable[[int, Any], None]


class Contradiction(Exception):
    """A read met something that its index rules out: the index is not to be trusted, or the file is damaged."""


class DecodeSession:
    """One open file. ``read`` hands each wanted frame to ``take(number, frame)``, in display order.

    ``opened``: the (container, stream) that ``build_index`` left, which saves opening the file twice.

    Raises Contradiction, or PyAV's own error, where the file does not behave as its index says.
    """

    def __init__(self, path: str, index: VideoIndex, threads: int = 1, opened: tuple[Any, Any] | None = None) -> None:
        self.path, self.index, self.owner = path, index, os.getpid()
        self._threads = threads
        self._container: Any = None
        self._shown = np.zeros(len(index.packet_pts), bool)
        self._hidden = np.zeros(len(index.packet_pts), bool)  # by an edit list: decoded, and not shown
        self._place = np.full(len(index.packet_pts), -1)  # which frame a packet gives
        if index.mode != "count":
            self._shown[index.order] = True
            self._place[index.order] = np.arange(len(index.order))
        self._open(opened)

    def close(self) -> None:
        """Close the file, unless it belongs to the process that this one was forked from."""
        if self._container is not None and self.owner == os.getpid():
            self._container.close()
        self._container = None

    def read(self, wanted: list[int], take: Take) -> None:
        """Read frames into the sink. ``wanted``: frame numbers, rising, each once."""
        if self.index.mode != "seek" and self._next:
            self.close()
            self._open()
        if self.index.mode == "count":
            self._count(wanted, take)
            return
        for start, numbers in self._groups(wanted):
            self._seek(start)
            self._decode(numbers, take, floor=int(self.index.packet_pts[start]))

    def _open(self, opened: tuple[Any, Any] | None = None) -> None:
        # Behind an open entry point stand frames that lack what they refer to, which is no damage (HEVC's decoder
        # knows them and drops them); and a file that is known to be damaged is read as far as it goes.
        strict = self.index.mode != "count" and (self.index.closed or self.index.codec == "hevc")
        self._container, self._stream = opened or open_stream(self.path, self._threads)
        if strict:
            be_strict(self._stream)
        discard_others(self._container, self._stream)
        self._packets: Iterator[Any] = packets(self._container, self._stream)
        self._next = 0 if opened is None else len(self.index.packet_pts)  # ordinal of the packet that comes next
        self._primed = False

    def _groups(self, wanted: list[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield (packet to begin at, frame numbers) for each run of frames that one entry point serves: the last one
        that is neither shown nor stored after the frame."""
        index = self.index
        if index.mode == "start":
            yield 0, wanted
            return
        ordinals = index.order[wanted]
        times = index.packet_pts[index.entries]
        places = np.searchsorted(times, index.packet_pts[ordinals], side="right") - 1
        group: list[int] = []
        begin = -1
        for number, ordinal, place in zip(wanted, ordinals, places, strict=True):
            while place > 0 and index.entries[place] > ordinal:
                place -= 1
            entry = int(index.entries[place])
            if entry != begin and group:
                yield begin, group
                group = []
            begin = entry
            group.append(number)
        yield begin, group

    def _take_packet(self) -> Any:
        """Return the next packet, checked against the index and named by its ordinal."""
        packet = next(self._packets, None)
        if packet is None:
            raise Contradiction(f"packet {self._next} is not there any more")
        pts = NO_PTS if packet.pts is None else packet.pts
        if pts != self.index.packet_pts[self._next]:
            raise Contradiction(f"packet {self._next} has another time than before")
        self._hidden[self._next] = packet.is_discard
        if packet.is_discard and self.index.codec in KEEP_TIMES:
            packet = shown(packet)
        packet.pts = self._next  # the decoder hands it on: each frame then names its packet
        self._next += 1
        return packet

    def _seek(self, start: int) -> None:
        """Make packet ``start`` the next one."""
        if start == self._next:
            return
        index = self.index
        if start and index.prime and not self._primed:
            self._prime()
        # By pts, for mp4 too: FFmpeg lands on this very packet, where a dts makes it land on the key frame before.
        pts = int(index.packet_pts[start])
        self._container.seek(pts, stream=self._stream, backward=True)
        self._packets = packets(self._container, self._stream)
        for packet in itertools.islice(self._packets, start + 1):
            if packet.pts == pts:
                if not packet.is_keyframe:
                    raise Contradiction(f"packet {start} is no entry point")
                self._packets, self._next = itertools.chain([packet], self._packets), start
                return
        self.close()  # it landed too late: walk there from the first packet
        self._open()
        if index.prime:
            self._prime()
        while self._next < start:
            self._take_packet()

    def _prime(self) -> None:
        """Show the decoder the first packet, for what only that one says."""
        context = self._stream.codec_context
        if self._next == 0:
            context.skip_frame = "DEFAULT"
            context.decode(self._take_packet())
            context.flush_buffers()
        self._primed = True

    def _decode(self, numbers: list[int], take: Take, floor: int) -> None:
        """Decode from the next packet to the last one that a wanted frame needs, then empty the decoder.

        Frames shown before ``floor`` (the entry point's time) lean on what came before it: they are passed by.
        """
        index, context = self.index, self._stream.codec_context
        by_packet = {int(index.order[number]): number for number in numbers}
        last, missing, latest, whole = max(by_packet), len(numbers), NO_PTS, index.mode == "start"
        place_before = -1
        skipping, start, came = None, self._next, 0
        self._primed = self._primed or self._next == 0
        while True:
            skip = index.skip_nonref and self._next not in by_packet
            if skip != skipping:
                context.skip_frame, skipping = ("NONREF" if skip else "DEFAULT"), skip
            # Past the last one the decoder is emptied, so that every frame it was given is seen and judged.
            packet = self._take_packet() if self._next <= last else None
            for frame in context.decode(packet):
                ordinal = frame.pts
                if ordinal is None or not 0 <= ordinal < len(index.packet_pts):
                    raise Contradiction("a frame does not name its packet")
                time = int(index.packet_pts[ordinal])
                if time < floor and not whole:
                    continue
                if frame.is_corrupt:
                    raise Contradiction("a frame is marked corrupt")
                if self._hidden[ordinal] and not self._shown[ordinal]:
                    continue
                place = int(self._place[ordinal])
                misplaced = self._lacks(place_before, place) if whole else time <= latest
                if misplaced or place <= place_before:
                    raise Contradiction("frames come in another order than the index says")
                latest, place_before = time, place
                came += 1
                number = by_packet.get(ordinal)
                if number is not None:
                    if missing == len(numbers):
                        self._check_picture(frame)
                    missing -= 1
                    take(number, frame)
            if packet is None:
                break
        context.flush_buffers()
        if missing or (not whole and came != self._expected(start, last, floor, by_packet)):
            raise Contradiction("frames did not come")

    def _check_picture(self, frame: Any) -> None:
        """Check that a frame is as the headers say: turned so, and, where frames are sought, of that size."""
        index = self.index
        if orientation_of(frame) != index.orientation:
            raise Contradiction("the picture is turned in another way")
        size = (frame.width, frame.height) if index.orientation.transpose else (frame.height, frame.width)
        if index.mode == "seek" and size != (index.height, index.width):
            raise Contradiction(f"the picture is {frame.width}x{frame.height}, which its header does not say")

    def _lacks(self, before: int, place: int) -> bool:
        """Tell whether a frame between two that came one after the other was not skipped: it never got its packet."""
        between = self.index.order[before + 1 : place]
        return bool(len(between)) and (not self.index.skip_nonref or bool((between >= self._next).any()))

    def _expected(self, start: int, last: int, floor: int, wanted: dict[int, int]) -> int:
        """Return how many frames packets ``start`` to ``last`` must give: one each, but for those not shown and those
        that the decoder was told to skip. A frame that was lost without a word shifts the numbers of all that
        follow."""
        index = self.index
        pts, run = index.packet_pts[start : last + 1], slice(start, last + 1)
        gives = self._shown[run] & (pts >= floor)
        if index.skip_nonref:
            skipped = index.disposable[run].copy()
            skipped[[ordinal - start for ordinal in wanted]] = False
            gives &= ~skipped
        return int(gives.sum())

    def _count(self, wanted: list[int], take: Take) -> None:
        """Decode everything from the first packet to the last wanted frame, by counting."""
        context, number, left = self._stream.codec_context, 0, set(wanted)
        self._next = 1  # whatever happens, the next read begins again
        for packet in itertools.chain(self._packets, [None]):
            for frame in context.decode(packet):
                if number in left:
                    left.discard(number)
                    take(number, frame)
                number += 1
            if not left:
                return
        raise Contradiction(f"{len(left)} wanted frames did not come")
