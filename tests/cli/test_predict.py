"""``dust predict`` as a user meets it: the table, the files, the exit code."""

import json

import pytest

from dust.cli.main import main
from tests.helpers import csv_dicts


def test_files_folders_and_lists(run, clips, tmp_path, capsys):
    out = tmp_path / "out"
    words = [str(clips / "clip_14.mp4"), str(clips / "clip_1*.mp4"), str(clips / "test.csv")]
    assert main(["predict", str(run), *words, "-o", str(out), "--device", "cpu"]) == 0
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--threshold", "1.5"], "a probability from 0 to 1"),
        (["--top", "0"], "at least 1"),
        (["--batch-size", "-1"], "at least 1"),
        (["--tpo", "3"], "unrecognized arguments"),
    ],
)
def test_wrong_options(run, clips, words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(run), str(clips / "clip_14.mp4"), *words])
    assert stop.value.code == 2 and said in capsys.readouterr().err


def test_wrong_models_and_keys(run, clips, capsys):
    assert main(["predict", "nowhere", str(clips / "clip_14.mp4")]) == 2
    assert main(["predict", str(run), str(clips / "clip_14.mp4"), "--opts", "TEST.NUM_CROPS", "1"]) == 2
    assert main(["predict", str(run), str(clips / "nothing*.mp4")]) == 2
    said = capsys.readouterr().err
    assert "no such run" in said and "TEST.NUM_CROPS" in said and "no file matches" in said
