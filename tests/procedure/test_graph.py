"""Graphs of procedures: what is read, and everything that is wrong with one at once."""

import pytest

from dust.procedure.graph import ProcedureGraph, read_graphs
from dust.procedure.table import Procedure
from dust.utils.errors import DataError

PARTS = ["base", "lid", "cover", "screw"]
DESCRIPTIONS = [f"{verb} {part}" for part in PARTS for verb in ("Install", "Incorrectly install", "Remove")]
WRITTEN = [
    {"step": "base"},
    {"step": "lid", "after": ["base"], "optional": True},
    {"step": "Install cover", "after": [0]},
    {"step": "screw", "after": ["base", ["lid", "cover"]], "times": 2, "repeat": True},
    {"step": "Remove base", "after": ["screw"]},
]


def test_steps_by_component_description_and_id():
    graph = ProcedureGraph.of(WRITTEN, PARTS, DESCRIPTIONS)
    assert [node.step for node in graph.nodes] == [0, 3, 6, 9, 2]
    assert graph.node(9).after == ((0,), (3, 6)) and (graph.node(9).times, graph.node(9).repeat) == (2, True)
    assert graph.node(3).optional and graph.node(1) is None
    assert [[node.step for node in layer] for layer in graph.layers()] == [[0], [3, 6], [9], [2]]


def test_without_a_graph_what_is_required_in_any_order():
    procedure = Procedure(frozenset({0, 2, 3, 5, 11}), (0, 0, 0, 1))
    graph = ProcedureGraph.any_order(procedure, PARTS)
    assert [(node.step, node.name) for node in graph.nodes] == [(0, "base"), (3, "lid"), (11, "remove screw")]
    assert len(graph.layers()) == 1


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ([], "it is a list of steps"),
        ([{"after": ["base"]}], 'an entry is {"step"'),
        ([{"step": "bass"}], "a step that the procedure has not"),
        ([{"step": 12}], "an id up to 11"),
        ([{"step": "base"}, {"step": "Install base"}], "a step stands there twice"),
        ([{"step": "base", "befor": ["lid"]}], "a field that is none of step, after"),
        ([{"step": "base", "times": 0}], "times is a whole number from 1 on"),
        ([{"step": "base", "optional": "yes"}], "optional is true or false"),
        ([{"step": "base", "after": "lid"}], "after is a list"),
        ([{"step": "base", "after": [[]]}], "names at least one step"),
        ([{"step": "base"}, {"step": "lid", "after": ["screw"]}], "comes after a step that the graph has not"),
        ([{"step": 1}], "a wrong installation is no step"),
        ([{"step": "base", "after": ["lid"]}, {"step": "lid", "after": ["base"]}], "wait for each other in a circle"),
        ([{"step": "base", "after": ["base"]}], "wait for each other in a circle"),
    ],
)
def test_what_is_wrong_with_a_graph(written, said):
    with pytest.raises(DataError, match=said):
        ProcedureGraph.of(written, PARTS, DESCRIPTIONS)


def test_a_step_behind_a_circle_is_told_apart_and_alternatives_are_no_circle():
    written = [
        {"step": "base", "after": ["lid"]},
        {"step": "lid", "after": ["base"]},
        {"step": "screw", "after": ["lid"]},
        {"step": "cover"},
    ]
    with pytest.raises(DataError) as error:
        ProcedureGraph.of(written, PARTS)
    assert "circle (2 cases)" in str(error.value) and "a step that can never be done:\n      screw" in str(error.value)
    written = [{"step": "base", "after": [["lid", "cover"]]}, {"step": "lid", "after": ["base"]}, {"step": "cover"}]
    assert len(ProcedureGraph.of(written, PARTS).layers()) == 3


def test_a_file_of_graphs():
    assert read_graphs({"assy": [{"step": 0}]}, "g.json") == {"assy": [{"step": 0}]}
    for wrong in ([], {"assy": "base"}):
        with pytest.raises(DataError, match=r"g\.json: graphs are"):
            read_graphs(wrong, "g.json")
