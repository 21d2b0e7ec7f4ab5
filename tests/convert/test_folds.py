"""Parts of lists: groups stay whole, every part gets its share, every kind of list is cut."""

import numpy as np
import pytest

from dust.cli.main import main
from dust.convert.folds import assign, write_folds
from dust.convert.lists import ListOptions, read_lists
from dust.datasets.manifest.manifest import read_manifest
from dust.synthetic.keystep import generate_procedure
from dust.utils.errors import DataError
from tests.helpers import csv_dicts


@pytest.mark.parametrize("shares", [(1, 1, 1), (80, 10, 10), (1,) * 5, (70, 30)])
@pytest.mark.parametrize("seed", range(3))
def test_groups_stay_whole_and_shares_are_met(shares, seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 60, 900)
    classes = rng.choice(4, 900, p=[0.4, 0.3, 0.2, 0.1])
    parts = assign(groups.tolist(), classes.tolist(), shares, seed=seed)
    assert all(len(set(parts[groups == group])) == 1 for group in set(groups))
    wanted = np.array(shares) / sum(shares)
    np.testing.assert_allclose(np.bincount(parts, minlength=len(shares)) / 900, wanted, atol=0.02)
    for one in range(4):
        np.testing.assert_allclose(
            np.bincount(parts[classes == one], minlength=len(shares)) / (classes == one).sum(), wanted, atol=0.06
        )
    assert (assign(groups.tolist(), classes.tolist(), shares, seed=seed) == parts).all()


def test_no_part_is_empty_and_too_few_groups_are_refused():
    assert sorted(assign("aaabc", [0] * 5, (98, 1, 1)).tolist()) == [0, 0, 0, 1, 2]
    with pytest.raises(DataError, match="5 samples in 2 groups cannot make 3 parts"):
        assign("aaabb", [0] * 5, (1, 1, 1))


def a_list(path, count=60):
    people = [f"p{number % 12}" for number in range(count)]
    lines = [f"c{n}.mp4,{'cut' if n % 3 else 'stir'},{who}" for n, who in enumerate(people)]
    path.write_text("path,label,subject\n" + "\n".join(lines) + "\n")


def test_the_sub_command_keeps_people_together(tmp_path, capsys):
    a_list(tmp_path / "data.csv")
    words = ["split", str(tmp_path / "data.csv"), "-o", str(tmp_path / "out"), "--by", "subject", "--ratio", "50,25,25"]
    assert main([*words, "--stratify"]) == 0
    assert "train 30, val 15, test 15" in capsys.readouterr().out
    rows = {split: csv_dicts(tmp_path / "out" / f"{split}.csv") for split in ("train", "val", "test")}
    people = [{row["group"] for row in part} for part in rows.values()]
    assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]
    assert sum(map(len, rows.values())) == 60
    manifest = read_manifest(root=str(tmp_path / "out"), split="val", check_files=False)
    assert manifest.clips[0].path.startswith(str(tmp_path))
    assert main(words) == 2 and "--force" in capsys.readouterr().err
    assert main([*words[:-1], "10,x", "--force"]) == 2 and "--ratio 10,x" in capsys.readouterr().err
    assert main([*words, "--by", "nobody", "--force"]) == 2 and "nobody" in capsys.readouterr().err


def test_folds_test_every_training_clip_once(tmp_path):
    (tmp_path / "data").mkdir()
    a_list(tmp_path / "data" / "train.csv")
    (tmp_path / "data" / "val.csv").write_text("path,label,subject\nv.mp4,cut,q\n")
    lists = read_lists(str(tmp_path / "data"), ListOptions(group_column="subject"))
    tested = []
    for folder in write_folds(lists, tmp_path / "folds", 4):
        train, val, test = (csv_dicts(folder / f"{split}.csv") for split in ("train", "val", "test"))
        assert len(train) + len(test) == 60 and [row["path"] for row in val] == [str(tmp_path / "data" / "v.mp4")]
        assert not {row["group"] for row in train} & {row["group"] for row in test}
        tested += [row["path"] for row in test]
    assert len(tested) == len(set(tested)) == 60
    for count, said in ((1, "at least 2"), (13, "12 groups cannot make 13 parts")):
        with pytest.raises(DataError, match=said):
            write_folds(lists, tmp_path / "folds", count)


def test_recordings_of_procedures_are_cut_too(tmp_path):
    generate_procedure(tmp_path / "data", recordings=6, parts=3, size=32)
    lists = read_lists(str(tmp_path / "data"), ListOptions())
    (first, *_) = write_folds(lists, tmp_path / "folds", 2)
    again = read_lists(str(first), ListOptions())
    whole = {clip.id for clip in lists.clips["train"]}
    assert {clip.id for clip in again.clips["train"]} | {clip.id for clip in again.clips["test"]} == whole


def test_windows_of_a_recording_stay_windows(tmp_path):
    """In a list of several modalities: the same seconds, and the same clock."""
    (tmp_path / "data").mkdir()
    lines = [f"s{n},{'ab'[n % 2]},rec{n // 4}.csv,{n % 4},{n % 4 + 1.25},{12.4 if n % 3 else ''}" for n in range(24)]
    for n in range(6):
        rows = "".join(f"{t / 20},{t % 7}\n" for t in range(120))
        (tmp_path / "data" / f"rec{n}.csv").write_text("time,x\n" + rows)
    (tmp_path / "data" / "train.csv").write_text("id,label,series,start,end,offset_s\n" + "\n".join(lines) + "\n")
    lists = read_lists(str(tmp_path / "data"), ListOptions())
    (first, _) = write_folds(lists, tmp_path / "folds", 2)
    again = read_lists(str(first), ListOptions())
    found = {clip.id: clip.window for split in ("train", "test") for clip in again.clips[split]}
    assert found == {clip.id: clip.window for clip in lists.clips["train"]} and len(set(found.values())) == 8


def test_clips_without_a_label_are_not_mixed_with_those_that_have_one(tmp_path, capsys):
    (tmp_path / "train.csv").write_text("path,label\n" + "".join(f"c{n}.mp4,{'ab'[n % 2]}\n" for n in range(12)))
    (tmp_path / "test.csv").write_text("path\n" + "".join(f"t{n}.mp4\n" for n in range(3)))
    assert main(["split", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "3 of 15 clips have no label" in capsys.readouterr().err
