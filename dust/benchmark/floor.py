"""The least that frame-exact reading can cost: decoding the packets that must be decoded, and nothing else.

No frame is converted or looked at. What must be decoded follows from the file's index: from the entry point before a
wanted frame up to its packet, without the pictures in between that nothing else refers to.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dust.decode.cache import get_index
from dust.decode.container import discard_others, open_stream, packets
from dust.decode.index import VideoIndex
from dust.utils.errors import DustError


def decode_only(path: str, numbers: Sequence[int]) -> int:
    """Open ``path``, decode what frames ``numbers`` need, close; returns the number of frames that came out."""
    index = get_index(path)
    container, stream = open_stream(path)
    try:
        discard_others(container, stream)
        return _decode(container, stream, index, _groups(index, numbers))
    finally:
        container.close()


def _groups(index: VideoIndex, numbers: Sequence[int]) -> list[tuple[int, set[int], int]]:
    """Return (entry packet, wanted packets, last packet) of each run of frames that one entry point serves."""
    ordinals = [int(index.order[number]) for number in sorted(set(numbers))]
    if index.mode != "seek":
        return [(0, set(ordinals), max(ordinals))]
    by_entry: dict[int, set[int]] = {}
    entries = np.sort(index.entries)
    for ordinal in ordinals:
        candidates = entries[entries <= ordinal]
        shown_before = candidates[index.packet_pts[candidates] <= index.packet_pts[ordinal]]
        by_entry.setdefault(int(shown_before[-1]), set()).add(ordinal)
    return [(entry, wanted, max(wanted)) for entry, wanted in by_entry.items()]


def _decode(container: Any, stream: Any, index: VideoIndex, groups: Sequence[tuple[int, set[int], int]]) -> int:
    context = stream.codec_context
    source = packets(container, stream)
    count, after = 0, 0  # frames that came; the packet after the last one that was decoded
    for entry, wanted, last in groups:
        if entry != after:
            if index.prime and not after:
                context.decode(next(source))
                context.flush_buffers()
            pts = int(index.packet_pts[entry])
            container.seek(pts, stream=stream, backward=True)
            source = _from(pts, packets(container, stream))
        for ordinal, packet in zip(range(entry, last + 1), source, strict=False):
            if index.skip_nonref:
                context.skip_frame = "DEFAULT" if ordinal in wanted else "NONREF"
            count += len(context.decode(packet))
        count += len(context.decode(None))
        context.flush_buffers()
        after = last + 1
    if count < sum(len(wanted) for _, wanted, _ in groups):
        raise DustError(f"{container.name}: decoding alone does not give the wanted frames; leave it out")
    return count


def _from(pts: int, source: Iterator[Any]) -> Iterator[Any]:
    """Return the packets from the one of this time on; a seek may have landed before it."""
    return itertools.dropwhile(lambda packet: packet.pts != pts, source)
