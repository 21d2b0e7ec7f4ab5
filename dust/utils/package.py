"""What came with dust: the configurations that it ships, and the libraries of its extras."""

import glob
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dust.utils.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent.parent
#: dust's own configurations: within the package where it was installed, beside it in a checkout.
CONFIGS = next((file for file in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if file.is_dir()), _PACKAGE)
#: What a path begins with that may mean one of them.
PREFIX = "configs"


def shipped(path: str | os.PathLike) -> Path | None:
    """Return dust's own file that ``configs/...`` means; None where it is no such path, or no such file came with
    dust."""
    first, *rest = Path(path).parts or ("",)
    file = CONFIGS.joinpath(*rest)
    return file if first == PREFIX and file.is_file() else None


def found_or_shipped(path: str | os.PathLike) -> Path:
    """Return ``path`` itself where there is such a file, from the working folder; else dust's own, if it has one."""
    file = Path(path).expanduser()
    return file if file.exists() else shipped(file) or file


def matching(pattern: str) -> list[str]:
    """Return the files that a pattern names, as a shell that sees dust's own configurations too would write them out.

    A shell hands a pattern on as it is where the working folder has no such file.
    """
    if not glob.has_magic(pattern) or Path(pattern).exists():
        return [pattern]
    first, *rest = Path(pattern).parts
    found = sorted(glob.glob(pattern))
    if not found and first == PREFIX:
        found = sorted(f"{PREFIX}/{file.relative_to(CONFIGS).as_posix()}" for file in CONFIGS.glob("/".join(rest)))
    return found or [pattern]


def offered(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package that imports what it offers when somebody asks for it.

    Args:
        package: its ``__name__``.
        names: {what it offers: the module that holds it}.
    """

    def get(name: str) -> Any:
        if name in names:
            return getattr(importlib.import_module(names[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted({*vars(sys.modules[package]), *names})


def import_extra(module: str, extra: str, what: str) -> Any:
    """Import a library that only an extra of dust installs.

    Args:
        module: what is imported; a dotted name gives the inner module.
        extra: its name in setup.py, which the error says how to install.
        what: who needs it, as the error begins: "WANDB.ENABLE True".

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ConfigError(f"{what} needs {name}: pip install 'dust-video[{extra}]'") from error
