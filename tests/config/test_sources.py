"""YAML files with inheritance, and overrides, as flat lists of settings."""

import pytest

from dust.config.sources import Setting, SourceError, read_overrides, read_yaml


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def pairs(settings):
    return [(setting.key, setting.value) for setting in settings]


def test_scalars_stay_the_text_of_the_file_with_their_line(tmp_path):
    path = write(
        tmp_path,
        "a.yaml",
        'A:\n  B: 007\n  C: 1e-4\n  D: on\n  E: "x y"\n  F: 12:30\n  G: [1, 2e0, [a]]\nH:\nI: {}\nJ.K: 5\n',
    )
    settings = read_yaml(path)
    assert pairs(settings) == [
        ("A.B", "007"),
        ("A.C", "1e-4"),
        ("A.D", "on"),
        ("A.E", "x y"),
        ("A.F", "12:30"),
        ("A.G", ["1", "2e0", ["a"]]),
        ("H", None),
        ("I", {}),
        ("J.K", "5"),
    ]
    assert [int(setting.where.rsplit(":", 1)[1]) for setting in settings] == [2, 3, 4, 5, 6, 7, 8, 9, 10]


def test_a_section_given_twice_keeps_the_keys_of_both(tmp_path):
    path = write(tmp_path, "a.yaml", "A:\n  X: 1\n  Y: 2\nA:\n  X: 3\n")
    assert pairs(read_yaml(path)) == [("A.X", "1"), ("A.Y", "2"), ("A.X", "3")]


def test_bases_come_first_and_are_relative_to_the_file(tmp_path):
    write(tmp_path, "base.yaml", "A: base\n")
    write(tmp_path, "sub/middle.yml", "_BASE_: ../base.yaml\nA: middle\n")
    write(tmp_path, "other.yaml", "O: 1\n")
    path = write(tmp_path, "sub/x/top.yaml", "A: top\n_BASE_: [../middle.yml, ../../other.yaml]\n")
    assert pairs(read_yaml(path)) == [("A", "base"), ("A", "middle"), ("O", "1"), ("A", "top")]


def test_one_base_may_be_inherited_twice(tmp_path):
    write(tmp_path, "base.yaml", "A: 1\n")
    write(tmp_path, "left.yaml", "_BASE_: base.yaml\nL: 1\n")
    write(tmp_path, "right.yaml", "_BASE_: base.yaml\nR: 1\n")
    path = write(tmp_path, "top.yaml", "_BASE_: [left.yaml, right.yaml]\n")
    assert [setting.key for setting in read_yaml(path)] == ["A", "L", "A", "R"]


def test_merge_keys_and_aliases(tmp_path):
    path = write(tmp_path, "a.yaml", "A: &a\n  X: 1\n  Y: [1, 2]\nB:\n  <<: *a\n  X: 2\n")
    assert dict(pairs(read_yaml(path))) == {"A.X": "1", "A.Y": ["1", "2"], "B.X": "2", "B.Y": ["1", "2"]}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", "", "the file holds no settings"),
        ("a.yaml", "# only words\n", "the file holds no settings"),
        ("a.yaml", "{}\n", "the file holds no settings"),
        ("a.yaml", "- 1\n- 2\n", "the file holds a list"),
        ("a.yaml", "hello\n", "the file holds a single value"),
        ("a.yaml", "A: [1, 2\nB: 1\n", r"not valid YAML: .*a\.yaml\", line 2"),
        ("a.yaml", "A:\n\tB: 1\n", "not valid YAML: .*not tabs"),
        ("a.yaml", "A: 1\n---\nB: 2\n", "not valid YAML: expected a single document"),
        ("a.yaml", "A: \x01\n", "not valid YAML"),
        ("a.yaml", "? [1, 2]\n: 3\n", "a.yaml:1: a key is a word"),
        ("a.yaml", "A: [{[1]: 2}]\n", "a.yaml:1: a key is a word"),
        ("a.yaml", "A: [{B: 1, B: 2}]\n", "a.yaml:1: a key is a word, and may be there only once"),
        ("a.json", "{}", "ends in .yaml or .yml"),
        ("a.py", "A = 1", "ends in .yaml or .yml"),
        ("a.yaml", "_BASE_: none.yaml\nA: 1\n", r"none\.yaml: no such file \(_BASE_ in .*a\.yaml:1\)"),
        ("a.yaml", "_BASE_: a.yaml\nA: 1\n", "goes in a circle: .*a.yaml -> .*a.yaml"),
        ("a.yaml", "_BASE_:\nA: 1\n", "_BASE_ names a file"),
        ("a.yaml", "A: &a [*a]\n", "aliases in a circle"),
    ],
)
def test_refuses(tmp_path, name, text, says):
    with pytest.raises(SourceError, match=says):
        read_yaml(write(tmp_path, name, text))


def test_refuses_what_is_no_text_file(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00A")
    with pytest.raises(SourceError, match="not a UTF-8 text file"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").mkdir()
    with pytest.raises(SourceError, match="cannot be read"):
        read_yaml(tmp_path / "b.yaml")
    with pytest.raises(SourceError, match="no such file"):
        read_yaml(tmp_path / "c.yaml")


def test_a_circle_over_several_files_is_named(tmp_path):
    write(tmp_path, "a.yaml", "_BASE_: b.yaml\n")
    write(tmp_path, "b.yaml", "_BASE_: c.yaml\n")
    write(tmp_path, "c.yaml", "_BASE_: a.yaml\n")
    with pytest.raises(SourceError, match=r"a\.yaml -> .*b\.yaml -> .*c\.yaml -> .*a\.yaml"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.mkdir [CANARY]",
        "!!python/object/new:os.mkdir [CANARY]",
        "!!python/name:os.system ''",
        "!!python/tuple [1, 2]",
        "!custom x",
        "[!!python/object/apply:os.mkdir [CANARY]]",
    ],
)
def test_tags_are_refused_by_name_and_never_run(tmp_path, value):
    canary = tmp_path / "canary"
    path = write(tmp_path, "a.yaml", f"A:\n  B: {value.replace('CANARY', str(canary))}\n")
    with pytest.raises(SourceError, match=r"a\.yaml:2: the tag !(!python/[a-z/:.]+|custom) is refused"):
        read_yaml(path)
    assert not canary.exists()


def test_a_bomb_of_aliases_is_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(SourceError, match="far too many values"):
        read_yaml(write(tmp_path, "a.yaml", "\n".join(lines)))


def test_windows_files(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfA:\r\n  B: 1\r\n")
    assert pairs(read_yaml(tmp_path / "a.yaml")) == [("A.B", "1")]


def test_overrides():
    assert pairs(read_overrides(["A", "-1", "B.C", "x y"], set())) == [("A", "-1"), ("B.C", "x y")]
    assert read_overrides({"A.B": 1, "C": {"D": [2], "E": {}}}, set()) == [
        Setting("A.B", 1, "override"),
        Setting("C.D", [2], "override"),
        Setting("C.E", {}, "override"),
    ]
    assert read_overrides((), set()) == []


def test_an_override_without_its_value_is_named():
    with pytest.raises(SourceError, match="A seems to stand alone in: A B 1"):
        read_overrides(["A", "B", "1"], {"A", "B"})
    with pytest.raises(SourceError, match="B seems to stand alone in: A 1 B"):
        read_overrides(["A", "1", "B"], {"A", "B"})
