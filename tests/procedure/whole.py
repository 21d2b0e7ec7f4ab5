"""The decoders over a whole recording, as the golden cases give them."""

from collections.abc import Iterable, Mapping, Sequence

from dust.procedure.decoders import (
    Detections,
    DualStreamDecoder,
    EvidenceDecoder,
    NaiveDecoder,
    NaiveTemporalDecoder,
    Step,
    TemporalDecoder,
    Window,
    _by_last_frame,
)
from dust.procedure.table import Procedure, State


def _run(decoder: NaiveDecoder | EvidenceDecoder, detections: Iterable[Detections]) -> list[Step]:
    return [step for frame, seen in enumerate(detections) for step in decoder.update(frame, seen)]


def decode_b1(
    detections: Sequence[Detections], states: Mapping[int, State], *, conf_threshold: float = 0.5
) -> list[Step]:
    """B1 (:class:`NaiveDecoder`) over a recording; ``detections[f]`` are those of frame f, ``states`` from
    :func:`state_vectors`."""
    return _run(NaiveDecoder(states, conf_threshold=conf_threshold), detections)


def decode_b2(
    detections: Sequence[Detections], states: Mapping[int, State], *, cum_threshold: float = 8.0, decay: float = 0.75
) -> list[Step]:
    """B2 (:class:`EvidenceDecoder` without a procedure) over a recording."""
    return _run(EvidenceDecoder(states, cum_threshold=cum_threshold, decay=decay), detections)


def decode_b3(
    detections: Sequence[Detections],
    states: Mapping[int, State],
    procedure: Procedure,
    *,
    cum_threshold: float = 8.0,
    decay: float = 0.75,
) -> list[Step]:
    """B3 (:class:`EvidenceDecoder` with a procedure) over a recording."""
    return _run(EvidenceDecoder(states, procedure, cum_threshold=cum_threshold, decay=decay), detections)


def decode_temporal(
    windows: Sequence[Window],
    procedure: Procedure,
    *,
    window: int,
    cum_threshold: float = 6.0,
    decay: float = 0.75,
    phases: int = 1,
) -> list[Step]:
    """:class:`TemporalDecoder` over a recording's windows, in order; the phases take turns."""
    decoder = TemporalDecoder(procedure, window=window, cum_threshold=cum_threshold, decay=decay, phases=phases)
    return [step for i, each in enumerate(windows) for step in decoder.update(*each, phase=i % phases)]


def decode_temporal_naive(
    windows: Sequence[Window], procedure: Procedure, *, window: int, conf_threshold: float = 0.5
) -> list[Step]:
    """:class:`NaiveTemporalDecoder` over a recording's windows, in order."""
    decoder = NaiveTemporalDecoder(procedure, window=window, conf_threshold=conf_threshold)
    return [step for each in windows for step in decoder.update(*each)]


def decode_dual(
    detections: Sequence[Detections],
    windows: Sequence[Window],
    states: Mapping[int, State],
    procedure: Procedure,
    *,
    window: int,
    weight: float = 0.5,
    cum_threshold: float = 6.0,
    decay: float = 0.75,
    phases: int = 1,
) -> list[Step]:
    """:class:`DualStreamDecoder` over a recording: ``detections[f]`` of frame f, and windows in order."""
    decoder = DualStreamDecoder(
        states, procedure, window=window, weight=weight, cum_threshold=cum_threshold, decay=decay, phases=phases
    )
    ending = _by_last_frame(windows, len(detections))
    steps = []
    for frame, seen in enumerate(detections):
        i, digits, confidences = ending.get(frame, (0, None, ()))
        steps += decoder.update(frame, seen, digits, confidences, phase=i % phases)
    return steps
