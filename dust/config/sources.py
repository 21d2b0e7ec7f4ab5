"""Where settings come from: YAML files with ``_BASE_`` inheritance, and overrides. All give one flat list.

Scalars stay the text that stands in the file, so that a key's type decides what ``007``, ``1e-4`` or ``on`` means.
Nothing of a file is ever constructed: YAML's tags are refused by name.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dust.utils.errors import DataError
from dust.utils.files import read_bytes, read_text
from dust.utils.package import CONFIGS, PREFIX, found_or_shipped, shipped
from dust.utils.structured import LONGEST_YAML, PlainYamlError, compose_yaml, parse_yaml

BASE_KEY = "_BASE_"
MAX_FILES = 100  # that one configuration may be put together from, each as often as it is named
EQUALS = "overrides are written KEY VALUE, with a space and no ="
#: A key and, behind =, its value, as other command lines take them.
_JOINED = re.compile(r"-*[A-Za-z_][\w.]*=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Setting:
    """One key with the value that somebody wrote, and where. An empty section has the value ``{}``."""

    key: str
    value: Any
    where: str


class SourceError(Exception):
    """A file, or a list of overrides, of which nothing can be taken."""


def read_yaml(
    path: str | os.PathLike[str], chain: tuple[Path, ...] = (), opened: list[Path] | None = None
) -> list[Setting]:
    """Return all settings of a file, after those of the files that it names under ``_BASE_``; later ones win.

    ``configs/...`` is a file of the working folder, else the one of that name that came with dust.

    Raises:
        SourceError: no such file, not YAML, no mapping, a tag, bases in a circle or hundreds of them.
    """
    opened = [] if opened is None else opened
    shown, file = os.fspath(path), found_or_shipped(path)
    identity = file.resolve()
    if identity in chain:
        circle = " -> ".join(str(one) for one in (*chain[chain.index(identity) :], identity))
        raise SourceError(f"{BASE_KEY} goes in a circle: {circle}")
    opened.append(identity)
    if len(opened) > MAX_FILES:
        raise SourceError(f"{shown}: {BASE_KEY} leads to more than {MAX_FILES} files")
    if file.suffix.lower() not in (".yaml", ".yml"):
        raise SourceError(f"{shown}: a configuration ends in .yaml or .yml")
    try:
        loader, root = compose_yaml(_text(file, shown), shown)
    except PlainYamlError as error:
        raise SourceError(f"{shown}{f':{error.line}' if error.line else ''}: {error.reason}") from None
    if root is None or (isinstance(root, yaml.MappingNode) and not root.value):
        raise SourceError(f"{shown}: the file holds no settings")
    if not isinstance(root, yaml.MappingNode):
        what = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        raise SourceError(f"{shown}: the file holds {what}; a configuration is made of KEY: VALUE lines")
    try:
        settings = list(_Walk(loader, shown).mapping(root, ""))
    except yaml.YAMLError as error:  # a merge key of what is no mapping
        raise SourceError(f"{shown}: not valid YAML: {' '.join(str(error).split())}") from None
    inherited: list[Setting] = []
    for setting in settings:
        if setting.key == BASE_KEY:
            inherited += _read_bases(setting, file, (*chain, identity), opened)
    return inherited + [setting for setting in settings if setting.key != BASE_KEY]


def _text(file: Path, shown: str) -> str:
    try:
        return read_bytes(file, longest=4 * LONGEST_YAML).decode("utf-8-sig")
    except FileNotFoundError:
        raise SourceError(f"{shown}: no such file{_near(file)}") from None
    except UnicodeDecodeError:
        raise SourceError(f"{shown}: not a UTF-8 text file") from None
    except OSError as error:
        raise SourceError(f"{shown}: cannot be read ({error.strerror})") from None


def _near(file: Path) -> str:
    """Return what a file that is not there may have meant, among those that came with dust."""
    if file.parts[:1] != (PREFIX,):
        return ""
    own = [f"{PREFIX}/{path.relative_to(CONFIGS).as_posix()}" for path in CONFIGS.rglob("*.yaml")]
    near = difflib.get_close_matches(file.as_posix(), own, n=2, cutoff=0.7)
    hint = f"; did you mean {' or '.join(near)}?" if near else ";"
    return f", here or among dust's own{hint} `dust configs list` names them"


def _read_bases(setting: Setting, file: Path, chain: tuple[Path, ...], opened: list[Path]) -> list[Setting]:
    names = setting.value if isinstance(setting.value, list) else [setting.value]
    settings: list[Setting] = []
    for name in names:
        if not isinstance(name, str) or not name:
            raise SourceError(f"{setting.where}: {BASE_KEY} names a file, relative to this one; found {name!r}")
        base = file.parent / Path(name).expanduser()
        if not base.exists():
            base = shipped(base) or shipped(name) or base
        try:
            settings += read_yaml(base, chain, opened)
        except SourceError as error:
            raise SourceError(f"{error} ({BASE_KEY} in {setting.where})") from None
    return settings


class _Walk:
    """Flattens the nodes of one file."""

    def __init__(self, loader: yaml.SafeLoader, shown: str) -> None:
        self.loader, self.shown = loader, shown

    def where(self, node: yaml.Node) -> str:
        return f"{self.shown}:{node.start_mark.line + 1}"

    def mapping(self, node: yaml.MappingNode, prefix: str) -> Iterator[Setting]:
        self.loader.flatten_mapping(node)  # merge keys: <<
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise SourceError(f"{self.where(key_node)}: a key is a word")
            key = prefix + key_node.value
            if isinstance(value_node, yaml.MappingNode) and value_node.value:
                yield from self.mapping(value_node, key + ".")
            else:
                yield Setting(key, self.value(value_node), self.where(key_node))

    def value(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return None if node.tag == "tag:yaml.org,2002:null" else node.value
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item) for item in node.value]
        # within a list: {name: {argument: value}}, which the list's key takes or refuses
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value in found:
                raise SourceError(f"{self.where(key_node)}: a key is a word, and may be there only once")
            found[key_node.value] = self.value(value_node)
        return found


def read_overrides(overrides: Sequence[str] | Mapping[str, Any], known: set[str]) -> list[Setting]:
    """Read ``[KEY, VALUE, KEY, VALUE, ...]``, or a dictionary of keys (dotted, or nested) and values from Python.

    Raises:
        SourceError: a key without its value.
    """
    where = "override"
    if isinstance(overrides, Mapping):
        return list(_flatten(overrides, "", where))
    words, joined = _take_out_joined([word if isinstance(word, str) else str(word) for word in overrides])
    if len(words) % 2 and joined:  # a word stands alone only because people take = for a space
        raise SourceError("; ".join(f"{key}: {EQUALS}" for key in joined))
    if len(words) % 2:
        followed_by_key = (w for w, after in zip(words[::2], words[1::2], strict=False) if after in known)
        lone = next(followed_by_key, words[-1])
        text = f"overrides come in pairs KEY VALUE, and {lone} seems to stand alone in: {' '.join(words)}"
        raise SourceError(f"{text} (quote a value that has spaces)")
    pairs = [Setting(key, value, where) for key, value in zip(words[::2], words[1::2], strict=True)]
    return pairs + [Setting(key, "", where) for key in joined]


def _take_out_joined(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words without those of ``KEY=VALUE``, ``KEY= VALUE`` and ``KEY = VALUE``, and these, each as one
    word."""
    rest: list[str] = []
    joined: list[str] = []
    place = 0
    while place < len(words):
        match = _JOINED.fullmatch(words[place])
        if match is None:
            apart = words[place + 1 : place + 2] == ["="]
            (joined if apart else rest).extend(["".join(words[place : place + 3])] if apart else words[place:][:2])
            place += 3 if apart else 2
        else:
            joined.append(words[place] if match[1] else "".join(words[place : place + 2]))
            place += 1 if match[1] else 2
    return rest, joined


def read_written(file: Path) -> dict[str, Any]:
    """Read the ``config.yaml`` that a run left behind, nested as it stands there.

    Empty if there is none or if it is damaged: whoever looks at a run from outside can do without it.
    """
    try:
        parsed = parse_yaml(read_text(file), file)
    except DataError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _flatten(values: Mapping[str, Any], prefix: str, where: str) -> Iterator[Setting]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.", where)
        else:
            yield Setting(f"{prefix}{key}", value, where)
