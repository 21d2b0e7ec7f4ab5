"""The .ts files of the UEA archive: what is written, and what is refused."""

import numpy as np
import pytest

from dust.cli.convert_data import main
from dust.config import load_config
from dust.convert.uea import convert_uea, read_ts
from dust.datasets import build_dataset
from dust.utils.errors import DataError
from tests.helpers import ROOT

HEAD = "#a note\n@problemName Two\n@timestamps false\n@univariate false\n@classLabel true up down\n@data\n"
TRAIN = HEAD + "1,2,3,4:5,6,7,8:up\n0.5,?,1e1:-1,-2,-3:down\n"
TEST = HEAD + "9,8:7,6:down\n"


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "Two"
    folder.mkdir()
    (folder / "Two_TRAIN.ts").write_text(TRAIN)
    (folder / "Two_TEST.ts").write_text(TEST)
    return folder


def test_what_is_read(archive):
    (first, up), (second, down) = read_ts(archive / "Two_TRAIN.ts")
    assert (up, down) == ("up", "down")
    np.testing.assert_array_equal(first, [[1, 2, 3, 4], [5, 6, 7, 8]])
    np.testing.assert_array_equal(second, [[0.5, np.nan, 10], [-1, -2, -3]])


def test_what_is_written_is_a_data_folder(archive, tmp_path, capsys):
    out = tmp_path / "out"
    main(["uea", str(archive), "--out", str(out)])
    said = capsys.readouterr().out
    assert "train.csv (2 series), test.csv (1 series); 2 channels, 2 to 4 points, 2 classes" in said
    assert "SERIES.NUM_CHANNELS 2" in said
    values = {"DATA.PATH_TO_DATA_DIR": str(out), "SERIES.NUM_CHANNELS": 2, "SERIES.MISSING": "mask"}
    cfg = load_config(ROOT / "configs" / "quickstart" / "series.yaml", values)
    dataset = build_dataset("FusedDataset", cfg, "train")
    assert dataset.class_names == ["down", "up"] and dataset.class_counts() == [1, 1]
    with pytest.raises(DataError, match="already holds train.csv, test.csv, classes.txt: give another"):
        convert_uea(str(archive), str(out))
    convert_uea(str(archive), str(out), force=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,2:up\n", "no line @data"),
        (HEAD, "no series behind @data"),
        (HEAD.replace("false", "true", 1) + "(0,1):up\n", "without time stamps"),
        (HEAD + "1,2:3:up\n1,x:3,4:up\n", "channels of numbers, as many in each"),
        (HEAD + "1,2:3,4:\n", "without a series or without a label"),
    ],
)
def test_what_is_refused(archive, tmp_path, text, says):
    (archive / "Two_TRAIN.ts").write_text(text)
    with pytest.raises(DataError, match=says):
        convert_uea(str(archive), str(tmp_path / "out"))


def test_files_that_are_missing_or_do_not_go_together(archive, tmp_path):
    with pytest.raises(DataError, match=r"needs one file \*_TRAIN.ts"):
        convert_uea(str(tmp_path), str(tmp_path / "out"))
    (archive / "Two_TEST.ts").write_text(HEAD + "1,2:up\n")
    with pytest.raises(DataError, match="1, 2 channels"):
        convert_uea(str(archive), str(tmp_path / "out"))
