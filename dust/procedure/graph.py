"""The graph of a procedure: which step may follow which, which may be left out, and which are done several times.

As json (``KEYSTEP.GRAPH``, or ``graphs`` in procedure.json), one list of steps for each procedure:

    {"assy": [{"step": "base"},
              {"step": "lid", "after": ["base"], "optional": true},
              {"step": "screw", "after": ["base", ["lid", "cover"]], "times": 2, "repeat": true}]}

* ``step``: a component (its installation), the description of a step, or its id; each once.
* ``after``: what must be done before; a list within the list needs one of its steps only. Default: nothing.
* ``optional``: it may be left out, and then holds up none of those after it; but it may not come too late, when one of
  these is done. Default false.
* ``times``: how often it is done, at least. Default 1.
* ``repeat``: it may be done again when it is done. Default false.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dust.procedure.table import INSTALL, INSTALL_WRONGLY, REMOVE, Procedure
from dust.utils.errors import DataError, Problems

FIELDS = ("step", "after", "optional", "times", "repeat")


@dataclass(frozen=True)
class Node:
    """One step. ``after``: of each group of step ids at least one must be done before."""

    step: int
    name: str
    after: tuple[tuple[int, ...], ...] = ()
    optional: bool = False
    times: int = 1
    repeat: bool = False


@dataclass(frozen=True)
class ProcedureGraph:
    """The steps of one procedure, in the order in which they were written. :meth:`of` makes and checks one."""

    nodes: tuple[Node, ...]

    @classmethod
    def of(
        cls, written: Sequence[Mapping[str, Any]], components: Sequence[str], descriptions: Sequence[str] = ()
    ) -> "ProcedureGraph":
        """Build a graph from the entries of a json list.

        Args:
            components: K names.
            descriptions: of the 3 K steps, by which they may be called too.

        Raises:
            DataError: with all that is wrong: unknown fields, steps that do not exist or stand there twice, a circle
                of steps that wait for each other, steps that can never be done.
        """
        names = {name: number for number, name in reversed(list(enumerate(descriptions)))}
        names |= {name: 3 * number + INSTALL for number, name in enumerate(components)}
        problems, nodes = Problems(), []
        if not isinstance(written, list | tuple) or not written:
            raise DataError(f"the graph is {written!r:.80}: it is a list of steps, each with at least a step")
        for row in written:
            node = _node(row, names, 3 * len(components), problems)
            if node is not None:
                nodes.append(node)
        there = [node.step for node in nodes]
        for node in nodes:
            if there.count(node.step) > 1:
                problems.add("a step stands there twice", node.name)
            for step in {step for group in node.after for step in group} - set(there):
                problems.add(f"{node.name} comes after a step that the graph has not", _name(step, components))
        if not problems.kinds:
            _check_order(nodes, problems)
        problems.raise_if_any("the graph of the procedure")
        return cls(tuple(nodes))

    @classmethod
    def any_order(cls, procedure: Procedure, components: Sequence[str]) -> "ProcedureGraph":
        """Return the steps that a procedure requires, in any order and as often as one likes."""
        required = sorted(required_steps(procedure))
        return cls(tuple(Node(step, _name(step, components), repeat=True) for step in required))

    def node(self, step: int) -> Node | None:
        """Return the node of a step id; None where the graph says nothing of it."""
        return next((node for node in self.nodes if node.step == step), None)

    def layers(self) -> list[list[Node]]:
        """Return the nodes by the number of steps that must lie before them at least, for a drawing."""
        depth: dict[int, int] = {}
        while len(depth) < len(self.nodes):
            for node in self.nodes:
                if node.step not in depth and all(any(step in depth for step in group) for group in node.after):
                    depth[node.step] = max(
                        (min(depth[step] for step in group if step in depth) + 1 for group in node.after), default=0
                    )
        found: list[list[Node]] = [[] for _ in range(max(depth.values()) + 1)]
        for node in self.nodes:
            found[depth[node.step]].append(node)
        return found


def required_steps(procedure: Procedure) -> set[int]:
    """Return the expected steps that a complete recording has. To remove what is not there at the start is never
    required: tables expect it so that a removal is recognised where it happens. To put on wrongly is not either."""
    return {
        step
        for step in procedure.expected
        if step % 3 == INSTALL or (step % 3 == REMOVE and procedure.start_state[step // 3])
    }


def read_graphs(written: Any, where: str) -> dict[str, list[dict[str, Any]]]:
    """Map procedure name -> its entries, as json has them. DataError unless it is an object of lists."""
    if not isinstance(written, Mapping) or not all(isinstance(one, list) for one in written.values()):
        raise DataError(f'{where}: graphs are {{"NAME OF THE PROCEDURE": [{{"step": ...}}, ...]}}')
    return {str(name): list(entries) for name, entries in written.items()}


def _node(row: Any, names: Mapping[str, int], count: int, problems: Problems) -> Node | None:
    if not isinstance(row, Mapping) or "step" not in row:
        problems.add('an entry is {"step": ..., "after": [...]}', f"{row!r:.80}")
        return None
    unknown = sorted(set(row) - set(FIELDS))
    if unknown:
        problems.add(f"a field that is none of {', '.join(FIELDS)}", f"{row['step']}: {', '.join(map(str, unknown))}")
    for name in ("optional", "repeat"):
        if not isinstance(row.get(name, False), bool):
            problems.add(f"{name} is true or false", f"{row['step']}: {row[name]!r}")
    times = row.get("times", 1)
    if not isinstance(times, int) or isinstance(times, bool) or times < 1:
        problems.add("times is a whole number from 1 on", f"{row['step']}: {times!r}")
        times = 1
    after = row.get("after", [])
    if not isinstance(after, list):
        problems.add("after is a list", f"{row['step']}: {after!r}")
        after = []
    groups = tuple(
        tuple(_step(one, names, count, problems) for one in (group if isinstance(group, list) else [group]))
        for group in after
    )
    step = _step(row["step"], names, count, problems)
    if not all(groups):
        problems.add("a list within after names at least one step", str(row["step"]))
    if step % 3 == INSTALL_WRONGLY:
        problems.add("a wrong installation is no step of a procedure", str(row["step"]))
    return Node(step, str(row["step"]), groups, row.get("optional") is True, times, row.get("repeat") is True)


def _step(written: Any, names: Mapping[str, int], count: int, problems: Problems) -> int:
    if isinstance(written, int) and not isinstance(written, bool) and 0 <= written < count:
        return written
    if isinstance(written, str) and written in names:
        return names[written]
    known = [name for name in names if names[name] % 3 == INSTALL]
    problems.add(
        f"a step that the procedure has not ({', '.join(known[:8])}, ..., or an id up to {count - 1})", f"{written!r}"
    )
    return 0


def _name(step: int, components: Sequence[str]) -> str:
    return f"{('', 'wrongly ', 'remove ')[step % 3]}{components[step // 3]}"


def _check_order(nodes: Iterable[Node], problems: Problems) -> None:
    """Check that every step can be reached: one of each group comes before it, without a circle."""
    done: set[int] = set()
    left = list(nodes)
    while True:
        ready = [node for node in left if all(done & set(group) for group in node.after)]
        if not ready:
            break
        done |= {node.step for node in ready}
        left = [node for node in left if node.step not in done]
    circle = {node.step for node in left if _waits_for_itself(node, left)}
    for node in left:
        kind = "steps that wait for each other in a circle" if node.step in circle else "a step that can never be done"
        problems.add(kind, node.name)


def _waits_for_itself(node: Node, left: Sequence[Node]) -> bool:
    after = {one.step: {step for group in one.after for step in group} for one in left}
    seen: set[int] = set()
    new = set(after[node.step])
    while new:
        if node.step in new:
            return True
        seen |= new
        new = {step for one in new if one in after for step in after[one]} - seen
    return False
