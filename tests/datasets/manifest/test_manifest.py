"""Every on-disk layout, read from files as people and public data sets write them."""

import json
import logging
import os
from pathlib import Path

import pytest

from dust.datasets.manifest.labels import read_class_list, write_class_list
from dust.datasets.manifest.manifest import detect_format, read_manifest
from dust.utils.errors import DataError
from dust.utils.files import write_csv

pytestmark = pytest.mark.usefixtures("long")


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def read(root: Path, split: str = "train", **options):
    return read_manifest(root=str(root), split=split, **options)


def csv(root: Path, text: str | bytes, split: str = "train", **options):
    """Reads ``text`` as a csv over whatever clips exist in root."""
    (root / f"{split}.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(root, split, **options)


def pairs(manifest) -> list[tuple[str, object]]:
    return [(clip.id, clip.label) for clip in manifest.clips]


def problem(root: Path, text: str | bytes, split: str = "train", **options) -> str:
    with pytest.raises(DataError) as caught:
        csv(root, text, split, **options)
    return str(caught.value)


# --- csv: separators, header, quoting ---------------------------------------------------------------------------

AB = [("a.mp4", 0), ("b.mp4", 1)]


@pytest.mark.parametrize(
    "text",
    [
        "a.mp4 0\nb.mp4 1\n",
        "a.mp4 0\nb.mp4 1",
        "a.mp4   0\n b.mp4 1 \n",
        "a.mp4,0\nb.mp4,1\n",
        "a.mp4, 0\nb.mp4, 1\n",
        "a.mp4\t0\nb.mp4\t1\n",
        '"a.mp4","0"\n"b.mp4","1"\n',
        "path,label\na.mp4,0\nb.mp4,1\n",
        "Video, Class\na.mp4, 0\nb.mp4, 1\n",
        "label,file\n0,a.mp4\n1,b.mp4\n",
        "path label\na.mp4 0\nb.mp4 1\n",
        "id path label\na.mp4 a.mp4 0\nb.mp4 b.mp4 1\n",
        ",path,label\n0,a.mp4,0\n1,b.mp4,1\n",
        "\ufeffpath,label\r\na.mp4,0\r\nb.mp4,1\r\n",
        "\ufeffa.mp4 0\r\nb.mp4 1\r\n",
        "a.mp4,0.0\nb.mp4,1.0\n",
        "a.mp4 00\nb.mp4 01\n",
    ],
)
def test_ways_to_write_the_same_csv(tmp_path, text):
    touch(tmp_path, "a.mp4", "b.mp4")
    manifest = csv(tmp_path, text)
    assert pairs(manifest) == AB
    assert manifest.class_names == ["0", "1"]
    assert [Path(clip.path) for clip in manifest.clips] == [tmp_path / "a.mp4", tmp_path / "b.mp4"]


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("my clip, two.mp4;0\n", ";"),
        ("my clip, two.mp4||0\n", "||"),
        ("my clip, two.mp4\t0\n", "\\t"),
        ("my clip, two.mp4\t0\n", ""),
        ("my clip, two.mp4 0\n", " "),
        ("my clip, two.mp4 0\n", ""),
        ('"my clip, two.mp4",0\n', ""),
        ('"my clip, two.mp4", 0\n', ","),
        ('"my clip, two.mp4" 0\n', ""),
        ('path label\n"my clip, two.mp4" 0\n', ""),
    ],
)
def test_a_path_that_holds_spaces_and_a_comma(tmp_path, text, separator):
    touch(tmp_path, "my clip, two.mp4")
    assert pairs(csv(tmp_path, text, separator=separator)) == [("my clip, two.mp4", 0)]


def test_a_quote_in_a_path_is_doubled(tmp_path):
    touch(tmp_path, 'the "best".mp4')
    for text in ['"the ""best"".mp4",0\n', '"the ""best"".mp4" 0\n', 'the "best".mp4 0\n']:
        assert csv(tmp_path, text).clips[0].id == 'the "best".mp4', text


def test_labels_with_spaces_need_a_comma_or_quotes(tmp_path):
    touch(tmp_path, "a.mp4", "b c.mp4")
    for text in ["a.mp4,push up\nb c.mp4,wave\n", 'a.mp4 "push up"\n"b c.mp4" wave\n']:
        manifest = csv(tmp_path, text)
        assert manifest.class_names == ["push up", "wave"]
        assert [clip.label for clip in manifest.clips] == [0, 1]


def test_id_column_and_ids_of_repeated_paths(tmp_path):
    touch(tmp_path, "a.mp4")
    assert pairs(csv(tmp_path, "id,path,label\nx,a.mp4,0\ny,a.mp4,1\n")) == [("x", 0), ("y", 1)]
    assert pairs(csv(tmp_path, "a.mp4,0\na.mp4,0\na.mp4,1\n")) == [("a.mp4", 0), ("a.mp4#2", 0), ("a.mp4#3", 1)]
    assert "used twice" in problem(tmp_path, "id,path,label\nx,a.mp4,0\nx,a.mp4,1\n")


def test_a_header_row_is_not_taken_for_a_clip_nor_a_clip_for_a_header(tmp_path):
    touch(tmp_path, "video", "a.mp4")
    assert pairs(csv(tmp_path, "video,3\na.mp4,1\n")) == [("video", 3), ("a.mp4", 1)]
    assert "a header?" in problem(tmp_path, "aufnahme,geste\na.mp4,1\n")


# --- csv: where files are ---------------------------------------------------------------------------------------


def test_relative_paths_prefix_root_and_working_folder(tmp_path, monkeypatch):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    touch(data, "a.mp4")
    touch(elsewhere, "a.mp4", "b.mp4")
    assert csv(data, f"{elsewhere}/b.mp4 0\n").clips[0].path == str(elsewhere / "b.mp4")
    assert csv(data, "a.mp4 0\nb.mp4 0\n", path_prefix=str(elsewhere)).clips[0].path == str(elsewhere / "a.mp4")
    monkeypatch.chdir(elsewhere)
    manifest = csv(data, "a.mp4 0\nb.mp4 0\n")  # root first, then the working folder
    assert [os.path.realpath(clip.path) for clip in manifest.clips] == [str(data / "a.mp4"), str(elsewhere / "b.mp4")]
    touch(data, "only_here.mp4")
    assert str(elsewhere / "only_here.mp4") in problem(data, "only_here.mp4 0\n", path_prefix=str(elsewhere))


def test_metadata_folder_and_a_csv_as_the_root(tmp_path):
    touch(tmp_path, "clips/a.mp4", "metadata/x")
    (tmp_path / "metadata" / "train.csv").write_text("clips/a.mp4,2\n")
    assert pairs(read(tmp_path)) == [("clips/a.mp4", 2)]
    (tmp_path / "mine.csv").write_text("clips/a.mp4,2\n")
    assert pairs(read(tmp_path / "mine.csv", "test")) == [("clips/a.mp4", 2)]


def test_files_are_not_looked_for_on_request(tmp_path):
    assert csv(tmp_path, "a.mp4 0\n", check_files=False).clips[0].path == str(tmp_path / "a.mp4")


# --- csv: labels ------------------------------------------------------------------------------------------------


def test_names_are_sorted_and_integers_stay(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    manifest = csv(tmp_path, "a.mp4 wave\nb.mp4 push\nc.mp4 wave\n")
    assert (manifest.class_names, [c.label for c in manifest.clips]) == (["push", "wave"], [1, 0, 1])
    manifest = csv(tmp_path, "a.mp4 10\nb.mp4 2\nc.mp4 2\n")
    assert (manifest.class_names, [c.label for c in manifest.clips]) == ([str(i) for i in range(11)], [10, 2, 2])
    assert "set MODEL.NUM_CLASSES 2, or" in problem(tmp_path, "a.mp4 1\n", num_classes=12)
    assert len(csv(tmp_path, "a.mp4 11\n", num_classes=12).class_names) == 12
    every = [str(number) for number in range(12)]
    assert csv(tmp_path, "a.mp4 1\n", num_classes=12, class_names=every).class_names == every


def test_names_mixed_with_integers_are_names(tmp_path, caplog):
    touch(tmp_path, "a.mp4", "b.mp4")
    with caplog.at_level(logging.WARNING):
        manifest = csv(tmp_path, "a.mp4 wave\nb.mp4 7\n")
    assert manifest.class_names == ["7", "wave"]
    assert "both names and integers" in caplog.text


def test_val_has_the_classes_of_train(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    csv(tmp_path, "a.mp4 push\nb.mp4 wave\n")
    manifest = csv(tmp_path, "b.mp4 wave\n", "val")
    assert (manifest.class_names, manifest.clips[0].label) == (["push", "wave"], 1)
    (tmp_path / "train.csv").write_text("a.mp4 4\n")
    assert len(csv(tmp_path, "b.mp4 1\n", "val").class_names) == 5


def test_given_class_names_decide(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    names = ["wave", "push"]
    assert [c.label for c in csv(tmp_path, "a.mp4 wave\nb.mp4 push\n", class_names=names).clips] == [0, 1]
    assert [c.label for c in csv(tmp_path, "a.mp4 0\nb.mp4 1\n", class_names=names).clips] == [0, 1]  # positions
    assert [c.label for c in csv(tmp_path, "a.mp4 9\nb.mp4 07\n", class_names=["7", "9"]).clips] == [1, 0]
    message = problem(tmp_path, "a.mp4 wawe\nb.mp4 pusch\n", class_names=names)
    assert "line 1: 'wawe'; did you mean 'wave'" in message
    assert "line 2: 'pusch'; did you mean 'push'" in message
    assert "out of range 0..1" in problem(tmp_path, "a.mp4 2\n", class_names=names)
    assert "none of the 2 classes" in problem(tmp_path, "a.mp4 wave\nb.mp4 1\n", class_names=names)


def test_class_list_beside_the_csv_gives_the_order(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    write_class_list(tmp_path / "classes.txt", ["wave", "push", "never seen"])
    manifest = csv(tmp_path, "a.mp4 wave\nb.mp4 push\n")
    assert (manifest.class_names, [c.label for c in manifest.clips]) == (["wave", "push", "never seen"], [0, 1])
    assert [c.label for c in csv(tmp_path, "a.mp4 0\nb.mp4 2\n").clips] == [0, 2]


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("a.mp4 0,5,17\nb.mp4 3\n", ""),
        ("a.mp4 17,0,5,5\nb.mp4 3,3\n", ""),
        ('a.mp4,"0,5,17"\nb.mp4,3\n', ""),
        ('path,labels\na.mp4,"0, 5, 17"\nb.mp4,3\n', ""),
        ("a.mp4\t0,5,17\nb.mp4\t3\n", ""),
        ("a.mp4;0,5,17\nb.mp4;3\n", ";"),
    ],
)
def test_several_labels(tmp_path, text, separator):
    touch(tmp_path, "a.mp4", "b.mp4")
    manifest = csv(tmp_path, text, multi_label=True, separator=separator, num_classes=18)
    assert pairs(manifest) == [("a.mp4", (0, 5, 17)), ("b.mp4", (3,))]
    assert manifest.multi_label


def test_several_names_and_none(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    manifest = csv(tmp_path, "a.mp4\tsit,talk\nb.mp4\ttalk\nc.mp4\t\n", multi_label=True)
    assert (manifest.class_names, [c.label for c in manifest.clips]) == (["sit", "talk"], [(0, 1), (1,), ()])
    assert "an empty label among" in problem(tmp_path, "a.mp4\tsit,,talk\n", multi_label=True)
    assert "MULTI_LABEL" in problem(tmp_path, "a.mp4 0,5\n")


@pytest.mark.parametrize("text", ["a b.mp4\nc.mp4\n", "path\na b.mp4\nc.mp4\n", '"a b.mp4"\nc.mp4\n'])
def test_a_test_split_without_labels(tmp_path, text):
    touch(tmp_path, "a b.mp4", "c.mp4")
    manifest = csv(tmp_path, text, "test", num_classes=3)
    assert pairs(manifest) == [("a b.mp4", None), ("c.mp4", None)]
    assert manifest.class_names == ["0", "1", "2"]
    (tmp_path / "train.csv").write_text('"a b.mp4",wave\nc.mp4,push\n')
    assert csv(tmp_path, text, "test").class_names == ["push", "wave"]
    with pytest.raises(DataError):
        csv(tmp_path, text, "val")


# --- csv: what is wrong, all at once ----------------------------------------------------------------------------


def test_all_problems_in_one_error_with_line_numbers(tmp_path):
    touch(tmp_path, "a.mp4")
    text = "a.mp4 0\n\na.mp4\ngone.mp4 1\na.mp4 -1\na.mp4 7\n"
    message = problem(tmp_path, text, num_classes=4)
    for said in (
        "an empty line",
        "line 2",
        "one column",
        "line 3: a.mp4",
        "missing",
        "line 4",
        "negative",
        "line 5: -1",
    ):
        assert said in message
    assert "out of range 0..3 (set MODEL.NUM_CLASSES 8, or correct the labels):\n      line 6: 7" in message
    assert "line 1:" not in message


def test_a_long_list_of_missing_files_is_counted_not_printed(tmp_path):
    message = problem(tmp_path, "".join(f"{i}.mp4 0\n" for i in range(1234)))
    assert "1234 cases" in message and "and 1224 more" in message
    assert "line 10:" in message and "line 11:" not in message


@pytest.mark.parametrize("blank", ["\n", "   \n"])
def test_an_empty_line_also_at_the_end(tmp_path, blank):
    touch(tmp_path, "a.mp4")
    assert "line 2" in problem(tmp_path, "a.mp4 0\n" + blank)
    assert "line 1" in problem(tmp_path, blank + "a.mp4 0\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no clip"),
        ("path,label\n", "no clip"),
        ("path\na.mp4\n", "no label column"),
        ("a.mp4\n", "one column"),
        ("a.mp4,0\na.mp4\n", "line 2: a.mp4"),
        ("a.mp4,0,1\n", "3 columns"),
        ("path,label\na.mp4,0,1\n", "line 2: 3 columns"),
        ("a.mp4,\n", "an empty label"),
        (",0\na.mp4,1\n", "an empty path"),
        ('"a.mp4,0\n', "quoting"),
        ("b\xe9.mp4 0\na.mp4 0\n".encode("latin-1"), "line 1 is not UTF-8"),
        (b"a.mp4 0\na\0.mp4 1\n", "line 2 holds a NUL"),
    ],
)
def test_csv_errors(tmp_path, text, said):
    touch(tmp_path, "a.mp4")
    assert said in problem(tmp_path, text)


def test_number_of_classes_must_be_the_models(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    assert "set MODEL.NUM_CLASSES 2" in problem(tmp_path, "a.mp4 wave\nb.mp4 push\n", num_classes=400)
    assert "set MODEL.NUM_CLASSES 3" in problem(tmp_path, "a.mp4 0\nb.mp4 2\n", num_classes=2)
    assert "subtract 1" in problem(tmp_path, "a.mp4 1\nb.mp4 2\n", num_classes=2)


def test_ten_thousand_rows_in_order(tmp_path):
    touch(tmp_path, *(f"clips/{i:05d}.mp4" for i in range(10_000)))
    manifest = csv(tmp_path, "".join(f"clips/{i:05d}.mp4 {i % 7}\n" for i in range(10_000)))
    assert pairs(manifest) == [(f"clips/{i:05d}.mp4", i % 7) for i in range(10_000)]


# --- class folders ----------------------------------------------------------------------------------------------


def test_split_folders_of_class_folders(tmp_path):
    touch(
        tmp_path, "train/wave/1.mp4", "train/push/deep/2.AVI", "train/push/notes.txt", "val/wave/3.mp4", "val/.x/4.mp4"
    )
    train, val = read(tmp_path), read(tmp_path, "val")
    assert pairs(train) == [("train/push/deep/2.AVI", 0), ("train/wave/1.mp4", 1)]
    assert (pairs(val), val.class_names) == ([("val/wave/3.mp4", 1)], ["push", "wave"])
    with pytest.raises(DataError, match=r"no folder for the test split .*found train, val"):
        read(tmp_path, "test")
    touch(tmp_path, "train/loose.mp4", "validation/wave/5.mp4")
    with pytest.raises(DataError, match="both val/ and validation/"):
        read(tmp_path)


def test_classes_of_val_are_those_of_train(tmp_path):
    touch(tmp_path, "train/wave/1.mp4", "train/push/2.mp4", "val/Wave/3.mp4")
    with pytest.raises(DataError, match=r"none of the 2 classes \(push, wave\):\n.*'Wave'; did you mean 'wave'\?"):
        read(tmp_path, "val")


def test_what_class_folders_leave_out_is_said(tmp_path, caplog):
    touch(
        tmp_path,
        "train/wave/1.mp4",
        "train/wave/2.asf",
        "train/wave/._1.mp4",
        "train/wave/4/1.jpg",
        "train/wave/4/2.jpg",
    )
    caplog.set_level("WARNING")
    assert len(read(tmp_path).clips) == 3 and not caplog.text  # a hidden file is no news
    touch(tmp_path, "train/wave/5.xyz", "train/wave/6.jpg")
    assert len(read(tmp_path).clips) == 3
    assert "1 x .xyz, which is not read as video (5.xyz)" in caplog.text
    assert "1 x a picture that is not in a folder of frames (6.jpg)" in caplog.text


def test_a_clip_outside_the_class_folders(tmp_path):
    touch(tmp_path, "train/wave/1.mp4", "train/push/2.mp4")
    touch(tmp_path, "test/wave/1.mp4")
    (tmp_path / "train" / "push" / "sub").mkdir()
    assert len(read(tmp_path).clips) == 2
    touch(tmp_path, "bus/1.mp4")
    with pytest.raises(DataError, match="other folders with videos"):
        read(tmp_path)


def test_class_folders_alone_are_split_once_and_for_all(tmp_path):
    touch(tmp_path, *(f"{name}/{i}.mp4" for name in ("train", "bus") for i in range(20)))  # a class may be called train
    splits = {split: read(tmp_path, split) for split in ("train", "val", "test")}
    ids = {split: {clip.id for clip in manifest.clips} for split, manifest in splits.items()}
    assert [len(ids[split]) for split in ("train", "val", "test")] == [32, 4, 4]
    assert len(set.union(*ids.values())) == 40
    for manifest in splits.values():
        assert manifest.class_names == ["bus", "train"]
        assert {clip.label for clip in manifest.clips} == {0, 1}
    before = ids["train"] & {f"bus/{i}.mp4" for i in range(20)}
    touch(tmp_path, *(f"car/{i}.mp4" for i in range(3)))
    assert before == {clip.id for clip in read(tmp_path).clips if clip.id.startswith("bus")}
    touch(tmp_path, "rare/1.mp4")
    with pytest.raises(DataError, match="too few clips"):
        read(tmp_path)


# --- SSv2 -------------------------------------------------------------------------------------------------------


def ssv2(root: Path, prefix: str = "something-something-v2-", folder: str = "") -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    train = [
        {"id": "78687", "label": "holding potato next to vicks", "template": "Holding [something] next to [something]"},
        {"id": 42, "label": "Closing [something]"},
    ]
    labels = {"Holding something next to something": "0", "Closing something": "1"}
    lists = {"train": train, "validation": train[1:], "test": [{"id": "7"}], "labels": labels}
    for name, content in lists.items():
        (root / folder / f"{prefix}{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(("prefix", "folder"), [("something-something-v2-", ""), ("", "labels"), ("", "")])
def test_ssv2_lists(tmp_path, prefix, folder):
    ssv2(tmp_path, prefix, folder)
    touch(tmp_path, "20bn-something-something-v2/78687.webm", "videos/42.mp4", "frames/7/0001.jpg")
    manifest = read(tmp_path)
    assert pairs(manifest) == [("78687", 0), ("42", 1)]
    assert manifest.class_names == ["Holding something next to something", "Closing something"]
    assert manifest.clips[0].path == str(tmp_path / "20bn-something-something-v2" / "78687.webm")
    assert pairs(read(tmp_path, "val")) == [("42", 1)]
    test = read(tmp_path, "test")
    assert pairs(test) == [("7", None)]
    assert test.clips[0].path == str(tmp_path / "frames" / "7")


def test_ssv2_errors(tmp_path):
    ssv2(tmp_path)
    with pytest.raises(DataError, match=r"no video.*\n.*entry 1: 78687\n.*entry 2: 42"):
        read(tmp_path)
    entries = [{"template": "x"}, {"id": "1"}, {"id": "2", "template": "Closing [somthing]"}]
    (tmp_path / "something-something-v2-train.json").write_text(json.dumps(entries))
    with pytest.raises(DataError) as caught:
        read(tmp_path, check_files=False)
    for said in ("without an id", "entry 1", "without template", "id 1", "did you mean 'Closing something'"):
        assert said in str(caught.value)
    (tmp_path / "something-something-v2-labels.json").write_text('{"a": "0", "b": "2"}')
    with pytest.raises(DataError, match="must be 0 to 1"):
        read(tmp_path, check_files=False)
    (tmp_path / "something-something-v2-train.json").write_text("[{]")
    with pytest.raises(DataError, match="not JSON"):
        read(tmp_path)


# --- UCF101 and HMDB51 ------------------------------------------------------------------------------------------


def ucf101(root: Path) -> None:
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_bytes(b"1 Archery\r\n2 HandstandPushups\r\n")
    (lists / "trainlist01.txt").write_bytes(b"Archery/v_a_g08_c01.avi 1\r\nHandstandPushups/v_h_g08_c01.avi 2\r\n")
    (lists / "testlist01.txt").write_bytes(b"HandStandPushups/v_h_g01_c01.avi\r\n")
    (lists / "trainlist02.txt").write_bytes(b"HandstandPushups/v_h_g08_c01.avi 2\r\n")
    touch(root, "UCF-101/Archery/v_a_g08_c01.avi", "UCF-101/HandstandPushups/v_h_g08_c01.avi")
    touch(root, "UCF-101/HandStandPushups/v_h_g01_c01.avi")


def test_ucf101(tmp_path, caplog):
    ucf101(tmp_path)
    train = read(tmp_path)
    assert pairs(train) == [("Archery/v_a_g08_c01.avi", 0), ("HandstandPushups/v_h_g08_c01.avi", 1)]
    assert train.class_names == ["Archery", "HandstandPushups"]
    assert pairs(read(tmp_path, "test")) == [("HandStandPushups/v_h_g01_c01.avi", 1)]  # UCF101 itself has both cases
    with caplog.at_level(logging.INFO):
        assert pairs(read(tmp_path, "val")) == pairs(read(tmp_path, "test"))
    assert "val is the test list" in caplog.text
    assert pairs(read(tmp_path, split_number=2)) == [("HandstandPushups/v_h_g08_c01.avi", 1)]
    with pytest.raises(DataError, match=r"testlist02\.txt"):
        read(tmp_path, "test", split_number=2)


def test_ucf101_errors(tmp_path):
    ucf101(tmp_path)
    path = tmp_path / "ucfTrainTestlist" / "trainlist01.txt"
    path.write_text("Archery/a.avi 2\nArchery/a.avi 0\nBowling/b.avi 1\nArchery/a.avi\n")
    with pytest.raises(DataError) as caught:
        read(tmp_path, check_files=False)
    for said in ("disagree", "line 1", "range 1..2", "line 2", "no class", "line 3", "one column", "line 4"):
        assert said in str(caught.value)
    path.with_name("classInd.txt").write_text("1 Archery\n3 Bowling\n")
    with pytest.raises(DataError, match="without a gap"):
        read(tmp_path)


def test_a_group_column_needs_a_list_with_columns(tmp_path):
    touch(tmp_path, "train/a/1.mp4")
    with pytest.raises(DataError, match="DATA.GROUP_COLUMN person: .* has no list with columns"):
        read(tmp_path, group_column="person")


def test_hmdb51(tmp_path):
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    (lists / "wave_test_split1.txt").write_text("a&b;[1].avi 1 \nc.avi 2 \nd.avi 0 \n")
    (lists / "brush_hair_test_split1.txt").write_text("x.avi 2 \ny.avi 1 \n")
    (lists / "wave_test_split2.txt").write_text("c.avi 1 \n")
    touch(tmp_path, "wave/a&b;[1].avi", "wave/c.avi", "brush_hair/x.avi", "brush_hair/y.avi")
    train = read(tmp_path)
    assert (pairs(train), train.class_names) == (
        [("brush_hair/y.avi", 0), ("wave/a&b;[1].avi", 1)],
        ["brush_hair", "wave"],
    )
    assert pairs(read(tmp_path, "val")) == pairs(read(tmp_path, "test")) == [("brush_hair/x.avi", 0), ("wave/c.avi", 1)]
    assert pairs(read(tmp_path, split_number=2)) == [("wave/c.avi", 0)]
    with pytest.raises(DataError, match="test_split3"):
        read(tmp_path, split_number=3, format="hmdb51")
    (lists / "wave_test_split1.txt").write_text("c.avi 3\n")
    with pytest.raises(DataError, match=r"wave_test_split1.txt line 1: c.avi 3"):
        read(tmp_path)


# --- which format -----------------------------------------------------------------------------------------------


def test_detection(tmp_path):
    with pytest.raises(DataError, match=r"no clips in a known layout.*Found: an empty folder"):
        detect_format(str(tmp_path))
    touch(tmp_path, "wave/1.mp4", "README")
    assert detect_format(str(tmp_path)) == "folder"
    touch(tmp_path, "val.csv")
    assert detect_format(str(tmp_path)) == "csv"  # a list describes the folders
    with pytest.raises(DataError, match=r"no train.csv .*found val.csv"):
        read(tmp_path)
    touch(tmp_path, "trainlist01.txt")
    with pytest.raises(DataError, match=r"several formats \(csv: val.csv; ucf101: trainlist01.txt\): set DATA.FORMAT"):
        detect_format(str(tmp_path))
    touch(tmp_path / "two", "notes.txt")
    with pytest.raises(DataError, match=r"Found: notes.txt"):
        read(tmp_path / "two")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "imagenet"}, "DATA.FORMAT 'imagenet'"),
        ({"split": "trian"}, "'trian'"),
        ({"root": ""}, "PATH_TO_DATA_DIR"),
        ({"root": "/no/such/folder"}, "does not exist"),
    ],
)
def test_arguments(tmp_path, options, said):
    with pytest.raises(DataError, match=said):
        read_manifest(**{"root": str(tmp_path), "split": "train"} | options)


# --- class lists ------------------------------------------------------------------------------------------------


def test_class_lists(tmp_path):
    path = tmp_path / "classes.txt"
    names = ["wave", "push, left", 'a "b"', "épée"]
    write_class_list(path, names)
    assert path.read_text(encoding="utf-8").splitlines() == names
    assert read_class_list(path) == names
    assert os.listdir(tmp_path) == ["classes.txt"]
    with pytest.raises(DataError, match="single lines"):
        write_class_list(path, ["two\nlines"])
    path.write_text("wave\n\nwave\n")
    with pytest.raises(DataError, match=r"empty line.*\n.*line 2\n.*twice.*\n.*line 3"):
        read_class_list(path)
    path.write_text("")
    with pytest.raises(DataError, match="no class in it"):
        read_class_list(path)


def clip_list(tmp_path, labels, classes=None):
    (tmp_path / "train.csv").write_text("".join(f"clip{n}.mp4,{label}\n" for n, label in enumerate(labels)))
    if classes is not None:
        (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return str(tmp_path)


@pytest.mark.parametrize("label", ["9999999999999", "9" * 5000, "1000000", "9999999999999.0"])
def test_an_absurd_label_makes_no_classes(tmp_path, label):
    root = clip_list(tmp_path, ["0", "1", label])
    with pytest.raises(DataError, match="a label that would make more than 1,000,000 classes.*\n.*line 3"):
        read_manifest(root=root, split="train", check_files=False)
    with pytest.raises(DataError, match=r"a label out of range 0..2"):
        read_manifest(root=root, split="train", check_files=False, num_classes=3)
    with pytest.raises(DataError, match="at most 1,000,000 classes"):
        read_manifest(root=root, split="train", check_files=False, num_classes=10**13)


def test_thousands_of_unknown_labels_are_looked_up_ten_times(tmp_path, monkeypatch, long):
    asked = []
    monkeypatch.setattr(
        "dust.datasets.manifest.labels.near_names", lambda word, names: asked.append(word) or ["wave"][: word == "n0"]
    )
    root = clip_list(tmp_path, [f"n{n}" for n in range(20_000)], ["wave", "jump"])
    with pytest.raises(DataError, match="(?s)20000 cases.*'n0'; did you mean 'wave'"):
        read_manifest(root=root, split="train", check_files=False)
    assert len(asked) == (20 if long else 10)  # what was kept is left aside, and the rows are read


def test_thousands_of_rows_of_one_clip_get_ids_at_once(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4,0\n" * 20_000)
    clips = read_manifest(root=str(tmp_path), split="train", check_files=False).clips
    assert [clips[0].id, clips[1].id, clips[-1].id] == ["a.mp4", "a.mp4#2", "a.mp4#20000"]


def test_names_that_our_own_lists_had_to_write_in_another_way_are_found(tmp_path):
    names = [b"=1+1.mp4", b"-a.mp4", b"b\xff.mp4", b"line\nend.mp4", b"\x1b[31m.mp4", b"'@c.mp4", b"tab\t.mp4"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    write_csv(tmp_path / "train.csv", ("path", "label"), [(os.fsdecode(name), "=yes") for name in names])
    found = read_manifest(root=str(tmp_path), split="train")
    assert [os.path.basename(os.fsencode(clip.path)) for clip in found.clips] == names
    assert found.class_names == ["=yes"] and all(clip.id.isprintable() for clip in found.clips)
    (tmp_path / "train.csv").write_text("'@c.mp4,0\n")  # as somebody else wrote it
    assert os.path.basename(read_manifest(root=str(tmp_path), split="train").clips[0].path) == "'@c.mp4"


def test_class_folders_that_are_no_utf8(tmp_path):
    for number in range(20):
        path = os.fsencode(tmp_path) + b"/class\xff/clip%d\xfe.mp4" % number
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").close()
    found = read_manifest(root=str(tmp_path), split="train")
    assert found.class_names == ["class\\udcff"] and os.path.exists(found.clips[0].path)
    assert found.clips[0].id.isprintable()
