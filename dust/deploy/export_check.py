"""Whether an exported model says what the original says, and how fast each library runs it."""

import math
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dust.datasets.sample import BadClip
from dust.deploy.exported import logits_of_outputs
from dust.deploy.predictor import loop_around
from dust.tasks.task import Outputs
from dust.utils.errors import DataError
from dust.utils.text import counted

#: Logits agree where they differ by no more than ABSOLUTE + RELATIVE x |logit|.
ABSOLUTE = RELATIVE = 1e-4
#: Views that are kept to compare and time other libraries with.
KEPT = 8
SECONDS, RUNS = 2.0, 20  # a timing ends after the first of these, but not before three runs

Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass
class Agreement:
    """How one model's logits differ from another's, clip by clip.

    Attributes:
        clips, views: compared; ``unreadable``: clips that could not be.
        worst: the largest difference of a logit.
        excess: the largest difference over what is allowed; at most 1 where they agree.
        where: the clip of that.
        other_top1: clips with another first answer, of any question.
    """

    clips: int = 0
    views: int = 0
    unreadable: int = 0
    worst: float = 0.0
    excess: float = 0.0
    where: str = ""
    other_top1: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every logit and every first answer agrees."""
        return self.clips > 0 and self.excess <= 1 and not self.other_top1

    @property
    def top1(self) -> float:
        """Percent of clips with the same first answer."""
        return 100.0 * (1 - len(self.other_top1) / self.clips) if self.clips else math.nan

    def add(self, name: str, ours: Outputs, theirs: Outputs) -> None:
        """Compare the logits (V, K) of a clip's views, or dicts of them."""
        mine, others = ({"": one} if isinstance(one, Tensor) else one for one in (ours, theirs))
        for head, a in mine.items():
            b = others[head]
            difference = (a.double() - b.double()).abs()
            excess = (difference / (ABSOLUTE + RELATIVE * a.double().abs())).nan_to_num(nan=math.inf).max().item()
            self.worst = max(self.worst, difference.nan_to_num(nan=math.inf).max().item())
            if excess > self.excess:
                self.excess, self.where = excess, name
            if a.mean(dim=0).argmax() != b.mean(dim=0).argmax() and name not in self.other_top1:
                self.other_top1.append(name)
        self.clips += 1
        self.views += len(a)

    def to_json(self) -> dict[str, Any]:
        return {
            "clips": self.clips,
            "views": self.views,
            "unreadable": self.unreadable,
            "largest_difference": self.worst,
            "same_top1_percent": self.top1,
        }

    def __str__(self) -> str:
        return describe(self.to_json())


def describe(agreement: Mapping[str, Any]) -> str:
    """Return what :meth:`Agreement.to_json` holds, in words."""
    return (
        f"{counted(agreement['clips'], 'clip')} ({counted(agreement['views'], 'view')}): largest difference of a logit "
        f"{agreement['largest_difference']:.2g}, the same first answer for {agreement['same_top1_percent']:.4g} %"
    )


def compare(
    reference: Run, other: Run, items: Iterable[Any], *, micro_batch: int
) -> tuple[Agreement, dict[str, Tensor]]:
    """Run two models over evaluation items.

    Returns:
        How they agree, and the inputs of the first views, (at most 8, ...).

    Raises:
        DataError: no clip could be read.
    """
    agreement = Agreement()
    kept: dict[str, Tensor] = {}

    def both(**inputs: Tensor) -> Outputs:
        if not kept:
            kept.update({name: value[:KEPT].clone() for name, value in inputs.items()})
        found: dict[str, Tensor] = {}
        for place, run in enumerate((reference, other)):
            said = logits_of_outputs(run(inputs))
            named = said if isinstance(said, dict) else {"": said}
            found |= {f"{place}{name}": value for name, value in named.items()}
        return found

    def count(bad: BadClip) -> None:
        agreement.unreadable += 1

    loop = loop_around(both, micro_batch=micro_batch)
    loop.on_bad = count
    for record in loop(items):
        ours, theirs = (
            {name[1:]: value for name, value in record["outputs"].items() if name[0] == place} for place in "01"
        )
        agreement.add(str(record["id"]), ours, theirs)
    if not agreement.clips:
        raise DataError(
            f"none of {agreement.unreadable} clips could be read, so nobody can say whether the exported model agrees: "
            "name clips with --check"
        )
    return agreement, kept


# --- sizes and times --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        runtime: what ran the model.
        megabytes: of its file or weights, 10^6 bytes.
        ms, cpu_ms: of one forward pass of one view, median and mean; ``cpu_ms`` counts the time of all threads.
        difference: the largest of a logit, on the views that were kept.
        note: why it was not measured; "" otherwise.
    """

    runtime: str
    megabytes: float = math.nan
    ms: float = math.nan
    cpu_ms: float = math.nan
    difference: float = math.nan
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value not in ("",) and value == value}


def measure(
    runtime: str, run: Run, inputs: Mapping[str, Tensor], expected: Outputs, *, megabytes: float = math.nan
) -> Row:
    """Time forward passes of one view, and compare the outputs of all ``inputs`` with ``expected`` logits."""
    agreement = Agreement()
    agreement.add("", expected, logits_of_outputs(run(inputs)))
    one = {name: value[:1].contiguous() for name, value in inputs.items()}
    run(one)
    times: list[float] = []
    begin, cpu = time.perf_counter(), time.process_time()
    while len(times) < 3 or (len(times) < RUNS and time.perf_counter() - begin < SECONDS):
        start = time.perf_counter()
        run(one)
        times.append(time.perf_counter() - start)
    spent = (time.process_time() - cpu) / len(times)
    return Row(runtime, megabytes, 1e3 * statistics.median(times), 1e3 * spent, agreement.worst)


def measure_compiled(graph: nn.Module, inputs: Mapping[str, Tensor], expected: Outputs) -> Row:
    """Return the row of torch.compile, which needs a C++ compiler."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        return Row("compiled", note="torch.compile needs a C++ compiler")
    compiled = torch.compile(graph)
    try:
        return measure("compiled", in_torch(compiled), inputs, expected)
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        return Row("compiled", note=str(error).strip().splitlines()[0])
    finally:
        torch.compiler.reset()


def in_torch(module: Callable[..., dict[str, Tensor]]) -> Run:
    """Return a module as a runtime: no gradients, outputs by name."""

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            return module(**inputs)

    return run


def megabytes_of(*paths: Path) -> float:
    """Return the size of files in 10^6 bytes."""
    return sum(path.stat().st_size for path in paths) / 1e6


def table(rows: Sequence[Row]) -> str:
    """Return the rows for a terminal."""
    head = ["", "MB", "ms per clip", "CPU ms", "largest difference"]
    lines = [head]
    for row in rows:
        shown = [f"{row.megabytes:.1f}", f"{row.ms:.1f}", f"{row.cpu_ms:.1f}", f"{row.difference:.1e}"]
        cells = ["" if text == "nan" else text for text in shown]
        lines.append([row.runtime, *cells] if not row.note else [row.runtime, "", "", "", row.note])
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    text = ""
    for first, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        text += "  ".join([first.ljust(widths[0]), *cells]).rstrip() + "\n"
    return text
