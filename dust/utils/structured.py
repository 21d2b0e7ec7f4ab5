"""JSON and YAML that others wrote: plain values, of a bounded size and depth, or one error that names the file."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from dust.utils.errors import DataError
from dust.utils.files import read_text

MAX_NODES, MAX_DEPTH = 20_000, 40  # of YAML: values, as often as aliases repeat them
LONGEST_YAML = 1 << 20  # characters; PyYAML takes about 10 s for as many
_DEEPEST_JSON = 100
_MOST_DIGITS = 300  # of a whole number in JSON: any such number is a float too
_TOO_MANY = "far too many values, or aliases in a circle"
_LIBRARY = "tag:yaml.org,2002:"


class PlainYamlError(ValueError):
    """A text that is not YAML, or that is refused. ``line`` (from 1; 0 if unknown) and ``reason`` are kept apart."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}" if line else reason)
        self.line, self.reason = line, reason


# --- json -----------------------------------------------------------------------------------------------------------


def parse_json(text: str | bytes, source: str | os.PathLike, way_out: str = "write it again") -> Any:
    """Parse JSON. DataError, which names ``source`` and the ``way_out``, if it is damaged or absurdly deep,
    holds a whole number that no float can be, or the half of a character."""
    try:
        value = json.loads(text, parse_int=_whole)
        # the half of a character, which nobody can write again
        if "\\ud" in (text if isinstance(text, str) else text.decode("utf-8", "replace")).lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except json.JSONDecodeError as error:
        raise DataError(f"{source}: is not JSON (line {error.lineno}: {error.msg}): {way_out}") from error
    except RecursionError:
        raise DataError(f"{source}: lists within lists, far too deep: {way_out}") from None
    except ValueError as error:  # not UTF-8, or a number of thousands of digits
        raise DataError(f"{source}: is not JSON ({error}): {way_out}") from error
    level: list[Any] = [value]
    for _ in range(_DEEPEST_JSON):
        level = [child for item in level for child in _children(item)]
        if not level:
            return value
    raise DataError(f"{source}: lists within lists, more than {_DEEPEST_JSON} deep: {way_out}")


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def read_json(path: str | os.PathLike, way_out: str = "write it again") -> Any:
    """Read a JSON file. DataError as :func:`parse_json`, or if it cannot be read or is no regular file."""
    return parse_json(read_text(path), path, way_out)


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


# --- yaml -----------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """PyYAML's, which stops where values stand too deep instead of following them to the end of Python's stack."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > 2 * MAX_DEPTH:
            raise PlainYamlError(self.peek_event().start_mark.line + 1, _TOO_MANY)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def compose_yaml(text: str, name: str = "YAML") -> tuple[yaml.SafeLoader, yaml.Node | None]:
    """Return (loader, root) of a text whose values are plain; nothing is built of them yet.

    Every value is counted as often as its aliases and merge keys repeat it.

    Raises:
        PlainYamlError: not YAML, a tag, aliases in a circle, too many values or too deep ones.
    """
    if len(text) > LONGEST_YAML:
        raise PlainYamlError(0, f"has {len(text):,} characters, far too many for a configuration")
    try:
        loader = _Loader(text)
        loader.name = name
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        raise PlainYamlError(0, f"not valid YAML: {_one_line(error)}") from None
    if root is not None:
        _expanded_size(root, {}, 0)
    return loader, root


def parse_yaml(text: str, source: str | os.PathLike, way_out: str = "write it again") -> Any:
    """Parse YAML into plain values. DataError, which names ``source``, for what :func:`compose_yaml` refuses."""
    try:
        loader, root = compose_yaml(text, str(source))
        return None if root is None else loader.construct_document(root)
    except PlainYamlError as error:
        raise DataError(f"{source}: {error}: {way_out}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, an unhashable key
        raise DataError(f"{source}: not valid YAML: {' '.join(str(error).split())}: {way_out}") from error


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML: what PyYAML writes, to the byte. libyaml takes a quarter of the time, and is asked
    where it writes no text in another way: one that needs an escape, or an empty key."""
    text = json.dumps(values, ensure_ascii=False, default=str)
    if yaml.__with_libyaml__ and "\\" not in text and '"": ' not in text and text.isascii() and text.isprintable():
        return yaml.dump(values, Dumper=yaml.CSafeDumper)
    return yaml.safe_dump(values)


def _expanded_size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Return how many values a node stands for. ``known``: by id; 0 while a node is being counted."""
    line = node.start_mark.line + 1
    tag = node.tag or ""
    if not tag.startswith(_LIBRARY) or tag.startswith(_LIBRARY + "python"):
        name = tag.replace(_LIBRARY, "!!")
        raise PlainYamlError(line, f"the tag {name} is refused: a configuration holds plain values only")
    size = known.get(id(node))
    if size == 0 or depth > MAX_DEPTH:
        raise PlainYamlError(line, _TOO_MANY)
    if size is None:
        known[id(node)] = 0
        size = 1
        if not isinstance(node, yaml.ScalarNode):
            for item in node.value:
                for child in item if isinstance(item, tuple) else (item,):
                    size += _expanded_size(child, known, depth + 1)
                if size > MAX_NODES:
                    raise PlainYamlError(line, _TOO_MANY)
        known[id(node)] = size
    return size


def _one_line(error: yaml.YAMLError) -> str:
    text = " ".join(str(error).split())
    return text + (" (YAML is indented with spaces, not tabs)" if "\\t" in text else "")
