"""Procedures in the report: the table of mistakes, and graphs as drawings that are whole XML."""

from xml.etree import ElementTree

from dust.analysis.report.procedures import draw_graph, graphs_section, mistakes_section
from dust.procedure.graph import ProcedureGraph
from dust.procedure.mistake_metrics import score_mistakes, summarize_mistakes
from dust.procedure.mistakes import Mistake
from dust.tasks.keystep_mistakes import drawings_of

PARTS = ["base", "lid <1>", "cover", "screw"]
GRAPH = ProcedureGraph.of(
    [
        {"step": "base"},
        {"step": "lid <1>", "after": ["base"], "optional": True},
        {"step": "cover", "after": ["base"]},
        {"step": "screw", "after": [["lid <1>", "cover"]], "times": 4},
    ],
    PARTS,
)


def layers():
    record = {"procedure_name": "assy", "graph": GRAPH, "labelled": True, "steps": [(3, 0), (9, 9)]}
    record["mistakes"] = [Mistake(5, "wrong", 7), Mistake(9, "omitted", 6)]
    return drawings_of([record, {**record, "labelled": False}], lambda step: PARTS[step // 3])["assy"]


def test_a_drawing_has_a_box_for_each_step_and_an_arrow_for_each_need():
    svg = ElementTree.fromstring(draw_graph(layers(), "assy"))
    boxes = list(svg.iter("g"))
    assert [group.find("title").text for group in boxes] == [
        "base: 1 done",
        "lid <1>: 0 done, optional",
        "cover: 0 done, 1 put on wrongly, 1 left out",
        "screw x4: 1 done",
    ]
    arrows = [path for path in svg.iter("path") if path.get("marker-end")]
    assert len(arrows) == 4 and sum(path.get("stroke-dasharray") is not None for path in arrows) == 2
    dashed = [len([r for r in group.iter("rect") if r.get("stroke-dasharray")]) for group in boxes]
    assert dashed == [0, 1, 0, 0] and [len(list(group.iter("rect"))) for group in boxes] == [1, 1, 1, 2]
    width, height = float(svg.get("width")), float(svg.get("height"))
    for box in svg.iter("rect"):
        assert 0 <= float(box.get("x")) <= width - float(box.get("width"))
        assert 0 <= float(box.get("y")) <= height - float(box.get("height"))


def test_the_sections():
    scores = [score_mistakes([Mistake(5, "wrong", 7)], [Mistake(9, "wrong", 7)], fps=10, num_frames=36000)]
    report = {"mistakes": {**summarize_mistakes(scores), "auc": {"wrong": 0.5}}, "graphs": {"assy": layers()}}
    page = mistakes_section(report)
    assert "1.00 hours" in page and "<td>put on wrongly</td><td class=n>1</td><td class=n>1</td>" in page
    assert graphs_section(report).count("<svg") == 1
    assert mistakes_section({}) == graphs_section({}) == "" == mistakes_section({"mistakes": summarize_mistakes([])})
