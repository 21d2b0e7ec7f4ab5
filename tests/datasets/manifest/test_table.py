"""The one reader of csv files with a header."""

import ast

import pytest

from dust.datasets.manifest.table import read_table
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


def test_nobody_reads_csv_files_another_way():
    """csv.reader and csv.DictReader stand where a file is no table that a person gives."""
    others = {
        "dust/datasets/manifest/table.py": "the reader itself",
        "dust/engine/run_dir.py": "bad_clips.csv, whose last line may be cut off",
        "dust/utils/tstl_grouping_files.py": "predictions.csv as a test wrote it",
    }
    found = set()
    for path in (ROOT / "dust").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("csv.reader", "csv.DictReader"):
                found.add(str(path.relative_to(ROOT)))
    assert found == set(others)
