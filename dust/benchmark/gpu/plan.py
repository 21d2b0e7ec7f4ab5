"""The stages of ``dust benchmark gpu``, what a stage reports, and how long each may take."""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dust.utils.errors import DustError

#: Seconds of a part.
BUDGET_S = 250


@dataclass(frozen=True)
class Stage:
    """One process of the script.

    Attributes:
        name: how the table, ``--stages`` and the log files name it.
        part: 1 (is it right, and how fast is the main model), 2 (where the time goes) or 3 (what each key gives).
        seconds: its share of :data:`BUDGET_S`; what earlier stages leave over is shared out.
        function: ``module:function`` below ``dust.benchmark.gpu``; called with a :class:`Bench`, it yields rows.
        does: what it measures.
    """

    name: str
    part: int
    seconds: int
    function: str
    does: str


STAGES = (
    Stage("machine", 1, 20, "speed:machine_stage", "versions; matrix products, copies on the device and from the CPU"),
    Stage("parity", 1, 45, "right:parity", "small models, float32 and bfloat16: outputs and gradients beside a CPU's"),
    Stage("determinism", 1, 35, "right:determinism", "TRAIN.DETERMINISTIC: three steps twice, no bit may differ"),
    Stage("resume", 1, 35, "loop:resume", "a stopped training continues to the same bits, by both forms of checkpoint"),
    Stage("step", 1, 65, "speed:step", "TimeSformer-B 8x224, 32 clips, bfloat16, beside plain attention in float16"),
    Stage("compiled", 1, 50, "speed:compiled", "the same step by torch.compile"),
    Stage("models", 2, 60, "speed:models", "1 and 8 clips, float16, TF32; VideoMAE-B, VideoSwin-T, CAST-B"),
    Stage("attention", 2, 20, "right:attention", "kernels of attention by shape: choice, time, error against float64"),
    Stage("patches", 2, 10, "speed:patches", "embedding of patches: convolution beside a product of matrices"),
    Stage("profile", 2, 35, "speed:profile", "the slowest kernels, how long the device waits; a trace in the folder"),
    Stage("loop", 2, 65, "loop:loop", "the training loop beside the bare step; synchronisations; memory; saving"),
    Stage("feed", 2, 60, "loop:feed", "clips that the loader decodes in a second, on the cores of this machine"),
    Stage("keys", 3, 90, "keys:keys", "the step with each key that chooses kernels; augmentation on the device"),
    Stage("several", 3, 80, "keys:several", "one process that trains as one of several: DDP, FSDP; NCCL, gloo"),
    Stage("answers", 3, 80, "keys:answers", "streams, a test of many views, TSTL's experts"),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One figure of a stage. ``limit``: ``measured`` is to be at most or at least that; both None: it is not judged."""

    what: str
    measured: float | str | None
    unit: str = ""
    expected: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def limit(self) -> str:
        limits = (("<=", self.at_most), (">=", self.at_least))
        return " ".join(f"{sign} {value:g}" for sign, value in limits if value is not None)

    @property
    def verdict(self) -> str:
        """ok, FAILED, or "" where nothing was asked for. A figure that is NaN, or missing, keeps no limit."""
        if not self.limit:
            return ""
        if not isinstance(self.measured, (int, float)):
            return "FAILED"
        low = self.at_least is None or self.measured >= self.at_least
        high = self.at_most is None or self.measured <= self.at_most
        return "ok" if low and high else "FAILED"

    def as_dict(self) -> dict[str, Any]:
        known = not isinstance(self.measured, float) or math.isfinite(self.measured)
        measured = self.measured if known else str(self.measured)  # JSON has no NaN
        return asdict(self) | {"measured": measured, "limit": self.limit, "verdict": self.verdict}


@dataclass(frozen=True)
class Bench:
    """What a stage is given.

    Attributes:
        device: cuda | cpu.
        full: sizes for a GPU, and figures of speed are judged; else tiny sizes, which only show that the stage runs.
        folder: for traces.
        ends: ``time.monotonic()`` at which the stage is ended.
    """

    device: str
    full: bool
    folder: Path
    ends: float

    def left(self) -> float:
        """Return the seconds until the stage is ended."""
        return self.ends - time.monotonic()

    def speed(self, what: str, measured: float | str | None, unit: str, expected: str = "", **limits: float) -> Row:
        """Return a figure whose limits count at full size only."""
        return Row(what, measured, unit, expected, **(limits if self.full else {}))


def chosen(part: int = 0, names: str | None = None) -> list[Stage]:
    """Return the stages of a part (0: all), or those that ``names`` lists with commas."""
    if names is None:
        return [stage for stage in STAGES if part in (0, stage.part)]
    wanted, known = names.split(","), {stage.name: stage for stage in STAGES}
    wrong = [name for name in wanted if name not in known]
    if wrong:
        raise DustError(f"--stages {','.join(wrong)}: the stages are {', '.join(known)}")
    return [stage for stage in STAGES if stage.name in wanted]


def deadlines(stages: list[Stage], budget: float) -> dict[str, float]:
    """Return seconds of each stage if each takes all that it may."""
    total = sum(stage.seconds for stage in stages)
    return {stage.name: budget * stage.seconds / total for stage in stages}
