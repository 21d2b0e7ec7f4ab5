"""dust: video recognition from your own clips, sensors, point tracks and procedures."""

import importlib
from typing import Any

from dust.moved import open_doors

__version__ = "0.1.0"
#: What users ask for most, imported when it is asked for.
PUBLIC = {
    "VideoReader": "dust.decode.reader",
    "build_model": "dust.models",
    "load": "dust.deploy.loading",
    "load_config": "dust.config",
    "load_weights": "dust.utils.checkpoint",
}
__all__ = ["__version__", *PUBLIC]
open_doors()


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(importlib.import_module(PUBLIC[name]), name)
    raise AttributeError(f"module 'dust' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
