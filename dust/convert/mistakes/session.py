"""What an annotation form says of one recording of a procedure."""

from dataclasses import dataclass, field
from typing import Any

#: What can happen to a step.
DONE, WRONG, UNDONE, OMITTED = EVENTS = ("done", "wrong", "undone", "omitted")


@dataclass(frozen=True, slots=True)
class Event:
    """``step``, by its name, at ``time``: the end of what was annotated, in seconds, or frames of the video.

    ``what`` is one of EVENTS; ``in_order``: whether it was time for it.
    """

    time: float
    step: str
    what: str = DONE
    in_order: bool = True


@dataclass
class Session:
    """One recording.

    Attributes:
        video: its name, without ending.
        procedure: what is being done.
        events: in order of time.
        split: train | val | test; "" where the form does not say.
        group: a person; "" where the form does not say.
        in_frames: the events' times are frames of the video.
    """

    video: str
    procedure: str
    events: list[Event] = field(default_factory=list)
    split: str = ""
    group: str = ""
    in_frames: bool = False


@dataclass
class Sessions:
    """All of a form. ``steps``: procedure -> its steps, in order; ``graphs``: procedure -> entries of its graph
    (:mod:`dust.procedure.graph`), where the form has one; ``notes``: what was left out, and why."""

    items: list[Session] = field(default_factory=list)
    steps: dict[str, list[str]] = field(default_factory=dict)
    graphs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def left_out(self, count: int, what: str) -> None:
        """Note that so many were not taken."""
        if count:
            self.notes.append(f"left out: {count} {what}")
