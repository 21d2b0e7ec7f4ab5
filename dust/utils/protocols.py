"""Does a class keep what protocols ask, and has it no method that only nearly has the name of one?

An optional method is found by its name, so one that is misspelt would be as good as none, without a word. This is who
says the word.
"""

import ast
import difflib
import inspect
import textwrap
import threading
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

#: Python 3.11 fails where two threads parse sources at the same time.
PARSING = threading.Lock()
NEAR = 0.84  # likeness of two names (difflib's ratio, 0..1) from which one is taken for the other misspelt


def members(protocol: type) -> dict[str, Any]:
    """Name -> the function, property or annotation of everything public that a protocol asks for."""
    found: dict[str, Any] = {}
    for cls in reversed(protocol.__mro__):
        if cls in (object, typing.Protocol, typing.Generic):
            continue
        found |= inspect.get_annotations(cls)
        found |= {name: value for name, value in vars(cls).items() if callable(value) or isinstance(value, property)}
    return {name: value for name, value in found.items() if not name.startswith("_")}


def public_names(cls: type, inherited: type = object) -> set[str]:
    """Return what a class and its bases below ``inherited`` have: methods, and what their methods assign to
    ``self``."""
    found = set(dir(cls)) - set(dir(inherited))
    for one in cls.__mro__:
        if issubclass(inherited, one):
            continue
        try:
            with PARSING:
                tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
        except (OSError, TypeError, SyntaxError):  # made in a prompt, or at run time
            continue
        found |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            if isinstance(node.value, ast.Name) and node.value.id == "self"
        }
    return {name for name in found if not name.startswith("_")}


def find_problems(cls: type, protocols: Sequence[type], inherited: type = object) -> list[str]:
    """Return everything public of ``cls`` that has nearly the name of one of the protocols' members, or its name and
    cannot be called as it says, or returns something else, as sentences.

    Args:
        cls: the class to be looked at; no instance is made.
        protocols: what may be asked of it.
        inherited: a base whose own attributes are no concern (``nn.Module``).
    """
    asked = {name: (protocol, member) for protocol in protocols for name, member in members(protocol).items()}
    problems = []
    names = public_names(cls, inherited)
    for name in sorted(names):
        where = f"{cls.__name__}.{name}"
        found = inspect.getattr_static(cls, name, None)  # None: an instance's
        found = found.__func__ if isinstance(found, (classmethod, staticmethod)) else found
        if name not in asked:
            alike = [other for other, (_, it) in asked.items() if inspect.isfunction(it) == inspect.isfunction(found)]
            near = difflib.get_close_matches(name, alike, n=1, cutoff=NEAR)
            if near and near[0] not in names:
                problems.append(f"{where}: is {near[0]} meant ({asked[near[0]][0].__name__})? Nobody asks for {name}")
            continue
        protocol, member = asked[name]
        if inspect.isfunction(member) and inspect.isfunction(found):
            problems += [f"{where}: {text} ({protocol.__name__})" for text in _differences(found, member)]
        elif inspect.isfunction(member) != inspect.isfunction(found):
            kinds = ("a method", "a value")
            is_now, must_be = kinds if inspect.isfunction(found) else kinds[::-1]
            problems.append(f"{where}: is {is_now} and must be {must_be} ({protocol.__name__})")
    return problems


def _differences(found: Any, asked: Any) -> Iterator[str]:
    """Yield why ``found`` cannot be called as ``asked`` is, or that it returns something else."""
    ours, theirs = (list(inspect.signature(one).parameters.values())[1:] for one in (found, asked))
    kinds = inspect.Parameter
    if not any(one.kind == kinds.VAR_POSITIONAL for one in theirs):  # else the arguments are the class's own affair
        takes_all = any(one.kind == kinds.VAR_KEYWORD for one in ours)
        unnamed = sum(one.kind == kinds.POSITIONAL_ONLY for one in theirs)  # the class names these as it likes
        if unnamed > len(ours):
            yield f"takes fewer arguments than {inspect.signature(asked)}"
        named = {one.name: one for one in ours[unnamed:]}
        for place, one in enumerate(theirs[unnamed:], unnamed):
            by_position = one.kind == kinds.POSITIONAL_OR_KEYWORD
            if one.name not in named:
                if not takes_all or by_position:
                    yield f"does not take {one.name!r}, of {inspect.signature(asked)}"
            elif by_position and (place >= len(ours) or ours[place].name != one.name):
                yield f"takes {one.name!r} at another place than {inspect.signature(asked)}"
        free = {kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD}
        known = {one.name for one in theirs}
        for one in ours[unnamed:]:
            if one.name not in known and one.default is kinds.empty and one.kind not in free:
                yield f"needs {one.name!r}, which nobody gives: {inspect.signature(asked)}"
    returned, expected = (_returned(one) for one in (found, asked))
    if not _fits(returned, expected):
        yield f"returns {_shown(returned)}, not {_shown(expected)}"


def _returned(function: Any) -> Any:
    try:
        return typing.get_type_hints(function).get("return", Any)
    except (AttributeError, NameError, SyntaxError, TypeError):  # names that only type checkers import, or no types
        return Any


def _fits(found: Any, expected: Any) -> bool:
    """Tell whether a value annotated ``found`` may stand where ``expected`` is wanted, as far as annotations show."""
    if Any in (found, expected) or isinstance(expected, typing.TypeVar):
        return True
    if _is_union(found):
        return all(_fits(one, expected) for one in typing.get_args(found))
    if _is_union(expected):
        return any(_fits(found, one) for one in typing.get_args(expected))
    one, other = (typing.get_origin(hint) or hint for hint in (found, expected))
    if not (isinstance(one, type) and isinstance(other, type)):
        return True
    return issubclass(one, other) if not getattr(other, "_is_protocol", False) else True


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
