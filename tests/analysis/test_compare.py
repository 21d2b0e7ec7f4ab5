"""dust compare: pairs by id, says what differs besides the answers, refuses what cannot be compared."""

import json

import numpy as np
import pytest

from dust.analysis.compare import compare_runs, json_of, text_of
from dust.analysis.predictions import read_all, read_results
from dust.cli.main import main
from dust.utils.errors import DataError
from dust.utils.files import write_csv
from dust.utils.metrics import classification_metrics
from dust.utils.statistics import mcnemar_p

CLASSES = ["cut", "pour, slow", "stir"]


def predictions(path, labels, right, *, ids=None, classes=CLASSES, groups=None, seed=0):
    """A predictions.csv whose answers are right where ``right``; returns the scores that are written."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels)
    answers = np.where(right, labels, (labels + 1) % len(CLASSES))
    scores = rng.random((len(labels), len(CLASSES))) * 0.2
    scores[np.arange(len(labels)), answers] += 1
    scores /= scores.sum(axis=1, keepdims=True)
    order = [CLASSES.index(name) for name in classes]
    header = ["id", "path", "label", "prediction", *(f"prob_{name}" for name in classes)]
    rows = [
        [one, f"{one}.mp4", CLASSES[label], CLASSES[answer], *(f"{value:.6g}" for value in row[order])]
        for one, label, answer, row in zip(ids or range(len(labels)), labels, answers, scores, strict=True)
    ]
    if groups is not None:
        header, rows = [*header, "group"], [[*row, group] for row, group in zip(rows, groups, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, header, rows)
    return scores


def run(folder, labels, right, config="MODEL:\n  DEPTH: 2\n", **options):
    scores = predictions(folder / "results" / "predictions.csv", labels, right, **options)
    (folder / "results" / "test.json").write_text('{"metrics": {}}')
    (folder / "config.yaml").write_text(config)
    return scores


def test_figures_pairs_and_changes(tmp_path):
    rng = np.random.default_rng(0)
    labels, first, second = rng.integers(0, 3, 60), rng.random(60) < 0.6, rng.random(60) < 0.9
    scores = run(tmp_path / "a", labels, first, groups=np.arange(60) // 3)
    order = rng.permutation(60)  # the other run has its rows and classes in another order
    run(
        tmp_path / "b", labels[order], second[order], "MODEL:\n  DEPTH: 3\n", ids=list(order), groups=order // 3,
        classes=CLASSES[::-1],
    )  # fmt: skip
    (found,) = compare_runs([read_results(tmp_path / name) for name in "ab"])
    assert found.clips == 60 and found.groups == 20
    for name, value in classification_metrics(scores, labels).items():
        assert found.metrics[name].a == pytest.approx(value, abs=1e-4)
    assert found.metrics["top1_acc"].b == pytest.approx(100 * second.mean())
    assert found.metrics["top1_acc"].p < 0.05 and found.metrics["top1_acc"].low > 0
    assert found.mcnemar[""] == ((first & ~second).sum(), (second & ~first).sum(), mcnemar_p(first, second))
    kinds = [row[-1] for row in found.changed]
    assert kinds.count("now right") == (second & ~first).sum() and kinds.count("now wrong") == (first & ~second).sum()
    for _, name, clips, before, after in found.per_class:
        of_class = labels == CLASSES.index(name)
        assert (clips, before, after) == (of_class.sum(), 100 * first[of_class].mean(), 100 * second[of_class].mean())
    assert found.configuration == ["MODEL.DEPTH: 2 -> 3"]
    said = text_of(found)
    assert "MODEL.DEPTH: 2 -> 3" in said and "60 clips in 20 groups" in said and "pour, slow" in said


def test_files_and_terminal(tmp_path, capsys):
    labels = np.arange(30) % 3
    for name, wrong in (("a", 9), ("b", 3), ("c", 6)):
        run(tmp_path / name, labels, np.arange(30) >= wrong)
    words = [str(tmp_path / name) for name in "abc"]
    assert main(["compare", *words, "--out", str(tmp_path / "out"), "--json", str(tmp_path / "one.json")]) == 0
    said = capsys.readouterr().out
    assert "a -> b" in said and "a -> c" in said and "70.00" in said
    assert "no difference in top1_acc that chance would not make (p 0.06" in said, "of two comparisons"
    several = json.loads((tmp_path / "one.json").read_text())
    assert set(several) == {"b", "c"} and set(several["b"]["top1_acc"]) == {"a", "b", "difference", "low", "high", "p"}
    assert several["b"]["top1_acc"]["difference"] == pytest.approx(20.0)
    assert (tmp_path / "out" / "changed.csv").read_text().count("\n") == 1 + 6 + 3
    two = compare_runs([read_results(word) for word in words[:2]])
    assert "top1_acc of b is 20.00 higher: chance alone would rarely make that (p 0.03" in text_of(two[0])
    alone = json_of(two)
    assert several["b"]["top1_acc"]["p"] >= alone["top1_acc"]["p"], "two comparisons are corrected for"


def test_other_clips_are_said_or_refused(tmp_path):
    labels = np.arange(30) % 3
    predictions(tmp_path / "a.csv", labels, labels < 2)
    predictions(tmp_path / "b.csv", labels[:20], labels[:20] < 2)
    predictions(tmp_path / "c.csv", labels, labels < 2, ids=[f"x{number}" for number in range(30)])
    predictions(tmp_path / "d.csv", (labels + 1) % 3, labels < 2)
    a, b, c, d = (read_results(tmp_path / f"{name}.csv") for name in "abcd")
    (found,) = compare_runs([a, b])
    assert found.clips == 20 and "20 clips that both have" in found.notes[0] and "was tested on 30" in found.notes[0]
    with pytest.raises(DataError, match="no clip in common"):
        compare_runs([a, c])
    with pytest.raises(DataError, match="different labels for 30"):
        compare_runs([a, d])
    with pytest.raises(DataError, match="at least two"):
        compare_runs([a])


def test_predictions_of_first_places_only(tmp_path):
    """What is missing is said by the names of its columns; the rest is measured."""
    labels = np.arange(12) % 3
    predictions(tmp_path / "a.csv", labels, labels < 2)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    (tmp_path / "b.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))  # the last class is missing
    b = read_results(tmp_path / "b.csv")
    assert not b.answers[0].graded and b.answers[0].missing == ("prob_stir",)
    (found,) = compare_runs([read_results(tmp_path / "a.csv"), b])
    assert found.metrics["top1_acc"].difference == 0 and not found.changed
    said = text_of(found)
    assert "no difference in top1_acc that chance would not make (p 1.000)" in said
    assert "note: no answer differs: the intervals say how far" in said and "[-24.25, +24.25]" in said


def test_whole_recordings(tmp_path):
    for name, f1 in (("a", 0.5), ("b", 1.0)):
        (tmp_path / name / "results").mkdir(parents=True)
        recordings = {f"r{n}": {"f1": f1, "pos": 1.0, "tau_s": None if n == 3 else 2.0} for n in range(15)}
        (tmp_path / name / "results" / "test.json").write_text(json.dumps({"recordings": recordings}))
    (found,) = compare_runs([read_results(tmp_path / name) for name in "ab"])
    assert found.metrics["f1"].difference == pytest.approx(50.0) and found.metrics["f1"].p < 0.001
    assert found.metrics["tau_s"].p == 1.0 and "14 recordings" in " ".join(found.notes)


def test_verbs_and_nouns(tmp_path):
    header = ["id", "path", "verb", "verb_prediction", "verb_prob", "noun", "noun_prediction", "noun_prob"]
    rows = [[n, n, "cut", "cut" if n % 2 else "stir", 0.9, "egg", "egg", 0.9] for n in range(20)]
    write_csv(tmp_path / "a.csv", header, rows)
    write_csv(tmp_path / "b.csv", header, [[*row[:3], "cut", *row[4:]] for row in rows])
    (found,) = compare_runs([read_results(tmp_path / f"{name}.csv") for name in "ab"])
    assert found.metrics["verb_top1_acc"].difference == 50 and found.metrics["noun_top1_acc"].difference == 0
    assert found.metrics["all_of_verb_noun"].b == 100
    write_csv(tmp_path / "c.csv", [f"{one}_label" if one in ("verb", "noun") else one for one in header], rows)
    write_csv(tmp_path / "d.csv", ["id", "prediction"], [[n, "cut"] for n in range(20)])
    for names, says in (
        ("ac", "c: no clip has a label.*the column verb, beside verb_prediction"),
        ("dd", "the column label, beside prediction"),
        ("ad", "a has the columns verb_prediction, noun_prediction, d has prediction"),
    ):
        with pytest.raises(DataError, match=says):
            compare_runs([read_results(tmp_path / f"{name}.csv") for name in names])


def test_several_labels_each(tmp_path):
    (tmp_path / "a.csv").write_text(
        "id,label,prediction,prob_x,prob_y,prob_z\n" + "\n".join(f'{n},"x,y",x,0.9,0.{n % 9},0.3' for n in range(20))
    )
    (found,) = compare_runs([read_results(tmp_path / "a.csv")] * 2)
    assert set(found.metrics) == {"map"} and found.metrics["map"].difference == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no line"),
        ("id,label,prediction\n", "only a header"),
        ("label,prediction\nx,y\n", "no column id or path"),
        ("id,label\n1,x\n", "no column prediction"),
        ("id,label,prediction\n1,x,x\n1,x,y\n", "'1' for one"),
        ("id,label,prediction,prob_x\n1,x,x,high\n", "no number"),
        ("id,label,prediction,prob_x\n1,x,x,nan\n", "row 2 has a probability that is not finite"),
        ("id,label,prediction,prob_x,prob_y\n1,x,x,0.5,0.5\n2,x,x,0.4,0.6\n", "row 3 for one: 'x', but prob_y"),
        ("id,label,prediction\n1,x\n", "not 3 columns"),
        ("id,label,prediction\n1,x,x\n2,x,\n", "1 rows have no prediction, row 3"),
        ("id,verb,verb_prediction\n1,x, \n", "no verb_prediction, row 2"),
    ],
)
def test_files_that_are_no_predictions(tmp_path, text, says):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        read_results(tmp_path / "p.csv")


def test_folders_that_hold_no_results(tmp_path, capsys):
    run(tmp_path / "root" / "stage2", np.arange(3), np.ones(3, bool))
    with pytest.raises(DataError, match="stage2"):
        read_results(tmp_path / "root")
    assert main(["compare", str(tmp_path / "none"), str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "root" / "stage2" / "results" / "test.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="far too deep: test the run again"):
        read_results(tmp_path / "root" / "stage2")


def test_one_clip_and_one_class(tmp_path):
    predictions(tmp_path / "a.csv", [0], np.array([True]))
    (found,) = compare_runs([read_results(tmp_path / "a.csv")] * 2)
    assert found.metrics["top1_acc"].p == 1.0 and "only 1 group:" in " ".join(found.notes)
    assert "1 clip in" in text_of(found) and "[unknown]" in text_of(found)
    assert json.dumps(json_of([found]), allow_nan=False) and json_of([found])["top1_acc"]["low"] is None


def test_spaces_around_cells_are_none_of_them(tmp_path):
    text = 'id, label , "prediction", prob_x, prob_y\n1, x,x , 0.9, 0.1\n 2, "y", x, 0.6, 0.4\n'
    (tmp_path / "a.csv").write_text(text)
    found = read_results(tmp_path / "a.csv")
    assert found.ids == ["1", "2"] and found.answers[0].classes == ["x", "y"] and found.answers[0].graded
    assert found.answers[0].labels.tolist() == [0, 1] and found.answers[0].scores.argmax(axis=1).tolist() == [0, 0]


def test_ids_and_classes_that_a_spreadsheet_takes_for_formulas_are_joined_as_they_are(tmp_path):
    ids = ["=1+1", "-a/b", "'@c", "plain", "b\udcff", "\tx"]
    predictions(tmp_path / "ours.csv", np.arange(6) % 3, np.ones(6, bool), ids=ids)
    found = read_results(tmp_path / "ours.csv")
    assert found.ids == ["=1+1", "-a/b", "'@c", "plain", "b\\udcff", "\\tx"]
    theirs = "id,label,prediction\n=1+1,=a,=a\n-a/b,+b,=a\n''@c,+b,+b\n"  # as another tool wrote it
    (tmp_path / "theirs.csv").write_text(theirs)
    other = read_results(tmp_path / "theirs.csv")
    assert other.ids == ["=1+1", "-a/b", "'@c"] and other.answers[0].classes == ["+b", "=a"]


def test_places_of_the_most_probable_are_not_classes(tmp_path):
    """TEST.PREDICTIONS_TOP_K writes top_1, prob_1, ...: beside classes named 1 and 2 these look like theirs."""
    rows = [[n, 1 + n % 2, 1 + n % 3 % 2, 2, 0.6, 1, 0.4] for n in range(12)]
    write_csv(tmp_path / "top.csv", ["id", "label", "prediction", "top_1", "prob_1", "top_2", "prob_2"], rows)
    answers = read_results(tmp_path / "top.csv").answers[0]
    assert not answers.graded and answers.missing == ("prob_1", "prob_2")
    assert [answers.classes[one] for one in answers.scores.argmax(axis=1)] == [str(1 + n % 3 % 2) for n in range(12)]


def test_several_labels_need_every_class(tmp_path):
    run(tmp_path / "a", np.arange(3), np.ones(3, bool), "DATA:\n  MULTI_LABEL: True\n")
    (tmp_path / "a" / "results" / "predictions.csv").write_text('id,label,prediction\n1,"x,y",x\n2,x,\n')
    with pytest.raises(DataError, match="TEST.PREDICTIONS_TOP_K 0"):
        read_results(tmp_path / "a")


@pytest.mark.parametrize("config", ["DATA: 3\n", "DATA:\n- 1\n", "TRAIN: x\n", "[1]", "a: ["])
def test_a_damaged_configuration_is_none(tmp_path, config):
    run(tmp_path / "a", np.arange(3), np.ones(3, bool), config)
    assert len(read_results(tmp_path / "a").ids) == 3


def test_groups_of_the_list_count(tmp_path, monkeypatch):
    """A test writes groups.csv beside its predictions; what is not named there belongs to its file."""
    labels = np.arange(30) % 3
    for name in "ab":
        run(tmp_path / name, labels, labels < 2)
        groups = [[n, f"person{n // 10}"] for n in range(20)]
        write_csv(tmp_path / name / "results" / "groups.csv", ["id", "group"], groups)
    (found,) = compare_runs([read_results(tmp_path / name) for name in "ab"])
    assert found.groups == 2 + 10
    monkeypatch.chdir(tmp_path / "a")
    assert read_results(".").name == "a"
    (tmp_path / "a" / "results" / "groups.csv").write_text("id,who\n1,x\n")
    with pytest.raises(DataError, match="columns id and group"):
        read_results(".")


def test_runs_of_one_name_are_told_apart(tmp_path):
    for name in ("x/a", "y/a", "z/a"):
        run(tmp_path / name, np.arange(12) % 3, np.ones(12, bool))
    found = compare_runs(read_all([tmp_path / name for name in ("x/a", "y/a", "z/a")]))
    assert set(json_of(found)) == {str(tmp_path / "y/a"), str(tmp_path / "z/a")}


def test_names_of_questions_in_capitals(tmp_path):
    write_csv(tmp_path / "a.csv", ["id", "Verb", "Verb_prediction"], [[n, "cut", "cut"] for n in range(9)])
    assert read_results(tmp_path / "a.csv").answers[0].name == "verb"


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("\n3,", "\n,", "row 5 has no id"),
        ("prob_stir", "prob_cut", "a column stands twice.*prob_cut, 2 times"),
        ("prediction,prob_cut", "prediction,PREDICTION", "prediction, 2 times"),
        ("\n0,0.mp4,cut,cut,0.", '\n0,0.mp4,cut,cut,"0,', r"row 2 has the probability '0,\d+\.?.*with a point"),
    ],
)
def test_rows_and_columns_of_anybody(tmp_path, before, after, says):
    predictions(tmp_path / "a.csv", np.arange(6) % 3, np.ones(6, bool))
    text = (tmp_path / "a.csv").read_text()
    assert before in text
    text = text.replace(before, after, 1)
    if after.endswith('"0,'):  # a comma for the point
        head, tail = text.split('"0,', 1)
        text = f'{head}"0,{tail.replace(",", chr(34) + ",", 1)}'
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=f"(?s){says}"):
        read_results(tmp_path / "a.csv")


def test_classes_that_differ_in_capitals_are_two(tmp_path):
    predictions(tmp_path / "a.csv", np.arange(6) % 3, np.ones(6, bool))
    text = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text(text.replace("prob_stir", "prob_Cut").replace(",stir,stir", ",Cut,Cut"))
    (found,) = read_results(tmp_path / "a.csv").answers
    assert found.graded and {"cut", "Cut"} < set(found.classes)


def test_a_difference_stays_possible(tmp_path):
    """Of two groups Student's quantile is 12.7: an interval ends at 100 points all the same."""
    for name, right in (("a", np.arange(40) % 2 == 0), ("b", np.arange(40) < 30)):
        run(tmp_path / name, np.arange(40) % 3, right, groups=np.arange(40) // 20)
    (found,) = compare_runs([read_results(tmp_path / name) for name in "ab"])
    assert all((one.low, one.high) == (-100, 100) for one in found.metrics.values())


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_is_read_alike_in_both_ways(tmp_path, separator, end):
    """Numbers at the ends of rows are read at once; a quote anywhere, and each cell is."""
    predictions(tmp_path / "a.csv", np.arange(9) % 3, np.arange(9) > 2)
    text = (tmp_path / "a.csv").read_text().replace('"prob_pour, slow"', "prob_pour").replace('"pour, slow"', "pour")
    text = text.replace(",", separator).replace("\n", end)
    found = []
    for name, one in (("fast", text), ("slow", text.replace("3.mp4", '"3.mp4"'))):
        (tmp_path / f"{name}.csv").write_bytes(one.encode())
        found.append(read_results(tmp_path / f"{name}.csv"))
    fast, slow = found
    assert (fast.ids, fast.paths, fast.groups) == (slow.ids, slow.paths, slow.groups) and fast.paths[3] == "3.mp4"
    np.testing.assert_array_equal(fast.answers[0].scores, slow.answers[0].scores)
    np.testing.assert_array_equal(fast.answers[0].labels, slow.answers[0].labels)
    cells = text.split(end)[4].split(separator)
    for bad, says in (("", "no number"), ("0.1x", "'0.1x' in column 6, no number"), ("nan", "not finite")):
        worse = separator.join([*cells[:5], bad, *cells[6:]])
        (tmp_path / "bad.csv").write_bytes(text.replace(separator.join(cells), worse).encode())
        with pytest.raises(DataError, match=f"row 5 has .*{says}"):
            read_results(tmp_path / "bad.csv")
    (tmp_path / "short.csv").write_bytes(text.replace(separator.join(cells), separator.join(cells[:-1])).encode())
    with pytest.raises(DataError, match="not 7 columns"):
        read_results(tmp_path / "short.csv")
