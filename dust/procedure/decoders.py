"""From predictions per frame to completed steps of a procedure: the decoders of IndustReal and STORM-PSR.

IndustReal (https://arxiv.org/abs/2310.17323) decodes assembly states that an object detector saw (B1, B2, B3),
STORM-PSR (https://arxiv.org/abs/2510.12385) the outputs of a temporal encoder, or both. Step id = 3 * component + 0
(install), 1 (install wrongly) or 2 (remove). Each decoder is a class that takes one frame at a time and returns the
steps completed in it, so that a stream and a whole recording give the same; the ``decode_*`` functions run a recording.

Frames count from 0. A step is (frame, step id). ``detections`` of a frame are (class, confidence 0..1) in the
detector's order; a window is (its last frame, K digits "component changed in this window", K confidences 0..1).
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dust.procedure.checks import check_detections, check_states, check_window, check_windows
from dust.procedure.metrics import Step
from dust.procedure.table import INSTALL, REMOVE, Procedure, State
from dust.utils.errors import ConfigError, DataError
from dust.utils.numbers import whole

Detections = Sequence[tuple[int, float]]
Window = tuple[int, Sequence[int], Sequence[float]]


def _changes(state: Iterable[int], target: Iterable[int]) -> list[int]:
    """Return ids of the steps that lead from one state to the other, ascending."""
    steps = zip(state, target, strict=True)
    return [3 * k + (INSTALL if new else REMOVE) for k, (old, new) in enumerate(steps) if old != new]


# ---------------------------------------------------------------------------------------------- object states (ASD)


class NaiveDecoder:
    """B1: the state of a frame's most confident detection, if above ``conf_threshold``, is the truth; every difference
    to the state before is a step. Starts from the first state that is detected at all, as published: whatever its
    confidence."""

    def __init__(self, states: Mapping[int, State], *, conf_threshold: float = 0.5) -> None:
        check_states(states)
        self.states = states
        self.conf_threshold = conf_threshold
        self.state: State | None = None

    def update(self, frame: int, detections: Detections) -> list[Step]:
        """Return the steps of one frame."""
        detections = check_detections(frame, detections)
        best_class, confidence = max(detections, key=lambda detection: detection[1], default=(-1, 0.0))
        target = self.states.get(best_class)
        if target is None or (self.state is not None and confidence <= self.conf_threshold):
            return []
        before, self.state = self.state if self.state is not None else target, target
        return [(frame, step) for step in _changes(before, target)]


class _Evidence:
    """Confidence gathered for each step; above ``cum_threshold`` (strictly) the step is emitted if it is expected."""

    def __init__(self, procedure: Procedure, *, cum_threshold: float, decay: float) -> None:
        problems = []
        if not cum_threshold > 0:
            problems.append(f"cumulated confidence {cum_threshold}: must be above 0")
        if not 0 <= decay <= 1:
            problems.append(f"decay {decay}: must be in [0, 1]")
        if problems:
            raise ConfigError("; ".join(problems))
        self.expected = procedure.expected
        self.state = np.array(procedure.start_state)
        self.cum = np.zeros(3 * procedure.num_components)
        self.cum_threshold = cum_threshold
        self.decay = decay

    def settle(self, frame: int, crossed: Sequence[int]) -> list[Step]:
        """Zero the steps that crossed the threshold; the expected ones are completed."""
        emitted = [(frame, int(step)) for step in crossed if step in self.expected]
        self.cum[..., list(crossed)] = 0.0
        for _, step in emitted:
            self.state[step // 3] = step % 3 == INSTALL
        return emitted

    def crossed(self, cum: np.ndarray) -> list[int]:
        return np.flatnonzero(cum > self.cum_threshold).tolist()


class EvidenceDecoder(_Evidence):
    """B3, and B2 without a ``procedure``: a frame's FIRST detection adds its confidence to every step that would lead
    to its state; all other steps lose, times ``decay``. B3 emits the steps expected of the procedure and starts from
    its state; B2 emits any step and starts from the first detection."""

    def __init__(
        self,
        states: Mapping[int, State],
        procedure: Procedure | None = None,
        *,
        cum_threshold: float = 8.0,
        decay: float = 0.75,
    ) -> None:
        self.states = states
        self.started = procedure is not None
        length = check_states(states)
        if procedure is None:
            procedure = Procedure(frozenset(range(3 * length)), (0,) * length)
        elif procedure.num_components != length:
            raise DataError(f"states have {length} components, the procedure has {procedure.num_components}")
        super().__init__(procedure, cum_threshold=cum_threshold, decay=decay)

    def accumulate(self, frame: int, detections: Detections) -> None:
        """Add the evidence of one frame; an empty one only decays."""
        first_class, confidence = next(iter(check_detections(frame, detections)), (-1, 0.0))
        target = self.states.get(first_class)
        if target is not None and not self.started:
            self.state[:], self.started = target, True
        suggested = [] if target is None else _changes(self.state, target)
        others = np.ones(len(self.cum), dtype=bool)
        others[suggested] = False
        self.cum[suggested] += confidence
        self.cum[others] *= self.decay

    def update(self, frame: int, detections: Detections) -> list[Step]:
        """Return the steps of one frame."""
        self.accumulate(frame, detections)
        return self.settle(frame, self.crossed(self.cum))


# ------------------------------------------------------------------------------------------------- temporal stream


class TemporalDecoder(_Evidence):
    """Steps from windows that say which components changed in them.

    A positive digit of component k adds its confidence to installing it, or removing it where it is installed. The
    change stays in view for ``window`` frames after its emission, so the digits of recent emissions are ignored. A
    window without positive digits takes ``decay`` off the steps that gained nothing since the last such window.

    With ``phases`` > 1 each of the interleaved sequences of windows has its own evidence; state and emissions are
    common, so that the first phase to cross emits a step and the others are silent about it while it is in view.

    Args:
        procedure: expected steps and start state.
        window: frames from a window's first to its last, span (N - 1) * (skip + 1), or N where nothing is skipped.
    """

    def __init__(
        self,
        procedure: Procedure,
        *,
        window: int,
        cum_threshold: float = 6.0,
        decay: float = 0.75,
        phases: int = 1,
    ) -> None:
        super().__init__(procedure, cum_threshold=cum_threshold, decay=decay)
        if window < 1 or phases < 1:
            raise ConfigError(f"a decoder with window {window} and {phases} phases: both must be at least 1")
        self.window = window
        self.cum = np.zeros((phases, 3 * procedure.num_components))
        self.gained: list[set[int]] = [set() for _ in range(phases)]  # since the phase's last empty window
        self.emissions: list[tuple[int, np.ndarray]] = []  # (frame, digits zeroed in it), only those still in reach

    def accumulate(self, frame: int, digits: Sequence[int], confidences: Sequence[float], phase: int = 0) -> None:
        """Add the evidence of the window that ends in ``frame``."""
        changed, sure = check_window(frame, digits, confidences, len(self.state))
        if not 0 <= phase < len(self.cum):
            raise ConfigError(f"phase {phase}: this decoder has {len(self.cum)} phases, which count from 0")
        cum, gained = self.cum[phase], self.gained[phase]
        positive = np.flatnonzero(changed).tolist()
        if not positive:
            others = np.ones(len(cum), dtype=bool)
            others[list(gained)] = False
            cum[others] *= self.decay
            gained.clear()
            return
        blocked = self._in_view(frame)
        for k in positive:
            if not blocked[k]:
                step = self._step(k)
                cum[step] += sure[k]
                gained.add(step)

    def _step(self, component: int) -> int:
        """Return what a change of this component is."""
        return 3 * component + (REMOVE if self.state[component] else INSTALL)

    def _in_view(self, frame: int) -> np.ndarray:
        """Return digits of the last emission, XOR those of the emissions at most ``window`` frames before it."""
        blocked = np.zeros(len(self.state), dtype=bool)
        if self.emissions and frame - self.emissions[-1][0] < self.window:
            for _, digits in self.emissions:
                blocked ^= digits
        return blocked

    def settle(self, frame: int, crossed: Sequence[int]) -> list[Step]:
        emitted = super().settle(frame, crossed)
        if emitted:
            digits = np.zeros(len(self.state), dtype=bool)
            digits[[step // 3 for step in crossed]] = True
            self.emissions = [(t, old) for t, old in self.emissions if frame - t <= self.window]
            self.emissions.append((frame, digits))
        return emitted

    def update(self, frame: int, digits: Sequence[int], confidences: Sequence[float], phase: int = 0) -> list[Step]:
        """Return the steps of the window that ends in ``frame``."""
        self.accumulate(frame, digits, confidences, phase)
        return self.settle(frame, self.crossed(self.cum[phase]))


class NaiveTemporalDecoder:
    """The temporal stream without evidence: a positive digit with confidence of ``conf_threshold`` or more toggles its
    component, unless the last window that toggled anything had that digit too, at most ``window`` frames ago. A step
    is emitted once; again only where the step two ids above it (install: its removal) was emitted."""

    def __init__(self, procedure: Procedure, *, window: int, conf_threshold: float = 0.5) -> None:
        self.state = list(procedure.start_state)
        self.window = window
        self.conf_threshold = conf_threshold
        self.last: tuple[int, Sequence[int]] | None = None
        self.emitted: set[int] = set()

    def update(self, frame: int, digits: Sequence[int], confidences: Sequence[float]) -> list[Step]:
        """Return the steps of the window that ends in ``frame``."""
        digits, confidences = (one.tolist() for one in check_window(frame, digits, confidences, len(self.state)))
        in_view: Sequence[int] = [0] * len(digits)
        if self.last is not None and frame - self.last[0] <= self.window:
            in_view = self.last[1]
        steps, toggled = [], False
        for k, (digit, confidence) in enumerate(zip(digits, confidences, strict=True)):
            if not digit or in_view[k] or confidence < self.conf_threshold:
                continue
            self.state[k], toggled = 1 - self.state[k], True
            step = 3 * k + (INSTALL if self.state[k] else REMOVE)
            if step not in self.emitted or step + 2 in self.emitted:
                steps.append((frame, step))
                self.emitted.add(step)
        if toggled:
            self.last = (frame, digits)
        return steps


# ----------------------------------------------------------------------------------------------------- dual stream


class DualStreamDecoder:
    """Object states and temporal windows fused: a step is emitted where ``(1 - weight) * evidence of the objects +
    weight * evidence of the windows`` crosses ``cum_threshold``. Both streams know one state and one list of emissions.

    Weight 0 is B3, weight 1 the temporal decoder, each at this threshold. This is what STORM-PSR describes;
    its published program, :func:`decode_dual_published`, adds the two without weights.

    Arguments as of :class:`EvidenceDecoder` and :class:`TemporalDecoder`; ``weight`` in 0..1.
    """

    def __init__(
        self,
        states: Mapping[int, State],
        procedure: Procedure,
        *,
        window: int,
        weight: float = 0.5,
        cum_threshold: float = 6.0,
        decay: float = 0.75,
        phases: int = 1,
    ) -> None:
        if not 0 <= weight <= 1:
            raise ConfigError(f"weight of the temporal stream {weight}: must be in [0, 1]")
        self.weight = weight
        self.objects = EvidenceDecoder(states, procedure, cum_threshold=cum_threshold, decay=decay)
        self.temporal = TemporalDecoder(
            procedure, window=window, cum_threshold=cum_threshold, decay=decay, phases=phases
        )
        self.objects.state = self.temporal.state
        self.phase = 0

    def update(
        self,
        frame: int,
        detections: Detections,
        digits: Sequence[int] | None = None,
        confidences: Sequence[float] = (),
        phase: int = 0,
    ) -> list[Step]:
        """Return the steps of one frame; ``digits`` None where no window ends in it."""
        self.objects.accumulate(frame, detections)
        if digits is not None:
            self.temporal.accumulate(frame, digits, confidences, phase)
            self.phase = phase
        fused = (1 - self.weight) * self.objects.cum + self.weight * self.temporal.cum[self.phase]
        crossed = self.temporal.crossed(fused)
        self.objects.cum[crossed] = 0.0
        return self.temporal.settle(frame, crossed)


def merge_published(objects: Sequence[Step], temporal: Sequence[Step]) -> list[Step]:
    """Merge the two streams' steps as STORM-PSR does: the temporal ones are dropped in frames in which the object
    stream emits, and of a repeated step only the first is kept, unless its component is installed before it is
    removed."""
    frames = {frame for frame, _ in objects}
    steps = sorted([*objects, *(step for step in temporal if step[0] not in frames)], key=lambda step: step[0])
    first: dict[int, int] = {}
    for frame, step in steps:
        first.setdefault(step, frame)
    merged, seen = [], set()
    for frame, step in steps:
        install, remove = first.get(step - step % 3 + INSTALL), first.get(step - step % 3 + REMOVE)
        if step not in seen or (install is not None and remove is not None and install < remove):
            merged.append((frame, step))
        seen.add(step)
    return merged


# ------------------------------------------------------------------------------------------------ whole recordings


def _run(decoder: NaiveDecoder | EvidenceDecoder, detections: Iterable[Detections]) -> list[Step]:
    return [step for frame, seen in enumerate(detections) for step in decoder.update(frame, seen)]


def decode_b1(
    detections: Sequence[Detections], states: Mapping[int, State], *, conf_threshold: float = 0.5
) -> list[Step]:
    """Run B1 (:class:`NaiveDecoder`) over a recording; ``detections[f]`` are those of frame f, ``states`` from
    :func:`state_vectors`."""
    return _run(NaiveDecoder(states, conf_threshold=conf_threshold), detections)


def decode_b2(
    detections: Sequence[Detections], states: Mapping[int, State], *, cum_threshold: float = 8.0, decay: float = 0.75
) -> list[Step]:
    """Run B2 (:class:`EvidenceDecoder` without a procedure) over a recording."""
    return _run(EvidenceDecoder(states, cum_threshold=cum_threshold, decay=decay), detections)


def decode_b3(
    detections: Sequence[Detections],
    states: Mapping[int, State],
    procedure: Procedure,
    *,
    cum_threshold: float = 8.0,
    decay: float = 0.75,
) -> list[Step]:
    """Run B3 (:class:`EvidenceDecoder` with a procedure) over a recording."""
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
    """Run :class:`TemporalDecoder` over a recording's windows, in order; the phases take turns."""
    check_windows(windows)
    decoder = TemporalDecoder(procedure, window=window, cum_threshold=cum_threshold, decay=decay, phases=phases)
    return [step for i, each in enumerate(windows) for step in decoder.update(*each, phase=i % phases)]


def decode_temporal_naive(
    windows: Sequence[Window], procedure: Procedure, *, window: int, conf_threshold: float = 0.5
) -> list[Step]:
    """Run :class:`NaiveTemporalDecoder` over a recording's windows, in order."""
    check_windows(windows)
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
    """Run :class:`DualStreamDecoder` over a recording: ``detections[f]`` of frame f, and windows in order."""
    decoder = DualStreamDecoder(
        states, procedure, window=window, weight=weight, cum_threshold=cum_threshold, decay=decay, phases=phases
    )
    ending = _by_last_frame(windows, len(detections))
    steps = []
    for frame, seen in enumerate(detections):
        i, digits, confidences = ending.get(frame, (0, None, ()))
        steps += decoder.update(frame, seen, digits, confidences, phase=i % phases)
    return steps


def decode_dual_published(
    detections: Sequence[Detections],
    windows: Sequence[Window],
    states: Mapping[int, State],
    procedure: Procedure,
    *,
    window: int,
    weight: float = 0.5,
    cum_threshold: float = 6.0,
    decay: float = 0.75,
) -> tuple[list[Step], list[Step], list[Step]]:
    """Return what STORM-PSR's program does: (steps of the object stream, of the temporal stream, merged).

    The weight counts only in frame 0. From then on both decoders work on one vector of evidence, each with a state of
    its own. For comparison with published numbers; use :class:`DualStreamDecoder`.
    """
    objects = EvidenceDecoder(states, procedure, cum_threshold=cum_threshold, decay=decay)
    temporal = TemporalDecoder(procedure, window=window, cum_threshold=cum_threshold, decay=decay)
    ending = _by_last_frame(windows, len(detections))
    object_steps, temporal_steps = [], []
    for frame, seen in enumerate(detections):
        object_steps += objects.update(frame, seen)
        if frame in ending:
            temporal_steps += temporal.update(frame, *ending[frame][1:])
        if frame == 0:
            objects.cum = (1 - weight) * objects.cum + weight * temporal.cum[0]
            temporal.cum = objects.cum[None]  # a view: one storage
    return object_steps, temporal_steps, merge_published(object_steps, temporal_steps)


def _by_last_frame(windows: Sequence[Window], num_frames: int) -> dict[int, tuple[int, Sequence[int], Sequence[float]]]:
    """Map last frame -> (number of the window, digits, confidences)."""
    check_windows(windows)
    late = [frame for frame, _, _ in windows if not 0 <= whole("a window's last frame", frame) < num_frames]
    if late:
        raise DataError(
            f"a window ends in frame {late[0]}, but there are detections of {num_frames} frames: "
            f"both must be of the same recording"
        )
    return {frame: (i, digits, confidences) for i, (frame, digits, confidences) in enumerate(windows)}
