"""Values as people write them."""

import pathlib

import numpy as np
import pytest

from dust.config import load_config
from dust.config.values import plain, read_value, same


@pytest.mark.parametrize(
    ("written", "default", "value"),
    [
        ("true", False, True),
        ("FALSE", True, False),
        ("on", False, True),
        (True, False, True),
        ("8", 1, 8),
        ("8.0", 1, 8),
        (8.0, 1, 8),
        ("-1", 1, -1),
        ("1e3", 1, 1000),
        (np.int64(3), 1, 3),
        ("123456789012345678901", 1, 123456789012345678901),
        ("1e-4", 0.1, 1e-4),
        ("1E-4", 0.1, 1e-4),
        ("1", 0.1, 1.0),
        (1, 0.1, 1.0),
        (np.float32(0.5), 0.1, 0.5),
        ("-.inf", 0.1, float("-inf")),
        ("inf", 0.1, float("inf")),
        ("007", "x", "007"),
        (7, "x", "7"),
        ("true", "x", "true"),
        ("2024-01-01", "x", "2024-01-01"),
        ("", "x", ""),
        ("a b c", "x", "a b c"),
        (pathlib.PurePosixPath("a/b"), "x", "a/b"),
        ("[256, 320]", [1, 2], [256, 320]),
        ("(256, 320)", [1, 2], [256, 320]),
        (["256", "320"], [1, 2], [256, 320]),
        ([1e2, "3"], [1, 2], [100, 3]),
        ("[0.9, 0.95]", (0.9, 0.999), (0.9, 0.95)),
        ("[1, 1e-1]", (0.9, 0.999), (1.0, 0.1)),
        ("[a, b c]", ["x"], ["a", "b c"]),
        ("[]", [1], []),
        ("()", [1], []),
        ("", [1], []),
        (None, [1], []),
        ("none", [1], []),
        ("None", (1,), ()),
        ("~", [1], []),
        ('"[]"', [1], []),
        ("'[]'", [1], []),
        ("''", [1], []),
        ("'[3]'", [1], [3]),
        ("[[3, 3], [4, 4]]", [[3], [4]], [[3, 3], [4, 4]]),
    ],
)
def test_reads(written, default, value):
    read = read_value(written, default)
    assert read == value
    assert type(read) is type(default)
    if isinstance(read, (list, tuple)) and default and not isinstance(default[0], list):
        assert {type(item) for item in read} <= {type(default[0])}


@pytest.mark.parametrize(
    ("written", "default", "says"),
    [
        ("maybe", True, "neither True nor False"),
        ("1", True, "neither True nor False"),
        (0, True, "neither True nor False"),
        ("8.5", 1, "'8.5' is not a whole number"),
        ("abc", 1, "'abc' is not a whole number"),
        (True, 1, "True is not a whole number"),
        ("inf", 1, "not a whole number"),
        ("abc", 0.1, "'abc' is not a number"),
        ("nan", 0.1, "not a number"),
        (True, 0.1, "True is not a number"),
        (["1"], 1, r"the list \['1'\] is not a whole number"),
        (["1"], "x", r"the list \['1'\] is not a text"),
        ("None", 1, "has no value; its default is 1"),
        (None, 0.1, "has no value; its default is 0.1"),
        ("null", "x", "null is read as no value; write '' for an empty text, or another word"),
        ("", 1, "has no value"),
        ("256", [1, 2], r"'256' is not a list; write \[256\]"),
        ("256,320", [1, 2], r"'256,320' is not a list; write \[256, 320\]"),
        ("256 320", [1, 2], r"is not a list; write \[1, 2\]"),
        (256, [1, 2], r"256 is not a list; write \[256\]"),
        ("[256, b]", [1, 2], r"in the list \[256, 'b'\]: 'b' is not a whole number"),
        ("[256,", [1, 2], "it does not end; quote a list that has spaces"),
    ],
)
def test_refuses(written, default, says):
    with pytest.raises(ValueError, match=says):
        read_value(written, default)


def test_element_type_of_a_list_whose_default_is_empty():
    assert read_value("[0, 11]", [], element=float) == [0.0, 11.0]
    assert read_value("[7, x]", (), element=str) == ("7", "x")
    with pytest.raises(ValueError, match=r"'0' is not a list; write \[0.0\], or the word balanced"):
        read_value("0", [], element=float, words=("balanced",))
    with pytest.raises(ValueError, match=r"'x' is not a list; write \[1.0, 0.1\]"):
        read_value("x", [], element=float)
    assert read_value("balanced", [], element=float, words=("balanced",)) == "balanced"


def test_a_path_begins_at_home_whatever_the_key(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert read_value("~/runs", ".") == "/home/me/runs" == read_value(pathlib.Path("~/runs"), "")
    assert read_value("[~/a.py, b~]", [], element=str) == ["/home/me/a.py", "b~"]
    assert read_value("~nobody-is-called-so/x", "") == "~nobody-is-called-so/x"
    written = {"OUTPUT_DIR": "~/runs", "DATA.PATH_PREFIX": "~/clips", "MODEL.PRETRAINED": "~/w.pth"}
    cfg = load_config(None, [word for pair in written.items() for word in pair])
    assert [cfg.OUTPUT_DIR, cfg.DATA.PATH_PREFIX, cfg.MODEL.PRETRAINED] == [
        "/home/me/runs", "/home/me/clips", "/home/me/w.pth"
    ]  # fmt: skip


def test_none_only_where_it_is_the_default():
    for written in (None, "None", "null", "~"):
        assert read_value(written, None, element=float) is None
    assert read_value("1", None, element=float) == 1.0
    with pytest.raises(ValueError, match="'x' is not a number"):
        read_value("x", None, element=float)


def test_nothing_in_a_text_is_executed(tmp_path):
    canary = tmp_path / "canary"
    attacks = [
        f"[__import__('os').mkdir('{canary}')]",
        f"(open('{canary}', 'w'),)",
        f"[!!python/object/apply:os.mkdir ['{canary}']]",
    ]
    for text in attacks:
        with pytest.raises(ValueError, match="is not a"):
            read_value(text, [1, 2])
        plain(text)
    assert not canary.exists()


def test_plain_recognises_numbers_words_and_lists():
    assert plain("[8, 7.5, True, none, x]") == [8, 7.5, True, None, "x"]
    assert plain("1e3") == 1000
    assert plain({"a": 1}) == {"a": 1}


def test_same_tells_true_from_one():
    assert same([1, (2, 3)], (1.0, [2, 3]))
    assert not same(True, 1)
    assert not same([1], [1, 2])
    assert not same([1], 1)
