"""Lists in csv files as people write them: separators, headers, quotes, paths, and all problems in one error."""

import os
from pathlib import Path

import pytest

from dust.datasets.manifest.manifest import read_manifest
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


def test_ten_thousand_rows_in_order(tmp_path):
    touch(tmp_path, *(f"clips/{i:05d}.mp4" for i in range(10_000)))
    manifest = csv(tmp_path, "".join(f"clips/{i:05d}.mp4 {i % 7}\n" for i in range(10_000)))
    assert pairs(manifest) == [(f"clips/{i:05d}.mp4", i % 7) for i in range(10_000)]


def test_a_group_column_needs_a_list_with_columns(tmp_path):
    touch(tmp_path, "train/a/1.mp4")
    with pytest.raises(DataError, match="DATA.GROUP_COLUMN person: .* has no list with columns"):
        read(tmp_path, group_column="person")


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
