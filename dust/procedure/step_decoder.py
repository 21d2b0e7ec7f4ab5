"""One way to run any of the decoders of :mod:`dust.procedure.decoders`, on a stream or on a whole recording."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dust.procedure.decoders import (
    Detections,
    DualStreamDecoder,
    EvidenceDecoder,
    NaiveDecoder,
    NaiveTemporalDecoder,
    TemporalDecoder,
    decode_dual_published,
)
from dust.procedure.metrics import Step
from dust.procedure.table import Procedure, State
from dust.utils.errors import ConfigError, DataError
from dust.utils.numbers import as_numbers, whole

#: ``update(frame, detections, digits, confidences, phase) -> steps``; digits are None where no window ends.
Update = Callable[[int, Detections, Any, Any, int], list[Step]]

OBJECTS = ("b1", "b2", "b3", "dual", "dual_published")  # modes that need object states
WINDOWS = ("temporal", "temporal_naive", "dual", "dual_published")  # modes that need windows
MODES = tuple(dict.fromkeys((*WINDOWS, *OBJECTS)))
CUM_CONF = {"b2": 8.0, "b3": 8.0}  # as published; 6 otherwise


@dataclass(frozen=True)
class StepDecoder:
    """Which decoder, and its settings.

    Attributes:
        mode: one of MODES.
        window: frames that a change stays in view, see :class:`dust.procedure.decoders.TemporalDecoder`.
        cum_conf: evidence that completes a step; 0 = as published, 8 for b2 and b3, 6 otherwise.
        decay: of evidence that was not renewed, 0..1.
        conf: probability above which a digit counts, and a detection in b1.
        weight: of the windows in ``dual``, 0..1.
        phases: interleaved sequences of windows; window i is of phase ``i % phases``.
    """

    mode: str = "temporal"
    window: int = 256
    cum_conf: float = 0.0
    decay: float = 0.75
    conf: float = 0.5
    weight: float = 0.5
    phases: int = 1

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"KEYSTEP.DECODE.MODE {self.mode!r}: choose one of {', '.join(MODES)}")
        if self.mode == "dual_published" and self.phases > 1:
            raise ConfigError("KEYSTEP.DECODE.MODE dual_published knows KEYSTEP.INFER.PHASES first only")

    @property
    def threshold(self) -> float:
        return self.cum_conf or CUM_CONF.get(self.mode, 6.0)

    def start(self, procedure: Procedure, states: Mapping[int, State]) -> Update:
        """Return a decoder at the beginning of a recording, to be called with every frame in order."""
        if self.mode in OBJECTS and not states:
            raise DataError(f"KEYSTEP.DECODE.MODE {self.mode} needs the names of the object detector's states")
        evidence: dict[str, Any] = {"cum_threshold": self.threshold, "decay": self.decay}
        if self.mode == "b1":
            naive = NaiveDecoder(states, conf_threshold=self.conf)
            return lambda frame, seen, *_: naive.update(frame, seen)
        if self.mode in ("b2", "b3"):
            objects = EvidenceDecoder(states, procedure if self.mode == "b3" else None, **evidence)
            return lambda frame, seen, *_: objects.update(frame, seen)
        if self.mode == "temporal":
            temporal = TemporalDecoder(procedure, window=self.window, phases=self.phases, **evidence)
            return lambda frame, _, digits, sure, phase: (
                [] if digits is None else temporal.update(frame, digits, sure, phase)
            )
        if self.mode == "temporal_naive":
            simple = NaiveTemporalDecoder(procedure, window=self.window, conf_threshold=self.conf)
            return lambda frame, _, digits, sure, phase: [] if digits is None else simple.update(frame, digits, sure)
        if self.mode == "dual":
            options = {**evidence, "window": self.window, "weight": self.weight, "phases": self.phases}
            return DualStreamDecoder(states, procedure, **options).update
        raise ConfigError(
            "KEYSTEP.DECODE.MODE dual_published looks at a whole recording at its end, so it cannot be streamed; "
            "choose dual"
        )

    def digits(self, probabilities: np.ndarray) -> np.ndarray:
        """Map (..., K) in 0..1 -> zeros and ones, "this component changed". NaN: DataError."""
        probabilities = as_numbers("probabilities", probabilities)
        if not np.isfinite(probabilities).all():
            raise DataError("probabilities are not finite: the model's weights or the recording are at fault")
        return (probabilities > self.conf).astype(int)

    def decode(
        self,
        procedure: Procedure,
        states: Mapping[int, State],
        detections: Sequence[Detections],
        last: np.ndarray,
        probabilities: np.ndarray,
    ) -> list[Step]:
        """Return the steps of a whole recording.

        Args:
            detections: of every frame; lists may be empty.
            last: (W,) rising, the frame that each window ends with.
            probabilities: (W, K).

        Raises:
            DataError: NaN, windows and probabilities that are not as many, windows that end in no frame.
        """
        probabilities, last = as_numbers("probabilities", probabilities), as_numbers("last", last, ndim=1)
        digits = self.digits(probabilities)
        if len(last) != len(probabilities):
            raise DataError(f"{len(last)} windows and {len(probabilities)} rows of probabilities")
        ends = [whole("a window's last frame", frame) for frame in last]
        if ends and not (ends == sorted(set(ends)) and ends[0] >= 0 and ends[-1] < len(detections)):
            raise DataError(f"windows end in frames {ends}, which do not rise within the {len(detections)} frames")
        if self.mode == "dual_published":
            windows = [(int(t), d, p) for t, d, p in zip(last, digits, probabilities, strict=True)]
            options: dict[str, Any] = {"cum_threshold": self.threshold, "decay": self.decay, "window": self.window}
            return decode_dual_published(detections, windows, states, procedure, weight=self.weight, **options)[2]
        update, steps = self.start(procedure, states), []
        number = {int(frame): i for i, frame in enumerate(last)}
        for frame, seen in enumerate(detections):
            i = number.get(frame)
            if i is None:
                steps += update(frame, seen, None, (), 0)
            else:
                steps += update(frame, seen, digits[i], probabilities[i], i % self.phases)
        return steps
