"""A name -> class table. The registered name is the class's own name, exactly."""

import difflib
import importlib
import importlib.util
import inspect
import linecache
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dust.utils.ending import end_whole
from dust.utils.errors import ConfigError
from dust.utils.protocols import find_problems

logger = logging.getLogger(__name__)
T = TypeVar("T", bound=Callable[..., Any])


class Registry:
    """``@REGISTRY.register()`` on a class (or a function) makes it known under its ``__name__``.

    Args:
        kind: what is registered, for messages.
        aliases: names that foreign configurations use, and ours.
        protocols: what is asked of a class; where it nearly has a member of one, a warning says so when it is got.
        base: a base class whose own attributes are no concern of theirs.
        package: whose ``__all__`` names dust's own, which are imported when the registry is first asked.
    """

    def __init__(
        self,
        kind: str,
        aliases: dict[str, str] | None = None,
        protocols: Sequence[type] = (),
        base: type = object,
        package: str = "",
    ) -> None:
        self.kind, self.package = kind, package
        self.protocols, self.base = tuple(protocols), base
        self._looked_at: set[str] = set()
        self.aliases = dict(aliases or {})
        self._classes: dict[str, Any] = {}

    def register(self):
        def add(cls: T) -> T:
            if self.package and not cls.__module__.startswith(f"{self.package}."):
                self._import_own()  # so that a class of a name that dust has is refused where it stands
            known = self._classes.get(cls.__name__)
            if known is not None and known is not cls:
                raise ValueError(f"{self.kind} {cls.__name__} is registered twice: {_where(known)} and {_where(cls)}")
            self._classes[cls.__name__] = cls
            return cls

        return add

    def _import_own(self) -> None:
        if self.package:
            package = importlib.import_module(self.package)
            for name in package.__all__:
                getattr(package, name)
            self.package = ""  # last: until then another thread has to import, or wait, too

    def __iter__(self) -> Iterator[str]:
        self._import_own()
        return iter(sorted(self._classes))

    def __contains__(self, name: str) -> bool:
        self._import_own()
        return self.aliases.get(name, name) in self._classes

    def get(self, name: str) -> Any:
        """Return the class of this name (or of the name that it is an alias of). Raises ConfigError with near
        misses."""
        self._import_own()
        resolved = self.aliases.get(name, name)
        if resolved in self._classes:
            cls = self._classes[resolved]
            logger.info("%s <- %s", resolved, _where(cls))
            self._look_at(resolved, cls)
            return cls
        near = difflib.get_close_matches(name, [*self._classes, *self.aliases], n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"no {self.kind} is called {name!r}.{hint} Registered: {self._listed() or 'none'}.")

    def _listed(self) -> str:
        """Return all names, each with what else it is called."""
        other = {name: [alias for alias, of in self.aliases.items() if of == name] for name in self}
        return ", ".join(f"{name} ({', '.join(also)})" if also else name for name, also in other.items())

    def _look_at(self, name: str, cls: type) -> None:
        """Warn, once, of methods that nobody will find or that cannot be called."""
        if self.protocols and name not in self._looked_at and logger.isEnabledFor(logging.WARNING):
            self._looked_at.add(name)
            for problem in find_problems(cls, self.protocols, self.base):
                logger.warning("%s %s", self.kind, problem)


_SAID: set[tuple[Any, ...]] = set()


def log_once(logger: logging.Logger, level: int, message: str, *args: Any) -> None:
    """Log a message once in the life of the process; as long as ``logger`` is silent, it has not been said."""
    if logger.isEnabledFor(level) and (message, *args) not in _SAID:
        _SAID.add((message, *args))
        logger.log(level, message, *args)


def import_extensions(names: Sequence[str]) -> None:
    """Import modules (``my.package``) or files (``hooks.py``, by their paths), so that what they register is known.

    Raises:
        ConfigError: there is no such module or file, or the file is called as another module that is imported.
    """
    if names:
        end_whole()
    for name in names:
        if name.endswith(".py"):
            _import_file(Path(name).absolute(), name)
            continue
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, and lacks another one
            raise ConfigError(
                f"IMPORTS {name}: there is no such module; a file is named by its path, which ends in .py"
            ) from error


def _import_file(path: Path, name: str) -> None:
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return
    if not path.is_file():
        raise ConfigError(f"IMPORTS {name}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if known is not None or spec is None or spec.loader is None:
        raise ConfigError(f"IMPORTS {name}: a module called {path.stem} is imported already; rename the file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise


def build(cls: Any, *args: Any, **options: Any) -> Any:
    """Build an instance of a class from the keyword arguments that its ``from_config(*args, **options)`` returns."""
    return cls(**cls.from_config(*args, **options))


def _where(cls: Any) -> str:
    """Return ``dust/models/timesformer.py:120``: the file from its top package on, and the line."""
    try:
        file = path = inspect.getsourcefile(cls) or cls.__module__
        top = sys.modules[cls.__module__.partition(".")[0]]
        if getattr(top, "__path__", None):
            path = os.path.relpath(path, os.path.dirname(next(iter(top.__path__))))
    except (OSError, TypeError, ValueError):
        return cls.__module__
    # inspect would parse the whole file for the line, at each of a run's dozen look-ups
    begins = re.compile(rf"\s*(class|def) {re.escape(cls.__name__)}\b")
    line = next((number for number, text in enumerate(linecache.getlines(file), 1) if begins.match(text)), None)
    return f"{path}:{line}" if line else path
