"""A benchmark's result: figures with the machine, the command and the method that made them, as a table and as JSON."""

import importlib.util
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dust import __version__
from dust.benchmark.cost import usable_cores
from dust.utils.errors import DustError
from dust.utils.files import write_atomically

#: CPU features that decide how fast matrix products of 16-bit numbers are.
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


@dataclass
class Report:
    """Figures of one benchmark.

    Attributes:
        benchmark: the sub-command.
        method: how it was measured, in a sentence: what is timed, how rounds are interleaved, what is a median.
        figures: rows ``{column: value}``; columns carry their units in their names.
        notes: what a reader must know of this run, such as a figure that was left out and why.
        settings: the sizes and counts that the figures belong to.
    """

    benchmark: str
    method: str
    figures: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def as_dict(self, command: Sequence[str]) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "command": " ".join(command),
            "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "dust": __version__,
            "machine": machine(),
            "method": self.method,
            "settings": self.settings,
            "figures": self.figures,
            "notes": self.notes,
        }

    def text(self) -> str:
        """Return the table with the machine above it, the method and the notes below."""
        facts = machine()
        lines = [
            f"{facts['cpu']}, {facts['cores']} cores ({', '.join(facts['cpu_features']) or 'no features known'}), "
            f"load {facts['load']:.1f}; {facts['gpu'] or 'no CUDA device'}; "
            f"torch {facts['torch']}, PyAV {facts['av'] or 'not installed'}, Python {facts['python']}",
            "  ".join(f"{name} {value}" for name, value in self.settings.items()),
            "",
            *table(self.figures),
            "",
            self.method,
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return aligned lines; a column is there if any row has it, and a row without it shows ``-``."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in cells
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def save_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented JSON atomically."""
    try:
        write_atomically(path, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise DustError(f"--json {path}: cannot be written ({error.strerror}). Name another file.") from error


def machine() -> dict[str, Any]:
    """Return the machine and the libraries that a figure was measured on."""
    import torch

    model, flags = _cpu()
    return {
        "cpu": model,
        "cores": usable_cores(),
        "cpu_features": [name for name in CPU_FEATURES if name in flags],
        "load": os.getloadavg()[0],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **_pyav(),
    }


def _pyav() -> dict[str, str]:
    """Return versions of PyAV and its decoder; "" where it is not installed."""
    if importlib.util.find_spec("av") is None:
        return {"av": "", "libavcodec": ""}
    import av

    return {"av": av.__version__, "libavcodec": ".".join(map(str, av.library_versions["libavcodec"]))}


def _cpu() -> tuple[str, set[str]]:
    """Return (model name, feature flags); the flags are empty where the system does not list them."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    facts = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((facts.get("flags") or facts.get("features") or "").split())
    return facts.get("model name") or platform.processor() or platform.machine(), flags
