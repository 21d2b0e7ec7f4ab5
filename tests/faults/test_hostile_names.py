"""Clips whose names are not UTF-8, hold escape sequences, line ends or formulas: trained on, tested and checked."""

import csv
import os
from pathlib import Path

import pytest

from dust.cli.main import main as dust
from dust.engine import run_net
from dust.utils.text import csv_value, printable
from tests.runs import words, write_noise

NAMES = (b"one\xff.mp4", b"two\x1b[31m.mp4", b"three\n[01-01 00:00:00][INFO] forged.mp4", b"=four(1).mp4")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd") / os.fsdecode(b"data\xff")
    root.mkdir()
    clip = root / "clip.mp4"
    for value, name in ((60, b"dark\xfe"), (190, b"=light")):
        write_noise(clip, value)
        for split in (b"train", b"val", b"test"):
            folder = os.path.join(os.fsencode(root), split, name)
            os.makedirs(folder)
            for file in NAMES:
                with open(os.path.join(folder, file), "wb") as out:
                    out.write(clip.read_bytes() + split + file + name)  # behind the end; no two alike
    clip.unlink()
    with open(os.path.join(os.fsencode(root), b"test", b"=light", b"-bad\xff\x07.mp4"), "wb") as out:
        out.write(b"no clip")
    return root


def clean(text: str) -> None:
    assert "\x1b" not in text and "\x07" not in text and "\n[01-01 00:00:00]" not in text
    text.encode("utf-8")


def rows(path: Path) -> list[dict[str, str]]:
    clean(path.read_bytes().decode("utf-8"))
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run(data, tmp_path, capsys):
    out = tmp_path / os.fsdecode(b"run\xff")
    settings = {
        "TEST__ON_BAD_CLIP": "skip",
        "TENSORBOARD__ENABLE": True,
        "TENSORBOARD__LOG_DIR": tmp_path / "board",
        "FEATURES__ENABLE": True,
    }
    assert run_net.main(words(data, out, **settings, FEATURES__SPLITS=["train"])) == 0
    said = capsys.readouterr()
    clean(said.out + said.err)
    clean((out / "stdout.log").read_bytes().decode("utf-8"))
    predictions = rows(out / "results" / "predictions.csv")
    ids = {f"test/{os.fsdecode(folder)}/{os.fsdecode(name)}" for folder in (b"dark\xfe", b"=light") for name in NAMES}
    assert {csv_value(row["id"]) for row in predictions} == {printable(one) for one in ids}
    assert {row["label"] for row in predictions} == {"dark\\udcfe", "'=light"}
    assert all(0 <= float(row["prob_=light"]) <= 1 for row in predictions)
    (bad,) = rows(out / "bad_clips.csv")
    assert bad["id"] == "test/=light/-bad\\udcff\\x07.mp4"


def test_check_and_convert(data, tmp_path, capsys):
    assert dust(["convert-data", "check", "--root", str(data), "--out", str(tmp_path / "checked")]) == 1
    (bad,) = rows(tmp_path / "checked" / "bad_clips.csv")
    assert bad["path"].endswith("-bad\\udcff\\x07.mp4")
    said = capsys.readouterr()
    clean(said.out + said.err)
    assert sorted(os.listdir(tmp_path / "checked")) == ["bad_clips.csv", "check.csv"], "no temporary file is left"
    clean((tmp_path / "checked" / "check.csv").read_text())


def test_a_converted_list_is_trained_on(data, tmp_path, capsys):
    out = tmp_path / "lists"
    command = ["convert-data", "folder", "--root", str(data), "--out", str(out), "--skip-bad"]
    assert dust(command) == 0, capsys.readouterr().err
    clean(capsys.readouterr().out)
    assert {row["label"] for row in rows(out / "train.csv")} == {"dark\\udcfe", "'=light"}
    assert run_net.main(words(out, tmp_path / "run", TEST__ENABLE=False)) == 0


def test_tensorboard_says_what_it_cannot_do(data, tmp_path, capsys):
    out = tmp_path / os.fsdecode(b"run\xff")
    assert run_net.main(words(data, out, TEST__ENABLE=False, TENSORBOARD__ENABLE=True)) == 2
    assert "set TENSORBOARD.LOG_DIR, or choose another OUTPUT_DIR" in capsys.readouterr().err
