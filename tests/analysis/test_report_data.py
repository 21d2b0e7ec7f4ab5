"""The report's facts of the data, of modalities and of point tracks, by numbers that stand in the files."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from dust.analysis.predictions import read_results
from dust.analysis.report import build_report
from dust.analysis.report.build import build_look
from dust.analysis.report.clips import players_section
from dust.analysis.report.data import CHECKED, FOUND
from dust.analysis.report.points import SIDE, draw
from dust.convert.fixes import COLUMNS
from dust.datasets.manifest.clips import Clip, Clips
from dust.datasets.multimodal.series import Window
from dust.datasets.tracks.files import Tracks
from dust.deploy.reading_fused import FusedReader
from dust.engine import data_lists
from dust.engine.data_lists import TRAIN_LIST, record_training_list
from dust.utils.errors import DataError
from dust.utils.files import write_csv
from tests.analysis.test_compare import predictions, run
from tests.convert.test_health import clip
from tests.engine.test_data_lists import Listed


def section(page, mark):
    (found,) = re.findall(f'<section id="{mark}">(.*?)</section>', page, re.DOTALL)
    return found


def cells(page, mark):
    rows = re.findall("<tr.*?</tr>", section(page, mark), re.DOTALL)
    return [re.findall("<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]


@pytest.fixture
def tested(tmp_path):
    """A run of six tested clips, whose training had five, one of them of a group that was tested too."""
    folder, file = tmp_path / "kitchen", clip(tmp_path / "a.mp4")
    run(folder, np.arange(6) % 3, np.ones(6, bool), f"DATA:\n  PATH_TO_DATA_DIR: {tmp_path}\n", groups=list("ppqrst"))
    labels, groups = (0, 0, 1, 2, 2), "pxxyz"
    train = [Clip(f"t{n}", file, labels[n], groups[n]) for n in range(5)]
    record_training_list(folder, train, Listed(Clip("v", str(tmp_path / "v.mp4"), 1, "v")))
    return folder


def test_clips_of_each_class_and_split(tested, tmp_path):
    page = build_report(tested)
    assert cells(page, "the-data") == [
        ["clips", "train", "val", "test"],
        ["all", "5", "1", "6"],
        ["cut", "2", "0", "2"],
        ["pour, slow", "1", "1", "2"],
        ["stir", "2", "0", "2"],
    ]
    said = section(page, "the-data")
    assert "4 groups in train, 5 in test; 1 in both" in said and f"dust check {tmp_path}</code> does that" in said
    assert "Lengths and sizes" not in said, "nothing is opened after a test"


def test_what_check_found_and_how_long_clips_are(tested, tmp_path):
    head = ["level", "kind", "split", "id", "path", "detail", "action", "label"]
    write_csv(tmp_path / "check.csv", head, [["error", "leak", "train", f"t{n}", "", "", "drop", ""] for n in (1, 2)])
    page = build_report(tested, clips=1)
    assert ["error", "leak", "train", "2"] in cells(page, "the-data")
    assert ["train", "1", "0.8", "0.8", "0.8", "32 x 32", "30"] in cells(page, "the-data"), "one file, 24 frames"


@pytest.mark.parametrize("text", ["[", '{"samples": 3}', "{}", '{"warnings": [], "samples": [], "val_labels": 7}'])
def test_a_training_list_that_cannot_be_read_costs_its_counts_only(tested, text):
    (tested / TRAIN_LIST).write_text(text)
    assert cells(build_report(tested), "the-data")[:2] == [["clips", "test"], ["all", "6"]]


def test_each_modality_alone_and_without_each(tmp_path):
    run(tmp_path / "f", np.arange(6) % 3, np.ones(6, bool), "DATA:\n  MODALITIES: [series, video_features]\n")
    metrics = {
        "top1_acc": 90.0,
        "video_top1_acc": 51.0,
        "series_top1_acc": 40.0,
        "no_series_top1_acc": 30.0,
        "map": 3.0,
    }
    (tmp_path / "f" / "results" / "test.json").write_text(json.dumps({"metrics": metrics}))
    rows = [row[:2] for row in cells(build_report(tmp_path / "f"), "modalities")]
    assert rows[1:] == [
        ["all together", "90.00"],
        ["video alone", "51.00"],
        ["series alone", "40.00"],
        ["without series", "30.00"],
    ]
    (tmp_path / "f" / "config.yaml").write_text("DATA:\n  MODALITIES: [series]\n")
    assert 'id="modalities"' not in build_report(tmp_path / "f")


def test_check_found_nothing_only_where_it_has_looked(tested, tmp_path):
    """A short file of another tool that has the name says nothing of dust."""
    assert COLUMNS[CHECKED] == FOUND
    for text, says in ((",".join(FOUND) + "\n", "found nothing"), ("level,kind\n", ""), ("md5,file\n1,a\n", "")):
        (tmp_path / "check.csv").write_text(text)
        page = section(build_report(tested), "the-data")
        assert ("found nothing" in page) == bool(says) and "Found by dust check" not in page


def test_a_long_training_list_without_groups_has_none(tested, tmp_path, monkeypatch):
    """It is read as columns then, in which no group is None."""
    monkeypatch.setattr(data_lists, "MANY", 2)
    train = Clips.of([Clip(f"t{n}", str(tmp_path / "a.mp4"), 0) for n in range(5)])
    record_training_list(tested, train, Listed(Clip("v", str(tmp_path / "v.mp4"), 1, "v")))
    page = section(build_report(tested), "the-data")
    assert "in both" not in page and "<td class=n>5" in page


def test_segments_of_one_video_are_one_file(tested, tmp_path):
    train = [Clip(f"a.mp4#{n}-{n + 1}", str(tmp_path / "a.mp4"), 0) for n in range(300)]
    record_training_list(tested, train, Listed(Clip("v", str(tmp_path / "v.mp4"), 1, "v")))
    page = build_report(tested, clips=1)
    assert cells(page, "the-data")[-1][:3] == ["train", "1", "0.8"] and "were opened" not in section(page, "the-data")


@pytest.mark.parametrize(
    ("modalities", "metrics", "says"),
    [
        ("5", {"top1_acc": 9.0}, "DATA.MODALITIES of the run is 5, no list of names"),
        ("[1, 2]", {"top1_acc": 9.0}, "[1, 2], no list of names"),
        ("[series, video]", {"top1_acc": 9.0, "series_top1_acc": None, "no_series_top1_acc": 3.0}, "series_top1_acc."),
        ("[series, video]", {"top1_acc": 9.0, "series_top1_acc": "good"}, "no number: series_top1_acc"),
        ("[series, video]", {"top1_acc": None, "series_top1_acc": 3.0}, "no number: top1_acc"),
    ],
)
def test_odd_figures_of_modalities_are_left_out_with_a_line(tmp_path, modalities, metrics, says):
    run(tmp_path / "f", np.arange(6) % 3, np.ones(6, bool), f"DATA:\n  MODALITIES: {modalities}\n")
    (tmp_path / "f" / "results" / "test.json").write_text(json.dumps({"metrics": metrics}))
    found = section(build_report(tmp_path / "f"), "modalities")
    assert says in found and ("without series" in found) == ("no_series_top1_acc" in metrics)


def walk(view):
    """Two points of which one stands still and the other goes right; the second is hidden in the end."""
    xy = np.zeros((10, 2, 2), np.float32)
    xy[:, 0], xy[:, 1] = (20, 60), np.stack([np.linspace(20, 80, 10), np.full(10, 20 + 10 * view)], axis=1)
    visible = np.ones((10, 2), bool)
    visible[9, 1] = False
    return Tracks(xy, visible, (80, 100), 10.0)


def test_points_are_drawn_where_they_are():
    film = draw({0: walk(0), 3: walk(1), 4: walk(2)})
    height = SIDE * 8 // 10
    assert film.shape == (10, 2 * height, 2 * SIDE, 3)
    bright = film.max(axis=-1) > 130
    assert (
        bright[:, 2 * 60, 2 * 20].all() and bright[:, 2 * 60, SIDE + 2 * 20].all() and bright[:, height + 120, 40].all()
    )
    assert bright[0, 2 * 20, 2 * 20] and bright[8, 40, round(2 * walk(0).xy[8, 1, 0])]
    assert not bright[9, 40, 150:SIDE].any(), "hidden"
    assert not film[:, height + 5 :, SIDE + 5 :].any(), "there is no fourth camera"


def test_tracks_play_with_all_cameras_of_the_test(tmp_path):
    for view in range(3):
        one = walk(view)
        np.savez(tmp_path / f"walk_view_{view}.npz", tracks=one.xy, visibility=one.visible, size=np.array(one.size))
    predictions(tmp_path / "f" / "results" / "predictions.csv", [0], np.array([True]))
    path = tmp_path / "f" / "results" / "predictions.csv"
    path.write_text(path.read_text().replace("0.mp4", str(tmp_path / "walk_view_0.npz")))
    (tmp_path / "f" / "results" / "test.json").write_text('{"metrics": {}}')
    (tmp_path / "f" / "config.yaml").write_text("TRACKS:\n  VIEWS: [0, 2]\n")
    assert build_report(tmp_path / "f", clips=1).count("<video") == 1
    for odd in ("VIEWS: 3", "FRAME_SIZE: 7", "FRAME_SIZE: [a, b]", "FRAME_SIZE: [5]", "VISIBILITY_THRESHOLD: x"):
        (tmp_path / "f" / "config.yaml").write_text(f"TRACKS:\n  {odd}\n")
        assert f"can be shown: TRACKS.{odd.partition(':')[0]} of the run is " in build_report(tmp_path / "f", clips=1)
    (tmp_path / "f" / "config.yaml").unlink()
    (tmp_path / "walk_view_2.npz").write_bytes(b"damaged")
    assert "None of 1 clip can be shown" in build_report(tmp_path / "f", clips=1)


@pytest.mark.parametrize("name", ["s.npy", "s.npy#0", "S.NPY"])
def test_a_series_has_its_picture(tmp_path, name):
    """It cannot play: with maps the picture of what its parts add stands there, without maps a line says so."""
    predictions(tmp_path / "predictions.csv", [0], np.array([True]))
    path = tmp_path / "predictions.csv"
    path.write_text(path.read_text().replace("0.mp4", str(tmp_path / name)))
    with open(tmp_path / name.partition("#")[0], "wb") as file:
        np.save(file, np.zeros((3, 20)))
    results = read_results(path)
    for look, says in ((lambda clip, answer: f"<img alt='{answer}'>", "<img alt='cut'>"), (None, "can be shown")):
        assert says in players_section(results, results.answers[0], np.array([0]), look)


def test_a_window_of_a_series_is_explained_and_not_the_whole(monkeypatch, tmp_path):
    asked = []

    def explain(predictor, source, **options):
        asked.append(source)
        raise DataError("seen")

    reader = FusedReader(lambda clips: None, lambda path: [], ("series",), None, None)
    monkeypatch.setattr("dust.deploy.loading.load", lambda run, device: SimpleNamespace(reader=reader))
    monkeypatch.setattr("dust.analysis.explain.explain", explain)
    path = tmp_path / "predictions.csv"
    predictions(path, [0], np.array([True]), ids=["s.npz#1-3"])
    path.write_text(path.read_text().replace("s.npz#1-3.mp4", "s.npz"))
    results = read_results(path)
    players_section(results, results.answers[0], np.array([0]), build_look(tmp_path))
    (sample,) = asked
    assert (sample.series, sample.window) == ("s.npz", Window(1, 3))
