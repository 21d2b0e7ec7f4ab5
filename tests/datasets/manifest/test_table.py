"""The one reader of csv files with a header."""

import ast

import pytest

from dust.datasets.manifest.columns import to_number
from dust.datasets.manifest.table import read_csv, read_table
from dust.utils.errors import DataError, Problems
from tests.helpers import ROOT


def read(tmp_path, text, **options):
    path, problems = tmp_path / "a.csv", Problems()
    path.write_bytes(text.encode())
    table = read_table(path, problems, **options)
    return table.header, [(where, list(cells.values())) for where, _, cells in table.rows], problems.kinds


def test_rows_are_named_by_the_header(tmp_path):
    text = '\ufeffID, Label\r\n\r\n a ,"x, y"\r\nb,"say ""z"""'
    assert read(tmp_path, text) == (["id", "label"], [("line 3", ["a", "x, y"]), ("line 4", ["b", 'say "z"'])], {})
    assert read(tmp_path, text, where="f {}", empty=False)[2] == {"an empty line: remove it": ["f 2"]}
    assert read(tmp_path, "a\tb\n1\t2,3\n", separator="")[1] == [("line 2", ["1", "2,3"])]
    assert read(tmp_path, "id label\n1 2\n", separator="")[:2] == (["id", "label"], [("line 2", ["1", "2"])])
    assert read(tmp_path, "a;b\n1;2\n", separator=";")[1] == [("line 2", ["1", "2"])]
    assert read(tmp_path, "") == ([], [], {})


def test_all_broken_rows_are_said(tmp_path):
    header, rows, kinds = read(tmp_path, 'id,label\na,"b\nc\nd,e,f\ng,h\n')
    assert (header, rows) == (["id", "label"], [("line 5", ["g", "h"])])
    assert [
        (kind.split(":")[0].split(";")[-1].strip(), [case[:7] for case in cases]) for kind, cases in kinds.items()
    ] == [
        ("broken quoting", ["line 2:"]),
        ("not 2 columns, as the header has", ["line 3:", "line 4:"]),
    ]
    with pytest.raises(DataError, match="a.csv: line 1: broken quoting"):
        read(tmp_path, '"id,label\n')


WAYS = {
    "semicolons": ("path;label\na.mp4;wave\nb, c.mp4;push\n", "utf-8"),
    "semicolons, no header": ("a.mp4;wave\nb, c.mp4;push\n", "utf-8"),
    "tabs in UTF-16, as a spreadsheet's Unicode text": ("path\tlabel\r\na.mp4\twave\r\nb, c.mp4\tpush\r\n", "utf-16"),
    "UTF-16 without a byte order mark": ("path\tlabel\na.mp4\twave\nb, c.mp4\tpush\n", "utf-16-be"),
    "byte order mark, CRLF, a line that names the separator": (
        "\ufeffsep=;\r\nVideo Path;Category\r\na.mp4;wave\r\nb, c.mp4;push\r\n",
        "utf-8",
    ),
    "another tool's names": ('filename,category\na.mp4,wave\n"b, c.mp4",push\n', "utf-8"),
    "a comment as header": ("#file;target\na.mp4;wave\nb, c.mp4;push\n", "utf-8"),
    "quotes": ('"video_name";"class name"\n"a.mp4";"wave"\n"b, c.mp4";"push"\n', "utf-8"),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_of_other_tools(tmp_path, way):
    text, encoding = WAYS[way]
    (tmp_path / "train.csv").write_bytes(text.encode(encoding))
    raw = read_csv(tmp_path / "train.csv", split="train")
    assert not raw.problems.kinds
    assert [(row.written, row.label) for row in raw.rows] == [("a.mp4", "wave"), ("b, c.mp4", "push")]


def test_tables_find_their_separator_too(tmp_path):
    assert read(tmp_path, "id;label\na;x, y\n")[1] == [("line 2", ["a", "x, y"])]
    assert read(tmp_path, "id\tlabel\na\tx\n")[1] == [("line 2", ["a", "x"])]
    assert read(tmp_path, "sep=;\nid;label\na;x\n")[1] == [("line 3", ["a", "x"])]
    assert to_number("0,5") == 0.5 and to_number("-1,5e3") == -1500 and to_number("2.5") == 2.5
    with pytest.raises(ValueError):
        to_number("1.234,5")


def test_columns_that_nobody_reads_are_named(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "train.csv").write_text("path,label,fps,camera\na.mp4,wave,30,2\n")
    raw = read_csv(tmp_path / "train.csv", split="train")
    assert not raw.problems.kinds and "columns that are not read: fps, camera (DATA.EXTRA_COLUMNS)" in caplog.text
    raw = read_csv(tmp_path / "train.csv", split="train", group_column="Camera")
    assert [row.group for row in raw.rows] == ["2"]
    kinds = read_csv(tmp_path / "train.csv", split="train", group_column="person").problems.kinds
    assert list(kinds) == ["no column person, which DATA.GROUP_COLUMN names"]


def test_a_column_split_chooses_rows(tmp_path):
    text = "path,label,split\na.mp4,x,train\nb.mp4,y,validation\nc.mp4,y,test\n"
    (tmp_path / "all.csv").write_text(text)
    for split, written in {"train": ["a.mp4"], "val": ["b.mp4"], "test": ["c.mp4"]}.items():
        assert [row.written for row in read_csv(tmp_path / "all.csv", split=split).rows] == written
    (tmp_path / "train.csv").write_text(text)
    kinds = read_csv(tmp_path / "train.csv", split="train").problems.kinds
    assert kinds == {"a row of another split in train.csv": ["line 3: validation", "line 4: test"]}


def test_nobody_reads_csv_files_another_way():
    """csv.reader and csv.DictReader stand where a file is no table that a person gives."""
    others = {
        "dust/datasets/manifest/table.py": "the reader itself",
        "dust/datasets/manifest/annotation_files.py": "other tools' tables, whose quoted cells may hold line ends",
        "dust/engine/run_dir.py": "bad_clips.csv, whose last line may be cut off",
        "dust/analysis/predictions.py": "predictions.csv as a test wrote it, large",
        "dust/deploy/jobs.py": "windows of a live source, as it wrote them itself",
        "dust/utils/tstl_grouping_files.py": "predictions.csv as a test wrote it",
    }
    found = set()
    for path in (ROOT / "dust").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("csv.reader", "csv.DictReader"):
                found.add(str(path.relative_to(ROOT)))
    assert found == set(others)
