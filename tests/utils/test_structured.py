"""JSON and YAML of others: plain values of a bounded size, or one error that names the file."""

import pytest
import yaml

from dust.utils.errors import DataError
from dust.utils.structured import PlainYamlError, compose_yaml, dump_yaml, parse_json, parse_yaml, read_json


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 300 + "1" + "}" * 300])
def test_deep_json(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="a.json: lists within lists"):
        read_json(tmp_path / "a.json")


def test_json():
    assert parse_json('{"a": [1, {"b": null}]}', "x") == {"a": [1, {"b": None}]}
    assert len(parse_json("[" + "[1],[2]," * 50_000 + "3]", "x")) == 100_001
    for text in ("{", "9" * 5000, b"\xff\xfe{}"):
        with pytest.raises(DataError, match="x: is not JSON .*: write it again"):
            parse_json(text, "x")


def laughs(merge: bool) -> str:
    lines = ["a: &a {x: 1}" if merge else "a: &a [x, x]"]
    for char in "bcdefghijklm":
        items = ", ".join([f"*{chr(ord(char) - 1)}"] * 9)
        lines.append(f"{char}: &{char} {{<<: [{items}]}}" if merge else f"{char}: &{char} [{items}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text", [laughs(False), laughs(True), "a: &a [*a]", "a: &a {b: *a}", "a: &a {<<: *a}", "[" * 50_000, "- " * 50_000]
)
def test_what_would_grow_without_end(text):
    for parse in (compose_yaml, lambda text: parse_yaml(text, "x")):
        with pytest.raises((PlainYamlError, DataError), match="far too many values, or aliases in a circle"):
            parse(text)


@pytest.mark.parametrize("text", ["!!python/name:os.system", "a: !!python/object/apply:os.system [x]", "!foo 1"])
def test_tags(text):
    with pytest.raises(DataError, match="x: line 1: the tag .* is refused"):
        parse_yaml(text, "x")


def test_yaml():
    assert parse_yaml("a: &a {b: 1}\nc: {<<: *a, d: [1.5, 'x', null]}", "x") == {
        "a": {"b": 1}, "c": {"b": 1, "d": [1.5, "x", None]}
    }  # fmt: skip
    assert parse_yaml("", "x") is None
    for text in ("a: [", "? [1]\n: 2", "2001-99-99", "a: 1\n\tb: 2"):
        with pytest.raises(DataError, match="x: not valid YAML|x: .*not valid YAML"):
            parse_yaml(text, "x")
    with pytest.raises(DataError, match="far too many for a configuration"):
        parse_yaml("a" * (2 << 20), "x")


@pytest.mark.parametrize("values", [{"": 1}, {"a": {"": "x"}}, {"a": ""}, {"a": ["", {"b": None}]}])
def test_yaml_is_what_pyyaml_writes(values):
    assert dump_yaml(values) == yaml.safe_dump(values)
