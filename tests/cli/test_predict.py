"""``dust predict`` as a user meets it: the table, the files, the exit code."""

import errno
import functools
import http.server
import json
import logging
import shutil
import threading
import types

import pytest

from dust.cli.main import main
from dust.decode import live
from dust.decode.live import FileFrames
from dust.deploy.jobs import watch
from tests.datasets.clip_files import write_clip
from tests.decode.test_live import pair
from tests.deploy.test_streams import Camera
from tests.helpers import csv_dicts


def test_files_folders_and_lists(run, clips, tmp_path, capsys):
    out = tmp_path / "out"
    words = [str(clips / "clip_14.mp4"), str(clips / "clip_1*.mp4"), str(clips / "test.csv")]
    # options stand where people put them: in front, in between, behind
    assert main(["predict", str(run), "-o", str(out), *words[:2], "--device", "cpu", words[2]]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert len(lines) == 1 + 1 + 9 + 4 and lines[0].split()[:3] == ["file", "label", "conf."]
    assert "14 clips: 14 answered" in said.err and "predictions.csv" in said.err
    table = csv_dicts(out / "predictions.csv")
    assert len(table) == 14 and set(table[0]) == {"id", "path", "label", "prediction", "prob_bright", "prob_dark"}
    document = json.loads((out / "predictions.json").read_text())
    assert document["classes"] == ["bright", "dark"] and len(document["predictions"]) == 14
    assert document["predictions"][0]["label"] == table[0]["prediction"] and table[0]["label"] == ""
    assert not (out / "bad_clips.csv").exists()


def test_corrections_are_of_labels_and_leave_no_row_unanswered(run, clips, tmp_path):
    (tmp_path / "corrections.csv").write_text("id,action,label\nclip_14.mp4,drop,\nclip_15.mp4,relabel,bright\n")
    out, words = tmp_path / "out", ["--opts", "DATA.CORRECTIONS", str(tmp_path / "corrections.csv")]
    assert main(["predict", str(run), str(clips / "test.csv"), "-o", str(out), *words]) == 0
    assert len(csv_dicts(out / "predictions.csv")) == 4


def test_broken_files_cost_their_own_line(run, clips, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_text("no video")
    out = tmp_path / "out"
    words = [str(tmp_path / "bad.mp4"), str(clips / "clip_14.mp4"), str(tmp_path / "absent.mp4")]
    assert main(["predict", str(run), *words, "-o", str(out)]) == 1
    said = capsys.readouterr()
    assert "bad.mp4" in said.out and said.out.count("unreadable:") == 2 and "2 unreadable" in said.err
    assert [row["id"] for row in csv_dicts(out / "predictions.csv")] == [words[1]]
    assert [row["path"] for row in csv_dicts(out / "bad_clips.csv")] == [words[0], words[2]]
    assert main(["predict", str(run), words[0], "-o", str(out), "--force"]) == 1
    assert not (out / "predictions.csv").exists(), "an earlier prediction's answers are not this one's"


def test_an_output_is_not_overwritten(run, clips, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["predict", str(run), str(clips / "clip_14.mp4"), "-o", str(out)]
    assert main(words) == 0
    before = (out / "predictions.json").read_bytes()
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err and (out / "predictions.json").read_bytes() == before
    assert main([*words, "--force"]) == 0


def test_a_list_without_clips_that_exist(run, clips, tmp_path, capsys):
    (tmp_path / "mine.csv").write_text(f"path\n{clips / 'clip_3.mp4'}\ngone.mp4\n")
    assert main(["predict", str(run), str(tmp_path / "mine.csv")]) == 1
    assert "gone.mp4" in capsys.readouterr().out


def test_wrong_options(run, clips, capsys):
    words = ["--threshold", "1.5", "--top", "0", "--batch-size", "-1", "--overlay", "--stride", "-2"]
    assert main(["predict", str(run), str(clips / "clip_14.mp4"), *words]) == 2
    said = capsys.readouterr().err
    for part in ("--threshold 1.5", "--top 0", "--batch-size -1", "-o DIR", "--stride -2"):
        assert part in said, "all problems at once"
    assert main(["predict", str(run)]) == 2
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(run), str(clips / "clip_14.mp4"), "--tpo", "3"])
    assert stop.value.code == 2 and "unrecognized arguments" in capsys.readouterr().err


def test_wrong_models_and_keys(run, clips, capsys):
    assert main(["predict", "nowhere", str(clips / "clip_14.mp4")]) == 2
    assert main(["predict", str(run), str(clips / "clip_14.mp4"), "--opts", "TEST.NUM_CROPS", "1"]) == 2
    assert main(["predict", str(run), str(clips / "nothing*.mp4")]) == 2
    said = capsys.readouterr().err
    assert "no such run" in said and "TEST.NUM_CROPS" in said and "no file matches" in said


def test_a_long_video_with_timeline_and_overlay(run, tmp_path, capsys):
    path = write_clip(tmp_path / "long.mp4", 60)
    (tmp_path / "bad.mp4").write_text("no video")
    out = tmp_path / "out"
    words = ["--timeline", "--overlay", "--hysteresis", "0.1", "--min-length", "0.2", "-o", str(out)]
    assert main(["predict", str(run), str(path), str(tmp_path / "bad.mp4"), *words]) == 1
    said = capsys.readouterr()
    assert "0:00:00.00 - 0:00:0" in said.out and "unreadable: cannot be opened" in said.out
    names = {one.name for one in out.iterdir()}
    assert names == {"long.windows.csv", "long.segments.csv", "long.png", "long.overlay.mp4", "timeline.json"}
    segments = csv_dicts(out / "long.segments.csv")
    assert segments[0]["start"] == "0.000" and float(segments[-1]["end"]) == pytest.approx(60 / 25, abs=0.05)
    assert json.loads((out / "timeline.json").read_text())["results"]["long"]
    for form, source in (("segments", out), ("activitynet", out / "timeline.json")):  # both make the same list
        words = ["convert-data", form, str(source), "--videos", str(tmp_path), "--out", str(tmp_path / form)]
        assert main(words) == 0
    both = [csv_dicts(tmp_path / form / "data.csv") for form in ("segments", "activitynet")]
    assert both[0] == both[1] and [row["label"] for row in both[0]] == [row["label"] for row in segments]


def test_a_full_disk_is_no_fault_of_a_video(run, tmp_path, monkeypatch, capsys):
    for name in ("a", "b"):
        write_clip(tmp_path / f"{name}.mp4", 30)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dust.utils.files.os.fsync", full)
    videos = [str(tmp_path / f"{name}.mp4") for name in ("a", "b")]
    assert main(["predict", str(run), *videos, "--timeline", "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert "No space left on device" in said.err and "unreadable" not in said.out


def test_a_timeline_is_of_a_whole_video(run, tmp_path, capsys):
    write_clip(tmp_path / "long.mp4", 60)
    (tmp_path / "videos.csv").write_text("path\nlong.mp4\n")
    (tmp_path / "parts.csv").write_text("path,start,end\nlong.mp4,0,1\n")
    for name, status in (("videos", 0), ("parts", 2)):
        words = ["predict", str(run), str(tmp_path / f"{name}.csv"), "--timeline", "-o", str(tmp_path / name)]
        assert main(words) == status
    assert "long.mp4#0-1: a timeline is of a whole video" in capsys.readouterr().err


def test_a_timeline_is_of_the_file_that_a_list_names(run, tmp_path, monkeypatch, capsys):
    """Not of a file of the same name where the command is given."""
    data, here = tmp_path / "data", tmp_path / "here"
    data.mkdir()
    here.mkdir()
    write_clip(data / "long.mp4", 60)
    write_clip(here / "long.mp4", 25)
    (data / "list.csv").write_text("id,path\nfirst,long.mp4\nsecond,gone.mp4\n")
    monkeypatch.chdir(here)
    assert main(["predict", str(run), str(data / "list.csv"), "--timeline", "--overlay", "-o", "out"]) == 1
    said = capsys.readouterr().out
    assert str(data / "long.mp4") in said and str(data / "gone.mp4") in said
    segments = csv_dicts(here / "out" / "first.segments.csv")
    assert float(segments[-1]["end"]) == pytest.approx(60 / 25, abs=0.05)
    assert len(list(FileFrames(here / "out" / "first.overlay.mp4"))) == 60


def test_names_of_files_do_not_steer_the_terminal(run, tmp_path, capsys):
    path = write_clip(tmp_path / "a.mp4", 30).rename(tmp_path / "a\x1b[31m.mp4")
    bad = tmp_path / "b\x1b[31m.mp4"
    bad.write_text("no video")
    assert main(["predict", str(run), str(path), str(bad), "--timeline", "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err and said.out.count("\\x1b[31m") == 2


def test_a_web_address_of_a_file(run, clips, tmp_path, capsys):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(clips))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        words = [f"{address}/clip_14.mp4?token=a*b", f"{address}/absent.mp4"]
        out, long = tmp_path / "out", tmp_path / "long"
        assert main(["predict", str(run), *words, "-o", str(out)]) == 1
        assert main(["predict", str(run), *words, "--timeline", "--overlay", "-o", str(long)]) == 1
        server.shutdown()
    assert capsys.readouterr().out.count("cannot be fetched") == 2
    assert (long / "clip_14.windows.csv").exists() and (long / "clip_14.overlay.mp4").exists()
    assert main(["predict", str(run), str(clips / "clip_14.mp4"), "-o", str(tmp_path / "local")]) == 0
    fetched, local = (csv_dicts(folder / "predictions.csv")[0] for folder in (out, tmp_path / "local"))
    assert fetched["prob_dark"] == local["prob_dark"] and fetched["path"] == words[0]


def test_a_watched_folder(run, clips, tmp_path, monkeypatch, capsys):
    """Files that are there, files that come, one that still grows; Ctrl-C ends it."""
    incoming, out = tmp_path / "incoming", tmp_path / "out"
    incoming.mkdir()
    shutil.copy(clips / "clip_1.mp4", incoming)
    rounds = []

    def sleep(seconds):
        rounds.append(seconds)
        clock[0] += 1.0
        if len(rounds) == 4:
            shutil.copy(clips / "clip_2.mp4", incoming)
            (incoming / "notes.txt").write_text("no clip")
        if len(rounds) in (5, 6):
            (incoming / "grows.mp4").write_bytes(b"x" * len(rounds))
        if len(rounds) == 14:
            raise KeyboardInterrupt

    clock = [0.0]
    monkeypatch.setattr("dust.deploy.jobs.time", types.SimpleNamespace(monotonic=lambda: clock[0], sleep=None))
    monkeypatch.setattr("dust.deploy.jobs.watch", functools.partial(watch, sleep=sleep))
    assert main(["predict", str(run), "--watch", str(incoming), "-o", str(out)]) == 1
    said = capsys.readouterr()
    assert [row["path"] for row in csv_dicts(out / "predictions.csv")] == [
        str(incoming / "clip_1.mp4"), str(incoming / "clip_2.mp4")
    ]  # fmt: skip
    assert "3 clips: 2 answered, 1 unreadable" in said.err and "notes.txt" not in said.out
    assert main(["predict", str(run), "--watch", str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr()
    assert "nowhere: there is no such folder" in said.err and not said.out and "watching" not in said.err


def test_other_values_are_written_as_for_a_training(run, clips, capsys):
    for word in ("TEST.BATCH_SIZE=1", "TEST.BATCH_SIZE"):
        assert main(["predict", str(run), str(clips / "clip_1.mp4"), "--opts", word]) == 2
        assert ("with a space and no =" if "=" in word else "seems to stand alone") in capsys.readouterr().err


def test_a_live_source(run, tmp_path, monkeypatch, capsys):
    camera = Camera(80)
    camera.taken.release(200)
    camera.duration = 80  # it ends
    monkeypatch.setattr(live, "open_live", lambda _: pair(camera))
    monkeypatch.setattr(live, "QUEUE", 100)
    out = tmp_path / "out"
    words = ["predict", str(run), "camera:0", "-o", str(out), "--seconds", "60", "--threshold", "0.55"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) > 5 and " ms)" in said.out
    assert "mean delay from frame to answer" in said.err
    assert {one.name for one in out.iterdir()} == {
        "camera_0.windows.csv", "camera_0.segments.csv", "camera_0.png", "timeline.json"
    }  # fmt: skip
    rows = csv_dicts(out / "camera_0.windows.csv")
    assert len(rows) == len(said.out.splitlines())
    for row, line in zip(rows, said.out.splitlines(), strict=True):
        likeliest = max(("bright", "dark"), key=lambda name: float(row[f"prob_{name}"]))
        sure = float(row[f"prob_{likeliest}"]) >= 0.55
        assert row["prediction"] == (likeliest if sure else "none of these"), "what was answered, not what is likeliest"
        assert f"  {row['prediction']}  " in line
    assert main(["predict", str(run), "camera:0", "clip.mp4"]) == 2
    assert "by itself" in capsys.readouterr().err


def test_options_without_effect_are_refused(run, clips, tmp_path, capsys):
    clip, out = str(clips / "clip_14.mp4"), ["-o", str(tmp_path / "out")]
    for words, refused in (
        ([clip, "--window", "1", "--hysteresis", "0.1", "--seconds", "3"], ["window", "hysteresis", "seconds"]),
        ([clip, "--timeline", "--workers", "2", "--top", "3"], ["workers", "top"]),
        (["camera:0", "--timeline", "--overlay", "--workers", "0", *out], ["timeline", "overlay"]),
        (["camera:0", "--batch-size", "4", "--min-length", "1"], ["batch-size", "min-length"]),
        (["--watch", str(clips), "--stride", "1", "--seconds", "1"], ["stride", "seconds"]),
    ):
        assert main(["predict", str(run), *words]) == 2
        said = capsys.readouterr().err
        for name in refused:
            assert f"--{name} has no effect here" in said, words
    assert main(["predict", str(run), clip, "--procedure", "car"]) == 2
    assert "no recordings of a procedure" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_camera_that_is_not_there(run, capsys):
    assert main(["predict", str(run), "camera:97"]) == 2
    assert "no such camera" in capsys.readouterr().err


def test_predict_enable_in_a_yaml(run, clips, tmp_path, capsys):
    config = tmp_path / "predict.yaml"
    config.write_text(
        f"_BASE_: {run / 'config.yaml'}\nTRAIN: {{ENABLE: False}}\nTEST: {{ENABLE: False}}\n"
        f"OUTPUT_DIR: {tmp_path / 'run'}\n"
    )
    shutil.copytree(run, tmp_path / "run")
    words = ["PREDICT.ENABLE", "True", "PREDICT.SOURCES", f"['{clips / 'clip_14.mp4'}']"]
    assert main(["--cfg", str(config), *words]) == 0
    assert len(csv_dicts(tmp_path / "run" / "predictions" / "predictions.csv")) == 1
    assert main(["--cfg", str(config), "PREDICT.ENABLE", "True"]) == 2
    assert "PREDICT.SOURCES" in capsys.readouterr().err
    other = ["PREDICT.OUTPUT", str(tmp_path / "views"), "TEST.NUM_SPATIAL_CROPS", "1", "TEST.NUM_ENSEMBLE_VIEWS", "1"]
    assert main(["--cfg", str(config), *words, *other]) == 0
    (one,) = json.loads((tmp_path / "views" / "predictions.json").read_text())["predictions"]
    assert one["views"] == 1, "the configuration counts, not what the run once had"
    named = ["OUTPUT_DIR", str(tmp_path / "new"), "TEST.CHECKPOINT_FILE_PATH", str(run)]
    assert main(["--cfg", str(config), *words, *named]) == 0
    assert len(csv_dicts(tmp_path / "new" / "predictions" / "predictions.csv")) == 1
    demo = ["DEMO.ENABLE", "True", "DEMO.INPUT_VIDEO", str(clips / "clip_14.mp4")]
    assert main(["--cfg", str(config), *demo, "PREDICT.OUTPUT", str(tmp_path / "demo")]) == 0
    assert len(csv_dicts(tmp_path / "demo" / "predictions.csv")) == 1
    for handler in list(logging.getLogger("dust").handlers):  # of the runs, which are over
        logging.getLogger("dust").removeHandler(handler)


def test_a_prediction_that_cannot_be_is_said_before_the_training(run, clips, tmp_path, capsys):
    config = tmp_path / "train.yaml"
    config.write_text(f"_BASE_: {run / 'config.yaml'}\nOUTPUT_DIR: {tmp_path / 'run'}\n")
    sources = ["gone.mp4", "no/*.mp4", str(clips / "clip_14.mp4"), "camera:0", "https://example.org/a.mp4?x=1"]
    words = ["PREDICT.ENABLE", "True", "PREDICT.SOURCES", str(sources), "PREDICT.WINDOW", "2", "TRAIN.DATASET", "Vide"]
    (tmp_path / "taken").write_text("")
    assert main(["--cfg", str(config), *words, "PREDICT.OUTPUT", str(tmp_path / "taken")]) == 2
    said = capsys.readouterr().err
    for part in ("SOURCES gone.mp4: there is no such", "SOURCES no/*.mp4: no file", "taken: is a file", "Vide",
                 "camera:0: a camera or a stream is predicted by itself"):  # fmt: skip
        assert part in said, "with all other problems at once"
    assert "clip_14" not in said and "example" not in said and not (tmp_path / "run").exists()
    off = ["TRAIN.ENABLE", "False", "TEST.ENABLE", "False", "PREDICT.ENABLE", "True", "PREDICT.SOURCES", f"[{clips}]"]
    assert main(["--cfg", str(config), *off]) == 2
    assert "there is nothing to test" in capsys.readouterr().err


def test_classes_that_a_model_has_not_learnt_are_refused(run, clips, capsys):
    words = ["predict", str(run), str(clips / "clip_14.mp4"), "--classes", "cutting bread", "stirring", "jumping"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert str(run) in said and "3 classes are named" in said and "no text transformer" in said
    assert "zoo://clip_vit_b16" in said
    assert main(words[:-1]) == 2
    assert "bright, dark" in capsys.readouterr().err
