"""Runs the stages one after the other, each in a process that is ended at its deadline, and tells what they found."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dust.benchmark.gpu.plan import BUDGET_S, Bench, Row, Stage, chosen, deadlines
from dust.benchmark.report import Report
from dust.utils.errors import DustError

METHOD = (
    "Every stage is a process of its own. Times are medians of steps after a warm-up, by events of the device, on "
    "random data. MFU counts the FLOP of forward and backward, over what matrix products reach (790 TFLOP/s on an "
    "H200, 80 % of the data sheet elsewhere). Tiny sizes, as on a CPU, only show that a stage runs: its times are "
    "not judged."
)
RESULTS = "results.jsonl"
_KILL_S = 10  # a process that hangs in the driver cannot be ended; nobody waits longer for it


def plan_report(budget: float, part: int = 0, names: str | None = None) -> Report:
    """Return what :func:`benchmark_gpu` would do; nothing is run."""
    budget, stages = _asked(budget, part, names)
    seconds = deadlines(stages, budget)
    rows = [
        {"stage": one.name, "part": one.part, "seconds": round(seconds[one.name]), "what": one.does} for one in stages
    ]
    notes = ["a stage is ended at its deadline; what it leaves over is shared out among those behind it"]
    notes += _too_short(budget, stages)
    return Report("gpu", "Nothing was run: this is the plan.", rows, notes, {"budget_s": round(budget)})


def _too_short(budget: float, stages: list[Stage]) -> list[str]:
    needed = sum(stage.seconds for stage in stages)
    if budget >= needed:
        return []
    return [f"--budget {budget:g} is less than the {needed} s that these stages are made for: who needs more is ended"]


def _asked(budget: float, part: int, names: str | None) -> tuple[float, list[Stage]]:
    """Return (seconds, stages); a budget of 0 is :data:`BUDGET_S` for each part."""
    if budget < 0:
        raise DustError(f"--budget {budget:g}: seconds, or 0 for {BUDGET_S} of each part")
    stages = chosen(part, names)
    return budget or float(BUDGET_S * len({stage.part for stage in stages})), stages


def benchmark_gpu(
    folder: Path,
    *,
    budget: float = 0.0,
    part: int = 0,
    names: str | None = None,
    device: str = "auto",
    tiny: bool = False,
) -> Report:
    """Run the stages; each figure is a line of ``folder/results.jsonl`` as soon as it is known.

    Args:
        budget: seconds of all of them together; 0: 250 for each part.
        part: 1, 2, 3, or 0 for all.
        names: instead of a part, the stages' names with commas.
        device: auto | cuda | cpu.
        tiny: small sizes on a GPU too.

    Raises:
        DustError: the folder cannot be written, or there is no such stage or device.
    """
    import torch

    budget, stages = _asked(budget, part, names)
    if device == "cuda" and not torch.cuda.is_available():
        raise DustError(
            "--device cuda: torch finds no CUDA device here. Use --device cpu: tiny sizes, to try the script."
        )
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    results = folder / RESULTS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results.touch()
    except OSError as error:
        raise DustError(f"--out {folder}: cannot be written ({error.strerror}). Name another folder.") from error
    full = device == "cuda" and not tiny
    began, run = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%S")
    for number, stage in enumerate(stages):
        left = max(began + budget - time.monotonic(), 1.0)
        seconds = deadlines(stages[number:], left)[stage.name]
        asked = {"stage": stage.name, "device": device, "full": full, "folder": str(folder), "seconds": seconds}
        how = _run_stage(stage, {**asked, "run": run})
        append(results, {"run": run, "stage": stage.name, **how})
    rows = read_rows(results, {stage.name for stage in stages}, run)
    notes = [] if full else ["tiny sizes: no figure here says anything about speed"]
    notes += _too_short(budget, stages)
    settings = {"device": device, "sizes": "full" if full else "tiny", "budget_s": round(budget), "out": str(folder)}
    return Report("gpu", METHOD, rows, notes, settings)


def _run_stage(stage: Stage, asked: dict[str, Any]) -> dict[str, Any]:
    """Return how the stage ended: a line of the results."""
    began = time.monotonic()
    log = Path(asked["folder"]) / f"{stage.name}.log"
    with log.open("w") as words:
        process = subprocess.Popen(
            [sys.executable, "-m", "dust.benchmark.gpu.process", json.dumps(asked)],
            stdout=words, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(asked["seconds"])
            said = _last_line(log) if code else ""
            ended = "" if code == 0 else f"exit code {code}: {said}"
        except subprocess.TimeoutExpired:
            ended = f"ended at its deadline of {asked['seconds']:.0f} s"
        finally:
            _end(process)
    took = time.monotonic() - began
    if ended:
        return Row("the stage", ended, at_most=0).as_dict() | {"expected": f"see {log.name}", "limit": ""}
    return Row("the stage", took, "s", f"{stage.seconds}").as_dict()


def _end(process: subprocess.Popen[Any]) -> None:
    """End a process that still runs, with its workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_KILL_S)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "it said nothing"


def append(results: Path, line: dict[str, Any]) -> None:
    """Add a line to the results, and see it on the disk: what comes next may end this process."""
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(results: Path, stages: set[str], run: str) -> list[dict[str, Any]]:
    """Return the table: of ``stages`` what this run found, of others in the same file what the last run that had them
    did."""
    order = [stage.name for stage in chosen()]
    lines = []
    for text in results.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # torn, or of another version of dust
            line = json.loads(text)
            if line["stage"] in order and line["run"]:
                lines.append(line)
    newest = {line["stage"]: line["run"] for line in lines} | dict.fromkeys(stages, run)
    kept = [line for line in lines if line["run"] == newest[line["stage"]]]
    kept.sort(key=lambda line: order.index(line["stage"]))
    columns = ("stage", "what", "measured", "unit", "expected", "limit", "verdict")
    return [{name: line[name] for name in columns} for line in kept]


def main() -> None:
    """Run one stage: the process that :func:`_run_stage` starts."""
    asked = json.loads(sys.argv[1])
    (stage,) = chosen(names=asked["stage"])
    ends = time.monotonic() + asked["seconds"]
    bench = Bench(asked["device"], asked["full"], Path(asked["folder"]), ends)
    module, _, function = stage.function.partition(":")
    found = getattr(importlib.import_module(f"dust.benchmark.gpu.{module}"), function)(bench)
    for row in found:
        append(bench.folder / RESULTS, {"run": asked["run"], "stage": stage.name, **row.as_dict()})


if __name__ == "__main__":
    main()
