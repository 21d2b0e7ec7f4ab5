"""Values as people write them -> values of the type that a key has."""

import ast
import math
import numbers
import os
from collections.abc import Mapping
from typing import Any

from dust.utils.errors import DataError
from dust.utils.structured import parse_yaml

TRUE, FALSE, NONE = ("true", "yes", "on"), ("false", "no", "off"), ("none", "null", "~", "")


def read_value(value: Any, default: Any, *, element: type | None = None, words: tuple[str, ...] = ()) -> Any:
    """Return ``value`` as the type of ``default``.

    Args:
        value: text as it stands in a YAML file or on the command line, None for YAML's null, a list of such, or (from
            Python) a value itself.
        default: the key's default, whose type counts: bool, int, float, str, list, tuple or None.
        element: type of a list's elements, or of a value whose default is None, where the default does not tell.
        words: texts that a list key takes instead of a list.

    An empty list may be written ``[]``, ``''`` or as one of the words for nothing, quoted or not.

    Raises:
        ValueError: what is wrong with it and what to write instead.
    """
    if isinstance(default, (list, tuple)):
        value = _unquoted(value)
        if isinstance(value, str) and value in words:
            return value
        if value is None or (isinstance(value, str) and value.strip().lower() in NONE):
            value = []
        return type(default)(_read_list(value, default, element, words))
    if value is None or (isinstance(value, str) and value.strip().lower() in NONE and not _is_text(value, default)):
        if default is None:
            return None
        if isinstance(default, str) and value is not None:
            raise ValueError(f"{value.strip()} is read as no value{_example(default)}, or another word")
        raise ValueError(f"has no value{_example(default)}")
    if default is None:
        return _READERS[element](value) if element else plain(value)
    return _READERS[element or type(default)](value)


def _unquoted(value: Any) -> Any:
    """Return the text between quotes that a shell or YAML left standing: ``'[]'``, ``""``."""
    text = value.strip() if isinstance(value, str) else ""
    while len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        value = text = text[1:-1].strip()
    return value


def _is_text(value: str, default: Any) -> bool:
    """Tell whether a value is a text: an empty one is a value of a text key, the words for nothing are not."""
    return isinstance(default, str) and not value.strip()


def _example(default: Any) -> str:
    return "; write '' for an empty text" if isinstance(default, str) else f"; its default is {default}"


def read_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in (*TRUE, *FALSE):
        return value.strip().lower() in TRUE
    raise ValueError(f"{value!r} is neither True nor False")


def read_int(value: Any) -> int:
    number = _number(value, "a whole number")
    if not math.isfinite(number) or number != int(number):
        raise ValueError(f"{value!r} is not a whole number")
    return int(number)


def read_float(value: Any) -> float:
    number = float(_number(value, "a number"))
    if math.isnan(number):
        raise ValueError(f"{value!r} is not a number")
    return number


def _number(value: Any, what: str) -> int | float:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not {what}")
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, str):
        text = value.strip().lower().replace(".inf", "inf") if value.strip().lower().endswith(".inf") else value
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    raise ValueError(f"{_shown(value)} is not {what}")


def read_text(value: Any) -> str:
    """Return a text. One that begins with ``~/`` or ``~user/`` is a path, whatever the key: it begins with that
    folder."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, (str, bool, int, float)):
        return os.path.expanduser(str(value))
    raise ValueError(f"{_shown(value)} is not a text")


def read_entry(value: Any) -> Any:
    """Return a name, or {name: {argument: value}}, whose values are numbers and so on where their texts are."""
    return _plain_tree(value) if isinstance(value, Mapping) else read_text(value)


def read_weight(value: Any) -> Any:
    """Return a number, or {name: number}: what weighs otherwise than 1."""
    if not isinstance(value, Mapping):
        return read_float(value)
    return {str(name): read_float(number) for name, number in value.items()}


def _plain_tree(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain_tree(item) for key, item in value.items()}
    return plain(value)


def read_row(value: Any) -> list:
    """Return a list within a list, of numbers and further lists."""
    items = _list_of_text(value) if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise ValueError(f"{_shown(value)} is not a list")
    return plain(items)


def read_folders(value: Any) -> Any:
    """Return a text, or a list of texts in brackets; one in brackets is that text."""
    items = _list_of_text(value) if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        return read_text(value)
    folders = [read_text(item) for item in items]
    if not folders or not all(folder.strip() for folder in folders):
        raise ValueError(f"the list {folders} needs a folder in every place")
    return folders if len(folders) > 1 else folders[0]


class Folders(str):
    """The ``kind`` of a text that names a folder, or a list of several: ``[a, b]``. ``a, b`` is one folder."""


class Weight(float):
    """The ``kind`` of a list of numbers of which some may be by name, ``{name: number}``."""


EXAMPLES: dict[Any, list] = {float: [1.0, 0.1], int: [1, 5], Weight: [1.0, 0.5], list: [[0, 1]]}
_READERS = {
    bool: read_bool,
    int: read_int,
    float: read_float,
    str: read_text,
    object: read_entry,
    Weight: read_weight,
    Folders: read_folders,
    list: read_row,
}


def _shown(value: Any) -> str:
    return f"the list {value}" if isinstance(value, (list, tuple)) else repr(value)


def _read_list(value: Any, default: list | tuple, element: type | None, words: tuple[str, ...]) -> list:
    items = _list_of_text(value) if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        hint = f"write {_list_example(value, default, element, words)}"
        if isinstance(value, str) and value.strip().startswith(("[", "(")):
            hint = f"it does not end; quote a list that has spaces, or {hint}"
        raise ValueError(f"{_shown(value)} is not a list; {hint}")
    element = element or _element_of(default)
    if element is None:
        return [plain(item) for item in items]
    try:
        return [_READERS[element](item) for item in items]
    except ValueError as error:
        raise ValueError(f"in the list {list(items)}: {error}") from None


def _list_of_text(text: str) -> Any:
    """Return a list or tuple that was written as text, else the text."""
    stripped = text.strip()
    if not (stripped.startswith(("[", "(")) and stripped.endswith(("]", ")"))):
        return text
    try:
        return ast.literal_eval(stripped)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    try:  # names without quotes, or numbers as YAML writes them
        return parse_yaml(stripped, "the list")
    except DataError:
        return text


def _list_example(value: Any, default: list | tuple, element: type | None, words: tuple[str, ...]) -> str:
    wanted = element or _element_of(default)
    try:
        given = str(value).split(",")
        example = str([_READERS[wanted](part) if wanted else plain(part) for part in given]).replace("'", "")
    except ValueError:
        example = str(list(default) or EXAMPLES.get(wanted, []))
    return example + "".join(f", or the word {word}" for word in words)


def _element_of(default: list | tuple) -> type | None:
    kinds = {type(item) for item in default}
    if len(kinds) == 1 and next(iter(kinds)) in _READERS:
        return kinds.pop()
    return None


def plain(value: Any) -> Any:
    """Return a value whose key does not say its type: numbers, True/False and None are recognised in texts, also in
    lists."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.strip().lower() in NONE and value.strip():
        return None
    for reader in (read_int, read_float, read_bool):
        try:
            return reader(value)
        except ValueError:
            continue
    listed = _list_of_text(value)
    return plain(listed) if isinstance(listed, (list, tuple)) else value


def same(first: Any, second: Any) -> bool:
    """Tell whether two values are equal, where a list equals a tuple and 1 equals 1.0, but True does not equal 1."""
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return isinstance(first, bool) == isinstance(second, bool) and first == second
