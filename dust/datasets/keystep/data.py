"""What KeyStep's data are: recordings of a procedure, and ``procedure.json``, which says what they are recordings of.

A step is (frame, step id), in the frame in which it is completed; step id = 3 * component + 0 (install), 1 (install
wrongly) or 2 (remove).
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dust.procedure.graph import ProcedureGraph, read_graphs
from dust.procedure.table import Procedure, State, state_vectors
from dust.utils.errors import DataError, Problems
from dust.utils.structured import read_json

Step = tuple[int, int]


@dataclass(frozen=True)
class Recording:
    """One recording.

    Attributes:
        path: a video file or a folder of pictures.
        fps: frames per second: of a folder as written, of a video file by its own times; 0 where they are not known.
        procedure: the name of what is being done, ``assy`` | ``main`` | ...
        states: (frame, K states), the initial ones first, then one row per change; -1 wrong, 0 not done, 1 done.
        steps: the correct installations and removals, in order.
        num_frames: 0 where they were not counted, or cannot be.
        object_states: csv of what an object detector saw, or "".
        group: what must not be in two splits (a person), "" where nothing is said.
        mistakes: (frame, kind, step id), as somebody labelled them; None: they follow from states, steps and the graph.
    """

    id: str
    path: str
    fps: float = 0.0
    procedure: str = "assy"
    states: tuple[tuple[int, State], ...] = ()
    steps: tuple[Step, ...] = ()
    num_frames: int = 0
    object_states: str = ""
    group: str = ""
    mistakes: tuple[tuple[int, str, int], ...] | None = None
    label: None = None  # what every dataset's clips have


@dataclass(frozen=True)
class ProcedureData:
    """The recordings of one split and what they are recordings of.

    Attributes:
        components: K names.
        table: the 3 K steps, as in IndustReal's ``procedure_info.json``.
        start_states: procedure name -> K digits.
        state_names: classes of the object detector and of the frame encoder, in order; empty: what train shows.
        notes: what a person should know.
        graphs: procedure name -> its graph as json has it, see :mod:`dust.procedure.graph`; of those that have one.
    """

    recordings: list[Recording]
    components: list[str]
    table: list[dict[str, Any]]
    start_states: dict[str, str]
    source: str
    state_names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    graphs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def procedure(self, name: str) -> Procedure:
        """Return the steps expected of one procedure and its start. DataError for a table that cannot be used."""
        if name not in self.start_states:
            raise DataError(f"{self.source}: no procedure {name!r}; there are {', '.join(self.start_states)}")
        return Procedure.from_table(self.table, self.start_states[name], name)

    def graph(self, name: str) -> ProcedureGraph:
        """Return the graph of one procedure; without one the steps that it requires, in any order. DataError for one
        that cannot be used."""
        procedure = self.procedure(name)
        if name not in self.graphs:
            return ProcedureGraph.any_order(procedure, self.components)
        graph = ProcedureGraph.of(self.graphs[name], self.components, [str(row["description"]) for row in self.table])
        never = [node.name for node in graph.nodes if not node.optional and node.step not in procedure.expected]
        if never:
            raise DataError(
                f"the graph needs steps that the procedure table does not expect (expected_in_{name}), so that none of "
                f"them is ever recognised: {', '.join(never)}"
            )
        return graph


def text_of_procedure(facts: ProcedureData) -> str:
    """Return the text of a ``procedure.json``."""
    parts: dict[str, Any] = {
        "components": facts.components,
        "start_states": facts.start_states,
        "states": facts.state_names,
    }
    parts |= {"steps": facts.table, **({"graphs": facts.graphs} if facts.graphs else {})}
    return json.dumps(parts, indent=1) + "\n"


def read_procedure(path: Path) -> ProcedureData:
    """Return ``procedure.json``: components, start states, table and names of states, without recordings."""
    try:
        facts = read_json(path)
        data = ProcedureData(
            recordings=[],
            components=[str(name) for name in facts["components"]],
            table=[dict(row) for row in facts["steps"]],
            start_states={str(name): str(state) for name, state in facts["start_states"].items()},
            source=str(path),
            state_names=[str(name) for name in facts.get("states", ())],
            graphs=read_graphs(facts.get("graphs", {}), str(path)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: not a procedure ({type(error).__name__}: {error}): it holds components (K names), start_states "
            "(name: K digits), steps (3 K rows) and, if known, states (names of classes)"
        ) from None
    check_procedure(data)
    return data


def check_procedure(data: ProcedureData) -> None:
    """Raise DataError unless the table, the start states and the names of states have the components."""
    problems, count = Problems(), len(data.components)
    if not count or len(set(data.components)) < count:
        problems.add("components must have names, each its own", str(data.components))
    if not data.start_states:
        problems.add("no start state: each procedure has one", data.source)
    for name, start in data.start_states.items():
        try:
            Procedure.from_table(data.table, start, name)
        except DataError as error:
            problems.add("a procedure table that cannot be used", f"{name}: {error}")
        if len(start) != count:
            problems.add(f"a start state of another length than the {count} components", f"{name}: {start!r}")
    if data.state_names:
        try:
            wrong = {len(state) for state in state_vectors(data.state_names).values()} - {count}
        except DataError as error:
            problems.add("names of states that cannot be used", str(error))
        else:
            if wrong:
                problems.add(f"names of states must have {count} digits, one for each component", f"found {wrong}")
        if len(set(data.state_names)) < len(data.state_names):
            problems.add("a name of a state twice", ", ".join(data.state_names))
    for name in data.graphs:
        if name not in data.start_states:
            problems.add(f"a graph of no procedure ({', '.join(data.start_states)})", name)
        elif not problems.kinds:
            try:
                data.graph(name)
            except DataError as error:
                problems.add("a graph that cannot be used", f"{name}: {error}")
    problems.raise_if_any(data.source)


def with_graphs(data: ProcedureData, path: str) -> ProcedureData:
    """Return the data with the graphs of a json file in place of its own ones; as it is where ``path`` is ""."""
    if not path:
        return data
    found = replace(data, graphs=read_graphs(read_json(path), path))
    try:
        check_procedure(found)
    except DataError as error:
        raise DataError(f"KEYSTEP.GRAPH {path}: {error}") from None
    return found
