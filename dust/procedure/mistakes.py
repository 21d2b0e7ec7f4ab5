"""Mistakes in a procedure: parts put on wrongly, steps left out, steps out of order; and alarms while they happen.

Two things raise an alarm. The graph of the procedure (:mod:`dust.procedure.graph`) says of each completed step whether
it may be done now, and at the end what is missing. A model that has outputs for it
(:func:`dust.procedure.windows.output_names`) says of each window whether a part was put on wrongly in it. Every alarm
has a score from 0 to 1 of what the model saw, and those below a threshold are not raised.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dust.procedure.decoders import TemporalDecoder
from dust.procedure.graph import Node, ProcedureGraph
from dust.procedure.metrics import Step
from dust.procedure.table import INSTALL, INSTALL_WRONGLY, REMOVE, Procedure, State
from dust.utils.errors import ConfigError

#: A part is put on wrongly; a step was left out; a step is done too early, too late, or once more.
KINDS = WRONG, OMITTED, ORDER = ("wrong", "omitted", "order")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake, true or suspected: ``frame`` in which it is made (true) or the alarm is raised; the id of its
    ``step``, for ``wrong`` 3 * component + 1; ``score`` 0..1."""

    frame: int
    kind: str
    step: int
    score: float = 1.0


class GraphMonitor:
    """What of a procedure is done, step after step, and whether each was in order.

    A step that the graph has not is in order; it undoes its opposite (a removal the installation).

    Args:
        start: the components' states at the start: what is installed then is done.
    """

    def __init__(self, graph: ProcedureGraph, start: State) -> None:
        self.graph = graph
        self._nodes = {node.step: node for node in graph.nodes}
        at_start = {3 * k + INSTALL for k, state in enumerate(start) if state == 1}
        self.counts = {node.step: node.times * (node.step in at_start) for node in graph.nodes}

    def done(self, step: int) -> bool:
        """Tell whether a step of the graph was done as often as it must be."""
        return self.counts[step] >= self._nodes[step].times

    def missing_before(self, step: int) -> list[tuple[int, ...]]:
        """Return the groups of which one should have been done before ``step``."""
        node = self._nodes[step]
        return [group for group in node.after if not any(self.done(s) or self._nodes[s].optional for s in group)]

    def update(self, step: int) -> bool:
        """Note that ``step`` was completed, and tell whether that was in order."""
        node = self._nodes.get(step)
        if node is None:
            opposite = {INSTALL: step + 2, REMOVE: step - 2}.get(step % 3, -1)
            if opposite in self.counts:
                self.counts[opposite] = max(self.counts[opposite] - 1, 0)
            return True
        again = self.done(step) and not node.repeat
        right = not (self.missing_before(step) or again or self._too_late(node))
        self.counts[step] += 1
        return right

    def _too_late(self, node: Node) -> bool:
        """Tell whether an optional step comes behind one that has waited for nothing else in its place."""
        if not node.optional or self.done(node.step):
            return False
        return any(
            self.counts[other.step] and node.step in group and not any(self.done(step) for step in group)
            for other in self.graph.nodes
            for group in other.after
        )

    def left_out(self) -> list[int]:
        """Return the steps that must still be done."""
        return [node.step for node in self.graph.nodes if not (node.optional or self.done(node.step))]


def true_mistakes(
    steps: Sequence[Step], states: Sequence[tuple[int, State]], graph: ProcedureGraph, start: State
) -> list[Mistake]:
    """Return the mistakes of a labelled recording, in order of time.

    Args:
        steps: (frame, step id) as completed.
        states: (frame, states of the components) from the initial ones on, -1 for one that is put on wrongly.

    A step that was left out is one from the last completed step on, which is when it should have come. One whose
    component is put on wrongly in the end was not left out.
    """
    wrong = [
        (frame, 3 * k + INSTALL_WRONGLY)
        for (_, before), (frame, after) in itertools.pairwise(states)
        for k, (old, new) in enumerate(zip(before, after, strict=True))
        if new == -1 != old
    ]
    monitor, found = GraphMonitor(graph, start), []
    events = sorted([*((f, s) for f, s in steps if s % 3 != INSTALL_WRONGLY), *wrong], key=lambda event: event[0])
    for frame, step in events:
        if step % 3 == INSTALL_WRONGLY:
            found.append(Mistake(frame, WRONG, step))
        elif not monitor.update(step):
            found.append(Mistake(frame, ORDER, step))
    last = max((frame for frame, _ in events), default=0)
    end = states[-1][1] if states else start
    return found + [Mistake(last, OMITTED, s) for s in monitor.left_out() if s % 3 != INSTALL or end[s // 3] != -1]


@dataclass(frozen=True)
class MistakeRule:
    """When an alarm is raised.

    Attributes:
        score: of an alarm, at least; 0..1.
        cum_conf: evidence that a part was put on wrongly, as :class:`TemporalDecoder` gathers it for steps.
        decay, conf: as of the steps.
        wait_s: seconds without a completed step after which what must still be done counts as left out; 0: at the end.
        window: frames that a mistake stays in view.
        phases: interleaved sequences of windows.
    """

    score: float = 0.5
    cum_conf: float = 6.0
    decay: float = 0.75
    conf: float = 0.5
    wait_s: float = 0.0
    window: int = 256
    phases: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1 or self.wait_s < 0:
            raise ConfigError(
                f"KEYSTEP.MISTAKES.SCORE {self.score}, WAIT {self.wait_s}: a score from 0 to 1, and seconds from 0 on"
            )


class _WrongDecoder(TemporalDecoder):
    """Evidence that a component was put on wrongly, from windows that hold it; it may happen again and again."""

    def _step(self, component: int) -> int:
        return 3 * component + INSTALL_WRONGLY


class MistakeWatch:
    """Alarms of one recording, frame by frame; the same for a stream and a whole recording.

    Args:
        graph, procedure: what should be done, and the start.
        rule: when an alarm is raised.
        fps: frames per second, for ``rule.wait_s``.
        silent: no alarm at all below the rule's score; False raises every one, with its score.
    """

    def __init__(self, graph: ProcedureGraph, procedure: Procedure, rule: MistakeRule, fps: float) -> None:
        self.rule, self.fps = rule, fps
        self.monitor = GraphMonitor(graph, procedure.start_state)
        count = procedure.num_components
        wrong = Procedure(frozenset(3 * k + INSTALL_WRONGLY for k in range(count)), (0,) * count)
        self._wrong = _WrongDecoder(
            wrong, window=rule.window, cum_threshold=rule.cum_conf, decay=rule.decay, phases=rule.phases
        )
        self._changed = np.zeros(count)  # the most that any window said
        self._put_on_wrongly = np.zeros(count)  # the same since the last such alarm
        self._windows = False
        self._last = 0
        self._told: set[int] = set()  # left out, and said
        self._wrong_now: set[int] = set()  # installations that were wrong, and are not corrected

    def update(
        self, frame: int, steps: Iterable[Step], probabilities: np.ndarray | None = None, phase: int = 0
    ) -> list[Mistake]:
        """Return the alarms of a frame.

        Args:
            steps: that were recognised in it.
            probabilities: (K,) or (2 K,) of the window that ends in it; None where none does.
        """
        found = []
        if probabilities is not None:
            self._windows = True
            count = len(self._changed)
            self._changed = np.maximum(self._changed, probabilities[:count])
            if len(probabilities) > count:
                found += self._wrongly(frame, np.asarray(probabilities[count:]), phase)
        for _, step in steps:
            self._last = frame
            self._told.discard(step)
            self._wrong_now.discard(step - step % 3)
            missing = self.monitor.missing_before(step) if step in self.monitor.counts else []
            if not self.monitor.update(step):
                found.append(Mistake(frame, ORDER, step, self._score_of_order(step, missing)))
        if self.rule.wait_s and frame - self._last >= self.rule.wait_s * self.fps:
            found += self._left_out(frame)
        raised = [alarm for alarm in found if alarm.score >= self.rule.score]
        self._wrong_now |= {alarm.step - INSTALL_WRONGLY for alarm in raised if alarm.kind == WRONG}
        return raised

    def finish(self, frame: int) -> list[Mistake]:
        """Return the alarms at the end of the recording, whose last frame is ``frame``."""
        return [alarm for alarm in self._left_out(frame) if alarm.score >= self.rule.score]

    def _wrongly(self, frame: int, probabilities: np.ndarray, phase: int) -> list[Mistake]:
        self._put_on_wrongly = np.maximum(self._put_on_wrongly, probabilities)
        digits = (probabilities > self.rule.conf).astype(int)
        found = []
        for _, step in self._wrong.update(frame, digits.tolist(), probabilities.tolist(), phase):
            found.append(Mistake(frame, WRONG, step, float(self._put_on_wrongly[step // 3])))
            self._put_on_wrongly[step // 3] = 0.0
        return found

    def _left_out(self, frame: int) -> list[Mistake]:
        steps = [step for step in self.monitor.left_out() if step not in self._told | self._wrong_now]
        self._told |= set(steps)
        return [Mistake(frame, OMITTED, step, 1.0 - float(self._changed[step // 3])) for step in steps]

    def _score_of_order(self, step: int, missing: Sequence[Sequence[int]]) -> float:
        """Score that this step was seen, and what should have come before was not."""
        own = float(self._changed[step // 3]) if self._windows else 1.0
        unseen = (1.0 - max(float(self._changed[one // 3]) for one in group) for group in missing)
        return min(own, *unseen, 1.0)


def watch_recording(
    watch: MistakeWatch, steps: Sequence[Step], last: Any, probabilities: Any, num_frames: int
) -> list[Mistake]:
    """Return the alarms of a whole recording.

    Args:
        steps: as recognised.
        last: (W,) the frames that windows end with, rising.
        probabilities: (W, K) or (W, 2 K).
    """
    number = {int(frame): i for i, frame in enumerate(last)}
    by_frame: dict[int, list[Step]] = {}
    for step in steps:
        by_frame.setdefault(step[0], []).append(step)
    found: list[Mistake] = []
    for frame in range(num_frames):
        i = number.get(frame)
        window = None if i is None else probabilities[i]
        found += watch.update(frame, by_frame.get(frame, ()), window, 0 if i is None else i % watch.rule.phases)
    return found + watch.finish(max(num_frames - 1, 0))
