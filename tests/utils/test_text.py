"""Texts of others: what is shown, what stands in a table, and that all of it leads back."""

import csv
import io

import pytest

from dust.utils.files import csv_text
from dust.utils.text import (
    counted,
    csv_cell,
    csv_value,
    near_names,
    printable,
    printable_lines,
    unescaped,
    whole_number,
)

ODD = ["a\nb", "a\r\nb", "\x1b[31mred", "tab\t", "b\udcff.mp4", "\u202egnp.exe", "\x07", "\x9b2J", "\u2028", "\x00"]


@pytest.mark.parametrize("name", ODD)
def test_no_name_steers_a_terminal(name):
    shown = printable(name)
    assert shown.isprintable() and len(shown.splitlines()) == 1 and unescaped(shown) == name
    assert printable(shown) == shown
    shown.encode("utf-8")


def test_what_is_harmless_stays_as_it_is():
    for text in ("", "a b/c.mp4", "Zoë", "視頻", "a\\b", "100 %", "\u00a0", "\u200d"):
        assert printable(text) == text == printable_lines(text)


def test_only_lines_of_ours_are_lines():
    assert printable_lines("a:\n  1. b\n      c") == "a:\n  1. b\n      c"
    forged = printable_lines("bad clip x\n[01/01 00:00:00][INFO] all is well\x1b[2K")
    assert forged == "bad clip x\\n[01/01 00:00:00][INFO] all is well\\x1b[2K"


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1+1",
        "-1+1",
        "@SUM(A1)",
        "\tx",
        "\rx",
        "=cmd|' /C calc'!A0",
        "-",
        "+",
        "'=1+1",
        "''@a",
        "'\tx",
        "-dash",
    ],
)
def test_no_text_is_a_formula_and_all_are_read_back(text):
    (row,) = csv.reader(io.StringIO(csv_text([[text, 1]]), newline=""))
    assert row[0].startswith("'") and csv_value(row[0]) == printable(text)
    assert row[0] == "'" + printable(text), "one leading apostrophe"


@pytest.mark.parametrize("text", ["", "a", "'", "'a", "a=b", "it's", "\\test\\clip.mp4", "/a/b", " =1"])
def test_other_texts_stay_as_they_are(text):
    assert csv_cell(text) == text == csv_value(text)


@pytest.mark.parametrize("number", [-1, -0.5, 1e-9, "-0.5", "+3", "-1e-05", "-inf", "-nan", None])
def test_numbers_never_get_an_apostrophe(number):
    assert csv_cell(number) is number


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1.0", "\u00b2", "\u0661", "9" * 19, "9" * 5000, "1_0"])
def test_what_is_no_number(text):
    assert whole_number(text) is None


def test_numbers():
    assert [whole_number(text) for text in ("0", "007", "9" * 18)] == [0, 7, 10**18 - 1]


def test_near_names_are_bounded():
    assert near_names("wavee", ["wave", "jump"]) == ["wave"]
    assert near_names("x" * 100_000, ["x" * 100_001]) == []
    assert near_names("wavee", ["wave", *map(str, range(30_000))]) == []


def test_what_is_counted_is_one_or_several():
    assert [counted(number, "clip") for number in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]
    assert counted(1, "class") == "1 class" and counted(12, "class") == "12 classes"
    assert [counted(number, "clip is", "clips are") for number in (1, 3)] == ["1 clip is", "3 clips are"]


def test_names_that_differ_in_case_alone_are_near():
    assert near_names("RIGHT", ["left", "right", "light"]) == ["right"]
