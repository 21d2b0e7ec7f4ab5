"""The report: one page without outside addresses, whose cells show their clips, for tests of every kind."""

import base64
import json
import re
import shutil
import time

import numpy as np
import pytest

from dust.analysis.compare import compare_runs
from dust.analysis.curation import curate_answers
from dust.analysis.predictions import read_all, read_results
from dust.analysis.report import build_report, write_report
from dust.analysis.report.build import intervals_of, report_of_test
from dust.cli.main import main
from dust.engine.run_dir import RunDir
from dust.engine.test import run_stage as run_test
from dust.utils.errors import DataError
from dust.utils.files import write_csv
from tests.analysis.test_compare import run
from tests.browser import chromium
from tests.convert.test_health import clip
from tests.helpers import csv_lists


@pytest.fixture
def run_of_the_suite(request):  # `run` is a helper here
    return request.getfixturevalue("run")


def a_tested_run(folder, count=40, **options):
    """A run with results, curves and clips that can be read but for the last."""
    labels = np.arange(count) % 3
    rng = np.random.default_rng(0)
    run(folder, labels, rng.random(count) < 0.7, **options)
    stats = [{"_type": f"{kind}_epoch", "epoch": f"{e}/3", "loss": 1 / e, "top1_err": 50 / e}
             for e in (1, 2, 3) for kind in ("train", "val")]  # fmt: skip
    (folder / "stdout.log").write_text("".join(f"[x] json_stats: {json.dumps(one)}\n" for one in stats))
    metrics = {"top1_acc": 70.0, "macro_f1": 69.0}
    report = {"metrics": metrics, "counts": {"samples": count, "bad_clips": 1}, "checkpoint_sha256": "abc"}
    (folder / "results" / "test.json").write_text(json.dumps(report))
    (folder / "bad_clips.csv").write_text("split,id,path,reason\ntest,x,x.mp4,<script>alert(1)</script>\n")
    return folder


def test_a_page_by_itself(tmp_path):
    page = build_report(a_tested_run(tmp_path / "kitchen"))
    for wanted in ("Summary", "Learning curves", "Confusion", "Classes", "believed", "Clips", "40 clips", "top1_acc"):
        assert wanted in page
    assert "1 clip could not be read" in page and "pour, slow" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page) and "http" not in page.split("<script>")[0]
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page


def test_names_cannot_leave_their_place(tmp_path):
    folder = tmp_path / "kitchen"
    run(folder, np.zeros(2, int), np.ones(2, bool), ids=["</script><b>x", '"onload=y'])
    page = build_report(folder)
    assert "</script><b>x" not in page and "\\u003c/script" in page


def test_the_clips_of_a_cell_are_shown_and_play(tmp_path):
    folder = a_tested_run(tmp_path / "kitchen", count=9)
    lines = (folder / "results" / "predictions.csv").read_text().splitlines()
    rows = []
    for number, line in enumerate(lines[1:]):
        cells = line.split(",")
        cells[1] = str(clip(tmp_path / f"{number}.mp4", number) if number < 8 else tmp_path / "gone.mp4")
        rows.append(",".join(cells))
    (folder / "results" / "predictions.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    path = write_report(folder, clips=9)
    assert path == folder / "results" / "report.html" and path.stat().st_size < 2e6
    assert path.read_text().count("<video") == 8 and "gone" in path.read_text()
    assert path.read_text().count('poster="data:image/jpeg') == 8, "what is seen until a clip plays, and on paper"
    with chromium(tmp_path / "profile") as page:
        page.get(f"file://{path}")
        for width in (400, 900):  # a telephone: what is wider scrolls by itself
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": True}
            page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            assert page.execute_script("return document.documentElement.scrollWidth") == width
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        shown = page.find_element("id", "shown")
        assert shown.text == "9 clips"
        cell = page.find_element("css selector", ".matrix td.pick:not(:empty)")
        cell.click()
        assert f"{cell.text} clips of {cell.get_attribute('data-l')}" in shown.text
        assert len(page.find_elements("css selector", "#clips tbody tr")) == int(cell.text)
        page.find_element("id", "all").click()
        page.find_element("id", "filter").send_keys("stir")
        assert 0 < len(page.find_elements("css selector", "#clips tbody tr")) < 9
        video = page.find_element("tag name", "video")
        page.execute_script("arguments[0].play()", video)
        deadline = time.monotonic() + 20
        while not page.execute_script("return arguments[0].currentTime > 0", video):
            assert time.monotonic() < deadline, "the video does not play"
            time.sleep(0.1)


def test_recordings_and_several_labels(tmp_path):
    results = tmp_path / "keystep" / "results"
    results.mkdir(parents=True)
    recordings = {f"r{n}": {"f1": 0.9, "pos": 1.0, "tau_s": 2.0, "tp": 3, "fp": 0, "fn": 1} for n in range(12)}
    (results / "test.json").write_text(json.dumps({"recordings": recordings, "metrics": {"f1": 0.9, "tau_s": 2.0}}))
    page = build_report(tmp_path / "keystep")
    assert "Recordings" in page and "r11" in page and "95 % interval" in page
    several = tmp_path / "several" / "results"
    several.mkdir(parents=True)
    (several / "test.json").write_text('{"metrics": {"map": 70.0}}')
    rows = [[n, f"{n}.mp4", "x,y", "x", 0.9, 0.1 * (n % 9)] for n in range(20)]
    write_csv(several / "predictions.csv", ["id", "path", "label", "prediction", "prob_x", "prob_y"], rows)
    assert "Expected calibration error" in build_report(tmp_path / "several")


@pytest.mark.parametrize("written", [{"top1_acc": 3}, {"top1_acc": [1, "x"]}, {"top1_acc": [1]}])
def test_intervals_that_cannot_be_read_are_computed(tmp_path, written):
    folder = a_tested_run(tmp_path / "kitchen")
    (folder / "results" / "test.json").write_text(json.dumps({"metrics": {"top1_acc": 70.0}, "intervals": written}))
    low, high = next((one.low, one.high) for name, one in intervals_of(read_results(folder)).items())
    assert 40 < low < 70 < high < 90


@pytest.mark.parametrize("recordings", [{"r1": 3}, {}, [1], {"r1": {}, "r2": None}])
def test_recordings_that_cannot_be_read(tmp_path, recordings):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "test.json").write_text(json.dumps({"recordings": recordings}))
    with pytest.raises(DataError, match="test the run again"):
        build_report(tmp_path)


@pytest.mark.parametrize("count", [1, 2])
def test_tiny_tests(tmp_path, count):
    assert "little more than a guess" in build_report(a_tested_run(tmp_path / "kitchen", count=count))


def test_a_large_test_makes_a_small_page(tmp_path):
    folder = tmp_path / "large"
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 30_000)
    run(folder, labels, rng.random(30_000) < 0.9)
    page = build_report(folder)
    assert len(page) < 3e6 and "10000 clips that are right and sure are left out" in page


def test_a_test_writes_it_by_itself(tiny, run_of_the_suite):
    """TEST.REPORT, unless it is off or the test is very large."""
    checkpoint = str(run_of_the_suite / "checkpoints" / "checkpoint_epoch_00001.pyth")
    for name, wanted in (("with", True), ("without", False)):
        cfg = tiny(name, TEST__CHECKPOINT_FILE_PATH=checkpoint, TEST__REPORT=wanted)
        run_test(cfg, RunDir(cfg.OUTPUT_DIR))
        assert (RunDir(cfg.OUTPUT_DIR).results / "report.html").exists() == wanted


def test_what_the_model_looked_at_stands_beside_the_clips(run_of_the_suite, tmp_path):
    path = write_report(run_of_the_suite, clips=3, maps=True, path=tmp_path / "r.html")
    assert path.read_text().count("<video") == 6
    path = write_report(run_of_the_suite, clips=3, path=tmp_path / "r.html")
    assert path.read_text().count("<video") == 3


def test_none_of_a_very_large_test(tmp_path, caplog):
    folder = a_tested_run(tmp_path / "kitchen")
    (folder / "results" / "test.json").write_text(json.dumps({"metrics": {}, "counts": {"samples": 200_001}}))
    with caplog.at_level("INFO", logger="dust"):
        assert report_of_test(folder) is None
    assert "200001 clips" in caplog.text and not (folder / "results" / "report.html").exists()


def test_a_pdf_where_there_is_a_browser(tmp_path, monkeypatch, capsys):
    folder = a_tested_run(tmp_path / "kitchen")
    if shutil.which("chromium") is None:
        pytest.skip("no chromium")
    assert main(["report", str(folder), "--clips", "0", "--pdf"]) == 0
    written = folder / "results" / "report.pdf"
    assert written.read_bytes()[:5] == b"%PDF-" and str(written) in capsys.readouterr().out
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["report", str(folder), "--pdf"]) == 2
    assert "--pdf needs a browser" in capsys.readouterr().err


def test_the_sub_command(tmp_path, capsys):
    a_tested_run(tmp_path / "kitchen")
    assert main(["report", str(tmp_path / "kitchen"), "--clips", "0", "-o", str(tmp_path / "page.html")]) == 0
    assert "page.html" in capsys.readouterr().out and (tmp_path / "page.html").is_file()
    assert main(["report", str(tmp_path / "none")]) == 2
    with pytest.raises(DataError, match="no results of a test"):
        build_report(tmp_path)


def test_what_is_no_run_is_refused(tmp_path, capsys):
    folder = a_tested_run(tmp_path / "kitchen", 6)
    assert main(["report", str(folder / "results" / "predictions.csv")]) == 2
    assert "is a file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["report", str(folder), "--clips", "-1"])
    (folder / "results" / "test.json").write_text('{"metrics": [1]}')
    assert main(["report", str(folder)]) == 2
    assert "metrics is [1], which no test writes" in capsys.readouterr().err


def test_a_folder_of_results_is_that_of_its_run(tmp_path):
    """A run without config.yaml, too: what lies beside the run's folder is none of it."""
    folder = a_tested_run(tmp_path / "kitchen", 6)
    (folder / "config.yaml").unlink()
    (tmp_path / "bad_clips.csv").write_text("split,id,path,reason\ntest,x,x.mp4,of another\n")
    for named in (folder, folder / "results"):
        page = build_report(named)
        assert "of another" not in page and "Learning curves" in page and "alert(1)" in page


def test_what_lies_beside_the_results(tmp_path):
    """Timelines of the worst recordings, an interval that nobody knows, counts as whole numbers."""
    results = tmp_path / "keystep" / "results"
    (results / "timelines").mkdir(parents=True)
    recordings = {name: {"f1": f1, "pos": 1.0, "tau_s": 2.0} for name, f1 in (("good", 0.9), ("a/b", 0.1))}
    report = {"recordings": recordings, "metrics": {"f1": 0.5, "tau_s": 2.0, "tp": 7.0}}
    report["intervals"] = {"f1": [0.0, 1.0], "tau_s": [-np.inf, np.inf]}
    (results / "test.json").write_text(json.dumps(report))
    (results / "timelines" / "a_b.png").write_bytes(b"png of a/b")
    page = build_report(tmp_path / "keystep", clips=1)
    assert "<h3>a/b</h3>" in page and base64.b64encode(b"png of a/b").decode() in page and "<h3>good" not in page
    assert "<td class=n>unknown</td><td></td>" in page and "inf" not in page.split("<section")[1]
    assert "<td class=n>7</td>" in page and "Timelines" not in build_report(tmp_path / "keystep")


def test_routes_and_cameras(tmp_path):
    folder = a_tested_run(tmp_path / "kitchen", 6)
    rows = [[n, f"{n}.mp4", group, selected, selected] for n, (group, selected) in enumerate([(0, 1), (0, 1), (1, "")])]
    write_csv(folder / "results" / "routing.csv", ["id", "path", "group", "selected", "routes"], rows)
    (folder / "view_ablation").mkdir()
    table = [["0", 1, "41.2345"], ["0 1", 2, "98.4"]]
    write_csv(folder / "view_ablation" / "views.csv", ["views", "num_views", "top1_acc"], table)
    page = build_report(folder)
    assert "<td>0</td><td class=n></td><td class=n>2</td>" in page and "Cameras" in page
    assert "<td>0 1</td><td class=n>2</td><td class=n>98.40</td>" in page


def test_another_run_beside_this_one(tmp_path, capsys):
    """The figures are those of dust compare; the wrong ones are refused before the page is written."""
    for name, seed in (("a", 1), ("b", 2)):
        a_tested_run(tmp_path / name, 40, seed=seed)
    run(tmp_path / "b", np.arange(40) % 3, np.arange(40) % 5 > 0)
    assert main(["report", str(tmp_path / "a"), "--clips", "0", "--against", str(tmp_path / "b")]) == 0
    page = (tmp_path / "a" / "results" / "report.html").read_text()
    (found,) = compare_runs(read_all([tmp_path / "a", tmp_path / "b"]))
    one = found.metrics["top1_acc"]
    assert f"<td class=n>{one.difference:+.2f}</td><td class=n>{one.low:+.2f} to {one.high:+.2f}</td>" in page
    assert "now right" in page and "Compared" in page
    run(tmp_path / "c", np.arange(9) % 3, np.ones(9, bool), ids=[f"other{n}" for n in range(9)])
    assert main(["report", str(tmp_path / "a"), "--clips", "0", "--against", str(tmp_path / "c")]) == 2
    assert "no clip in common" in capsys.readouterr().err


def test_clips_that_no_player_plays(tmp_path):
    """Points and series: one line, no wall of errors. Clips without a label are no mistakes."""
    folder = tmp_path / "tracks"
    run(folder, np.arange(6) % 3, np.ones(6, bool))
    page = build_report(folder, clips=4)
    assert "None of 4 clips can be shown: " in page and "<figure" not in page
    path = folder / "results" / "predictions.csv"
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *(row.replace("cut,cut", ",cut") for row in rows)]) + "\n")
    path.write_text(path.read_text().replace("0,0.mp4", f"0,{clip(tmp_path / 'real.mp4', 0)}", 1))
    assert "answered <bdi>cut</bdi>" in build_report(folder, clips=6)


@pytest.mark.parametrize(
    "change", [np.log, lambda one: 100 * one, lambda one: one / 2], ids=["logs", "percent", "half"]
)
def test_scores_that_are_no_probabilities(tmp_path, change):
    """Anybody's file may hold logits: calibration figures of them would be noise."""
    folder = a_tested_run(tmp_path / "kitchen")
    path = folder / "results" / "predictions.csv"
    rows = csv_lists(path)
    for row in rows[1:]:
        row[4:] = [f"{value:.6g}" for value in change(np.array(row[4:], float))]
    rows[1][1] = clip(tmp_path / "real.mp4", 0)
    write_csv(path, rows[0], rows[1:])
    page = build_report(folder, clips=100)
    assert "they are no probabilities" in page and "Expected calibration error" not in page
    shown = re.findall("<figcaption>.*?</figcaption>", page)
    assert shown and not any("%" in caption for caption in shown)
    with pytest.raises(DataError, match="no probabilities.*softmax"):
        curate_answers(read_results(folder))
