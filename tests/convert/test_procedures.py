"""The public data of procedures becomes ours, or one error names all that is wrong with it."""

import pytest

from dust.convert.procedures import convert_procedures
from dust.datasets.keystep.layouts import read_procedures
from dust.utils.errors import DataError
from tests.datasets.keystep.test_files import industreal


def test_what_is_written_reads_as_what_was_there(tmp_path):
    root, out = tmp_path / "raw", tmp_path / "out"
    industreal(root)
    industreal(root, "02_main_1_1", split="test")
    result = convert_procedures(root, out, layout="industreal")
    assert (result.counts, result.frames, result.components) == ({"train": 1, "test": 1}, 60, 11)
    assert any("test: 1 recordings do not begin in their procedure's start state" in note for note in result.notes)
    for split in ("train", "test"):
        raw, ours = read_procedures(root, split), read_procedures(out, split)
        assert ours.recordings == raw.recordings
        assert (ours.table, ours.state_names, ours.components) == (raw.table, raw.state_names, raw.components)
    with pytest.raises(DataError, match="already holds recordings.csv"):
        convert_procedures(root, out, layout="industreal")
    convert_procedures(root, out, layout="industreal", force=True)


def test_problems_of_all_splits_at_once_and_nothing_written(tmp_path):
    root, out = tmp_path / "raw", tmp_path / "out"
    train = industreal(root)
    test = industreal(root, split="test")
    (train / "rgb" / "000003.jpg").unlink()
    (test / "PSR_labels.csv").write_text("000040.jpg,9,late\n")
    with pytest.raises(DataError, match=r"first is number 3[\s\S]*frame 40, but"):
        convert_procedures(root, out, layout="industreal")
    assert not out.exists()


def test_a_recording_in_two_splits_and_one_that_cannot_be_read(tmp_path):
    root = tmp_path / "raw"
    industreal(root)
    test = industreal(root, split="test", rgb="other")
    (test / "rgb.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"cannot be read:\s+test: .*rgb.mp4[\s\S]*two splits:\s+01_assy_0_1"):
        convert_procedures(root, tmp_path / "out", layout="industreal")


def test_object_states_are_checked(tmp_path):
    home = industreal(tmp_path)
    (home / "01_assy_0_1_results_pred.csv").write_text("n,frame,class,conf\n0,30,1,0.5\n")
    with pytest.raises(DataError, match=r"object states[\s\S]*line 2: 30"):
        convert_procedures(tmp_path, tmp_path / "out", layout="industreal")


def test_neither_split(tmp_path):
    with pytest.raises(DataError, match="no recordings|is not there"):
        convert_procedures(tmp_path, tmp_path / "out", layout="industreal")
