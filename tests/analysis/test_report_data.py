"""The report's facts of the data, of modalities and of point tracks, by numbers that stand in the files."""

import json
import re

import numpy as np
import pytest

from dust.analysis.predictions import read_results
from dust.analysis.report import build_report
from dust.analysis.report.clips import players_section
from dust.analysis.report.points import SIDE, draw
from dust.datasets.manifest.clips import Clip
from dust.datasets.tracks.files import Tracks
from dust.engine.data_lists import TRAIN_LIST, record_training_list
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
    assert ["train", "5", "0.8", "0.8", "0.8", "32 x 32", "30"] in cells(page, "the-data"), "24 frames"


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
    (tmp_path / "walk_view_2.npz").write_bytes(b"damaged")
    assert "None of 1 clip can be shown" in build_report(tmp_path / "f", clips=1)


def test_a_series_has_its_picture(tmp_path):
    """It cannot play: with maps the picture of what its parts add stands there, without maps a line says so."""
    predictions(tmp_path / "predictions.csv", [0], np.array([True]))
    path = tmp_path / "predictions.csv"
    path.write_text(path.read_text().replace("0.mp4", str(tmp_path / "s.npy")))
    np.save(tmp_path / "s.npy", np.zeros((3, 20)))
    results = read_results(path)
    for look, says in ((lambda clip, answer: f"<img alt='{answer}'>", "<img alt='cut'>"), (None, "can be shown")):
        assert says in players_section(results, results.answers[0], np.array([0]), look)
