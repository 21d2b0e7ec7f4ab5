"""The least that frame-exact reading can cost: decoding the packets that must be decoded, and nothing else.

No frame is converted or looked at. What must be decoded follows from the file's index: from the entry point before a
wanted frame up to its packet, without the pictures in between that nothing else refers to.
"""

from collections.abc import Sequence

import numpy as np

from dust.datasets.index_cache import get_index
from dust.datasets.video_index import VideoIndex, discard_others, open_stream, packets


def decode_only(path: str, numbers: Sequence[int]) -> int:
    """Open ``path``, decode what frames ``numbers`` need, close; returns the number of frames that came out."""
    index = get_index(path)
    container, stream = open_stream(path)
    try:
        discard_others(container, stream)
        return sum(_decode(container, stream, index, *group) for group in _groups(index, numbers))
    finally:
        container.close()


def _groups(index: VideoIndex, numbers: Sequence[int]) -> list[tuple[int, set[int], int]]:
    """(entry packet, wanted packets, last packet) of each run of frames that one entry point serves."""
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


def _decode(container, stream, index: VideoIndex, entry: int, wanted: set[int], last: int) -> int:
    context = stream.codec_context
    count = 0
    source = packets(container, stream)
    if entry:
        if index.prime:
            context.decode(next(source))
            context.flush_buffers()
        place = int(np.flatnonzero(index.entries == entry)[0])
        stamp = index.entry_dts[place] if index.seek_by_dts else index.packet_pts[entry]
        container.seek(int(stamp), stream=stream, backward=True)
        source = packets(container, stream)
    begun, ordinal = not entry, entry
    for packet in source:
        if not begun and packet.pts != index.packet_pts[entry]:
            continue
        begun = True
        if index.skip_nonref:
            context.skip_frame = "DEFAULT" if ordinal in wanted else "NONREF"
        count += len(context.decode(packet))
        if ordinal == last:
            break
        ordinal += 1
    count += len(context.decode(None))
    context.flush_buffers()
    return count
