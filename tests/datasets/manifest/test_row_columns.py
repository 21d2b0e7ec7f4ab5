"""A long csv read piece by piece has the rows that it has when it is read at once."""

import numpy as np
import pytest

from dust.datasets.manifest import long_list, manifest, row_columns
from dust.datasets.manifest.clips import ClipList
from dust.datasets.manifest.manifest import Clip, read_manifest
from dust.datasets.manifest.row_columns import AllAtOnce, columns_in_pieces, columns_of
from dust.datasets.manifest.table import name_rows, read_csv
from dust.utils.errors import DataError


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(row_columns, "BLOCK", 3)


def told(columns):
    found = {}
    for name, column in {**columns.columns, **columns.tables}.items():
        found[name] = column[:].tolist() if hasattr(column, "dtype") else list(column)
    return str(found), columns.facts  # NaN is NaN


TEXTS = [
    "path,label\na,x\nb,y\nc,x\nd,\u00e9\n",
    "\ufeffpath,label,id,group,start,end,other\r\na,x,1,,,,\r\nb,y,2,g,,,\r\nc,y,3,g,1,2,\r\nd,x,4,,,7.5,\r\ne,x,5,h,,,",
    "a 0\nb 1\nc c 0\nd 0\ne 1",
    "a;0\nb;1\nc;0\nd,d;0",
    "a\t0\nb\t1\nc c\t0\nd\t0\n",
    "path,label,split\na,0,train\nb,0,val\nc,1,train\nd,0,test\ne,1,train\n",
    'path,label\n"a,a",0\nb,1\n"c""",0\n\'=d,1\n',
    "path,label\nA\x1bB,0\nb,1\n",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_rows_are_those_of_the_whole(tmp_path, text, split):
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode())
    raw = read_csv(path, split=split)
    name_rows(raw)
    assert not raw.problems.kinds and raw.rows
    if split == "test" and text.startswith("a 0"):
        with pytest.raises(AllAtOnce):
            columns_in_pieces(str(path), split=split)
        return
    found = columns_in_pieces(str(path), split=split)
    assert told(found) == told(columns_of(raw))
    assert ("line" in found.columns) == ("split" in text and split == "train")


@pytest.mark.parametrize(
    "text",
    ["path,label\na,0\nb,1\n\nc,0\n", "path,label\na,0\nb,1\nc,0\nd,\n", "path,label\n", "a,0\n" * 3 + "b\n", ""],
)
def test_a_list_that_is_wrong_or_empty_has_none(tmp_path, text):
    path = tmp_path / "list.csv"
    path.write_text(text)
    assert columns_in_pieces(str(path), split="train") is None


@pytest.mark.parametrize(
    "data",
    [
        b"sep=;\na;0\n",
        "path,label\na,0\n".encode("utf-16"),
        "path,label\na,0\n".encode("utf-16-le"),
        b"path,label\na,0\nb,0\nc,0\n\xff,0\n",
        b"path,label\na,0\nb,0\nc,0\na,1\n",  # named again
        b"a 0\nb 0\nc 0\n" + b"d,d 0\n" * 4,  # is it a comma?
    ],
)
def test_what_a_piece_does_not_tell_is_read_at_once(tmp_path, data):
    path = tmp_path / "list.csv"
    path.write_bytes(data)
    with pytest.raises(AllAtOnce):
        columns_in_pieces(str(path), split="train")


def test_no_more_than_a_block_of_rows_is_there_at_once(tmp_path, monkeypatch):
    path, seen, add = tmp_path / "list.csv", [], row_columns.RowColumns.add
    path.write_text("path,label\n" + "".join(f"{n},{n % 4}\n" for n in range(50)))
    monkeypatch.setattr(row_columns.RowColumns, "add", lambda self, rows: seen.append(len(rows)) or add(self, rows))
    found = columns_in_pieces(str(path), split="train")
    assert sum(seen) == 50 and max(seen) == 3
    np.testing.assert_array_equal(found.columns["label"], np.arange(50) % 4)


def test_rows_of_a_list_in_blocks(monkeypatch):
    monkeypatch.setattr("dust.datasets.manifest.clips.BLOCK", 4)
    clips = [Clip(f"{n}", f"{n}.mp4", n % 5, f"g{n % 2}") for n in range(11)]
    found = ClipList.of(clips)
    assert list(found) == clips == [found.clip(n) for n in range(11)] and list(found.ids()) == [c.id for c in clips]


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        (["a.mp4,wave", "", "b.mp4,jump"], {}, "an empty line: remove it:\n      line 3"),
        (["a.mp4,wave", "b.mp4,"], {}, "an empty label:\n      line 3: b.mp4,"),
        (["a.mp4,wave", "b.mp4,jumq"], {"class_names": ["jump", "wave"]}, "'jumq'; did you mean 'jump'?"),
        (["a.mp4,wave", "a.mp4,jump"], {}, "rows that name what is named before (write UTF-8, a first line path,label"),
    ],
)
def test_of_a_list_too_long_to_be_read_at_once_the_pieces_say_what_is_wrong(tmp_path, monkeypatch, rows, more, said):
    (tmp_path / "train.csv").write_text("path,label\n" + "".join(f"{row}\n" for row in rows))
    monkeypatch.setattr(long_list, "LONG", 0)
    monkeypatch.setattr(row_columns, "LONGEST_TEXT", 20)
    monkeypatch.setattr(manifest, "read_csv", lambda *_, **__: pytest.fail("it is read at once"))
    with pytest.raises(DataError) as error:
        read_manifest(root=str(tmp_path), split="train", check_files=False, **more)
    assert said in str(error.value)
