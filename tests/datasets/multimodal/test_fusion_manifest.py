"""The csv of several modalities: its layouts, its joins, and one error for all that is wrong."""

import numpy as np
import pytest

from dust.datasets.manifest.conflicts import find_conflicts, samples_of
from dust.datasets.multimodal.fusion_manifest import read_fused_manifest
from dust.utils.errors import DataError


@pytest.fixture
def root(tmp_path):
    """A folder with two clips, two series files and a stack of five series and five videos."""
    (tmp_path / "clips").mkdir()
    for name in ("clips/a.mp4", "clips/b, c.mp4", "a.csv", "b.npy"):
        (tmp_path / name).write_bytes(b"")
    np.save(tmp_path / "series.npy", np.zeros((5, 3, 51), np.float32))
    np.save(tmp_path / "video.npy", np.zeros((5, 3, 2, 4, 4), np.uint8))
    return tmp_path


def read(root, text: str = "", split="train", name="", modalities=("video", "series"), **options):
    if text:
        (root / (name or f"{split}.csv")).write_text(text)
    return read_fused_manifest(root=str(root), split=split, modalities=modalities, **options)


def problem(*args, **options) -> str:
    with pytest.raises(DataError) as caught:
        read(*args, **options)
    return str(caught.value)


BOTH = 'id,label,video,series\ns1,crash,clips/a.mp4,a.csv\ns2,normal,"clips/b, c.mp4",series.npy#4\n'


@pytest.mark.parametrize(
    "text",
    [
        BOTH,
        BOTH.replace("\n", "\r\n"),
        "\ufeff" + BOTH,
        "label\tseries\tid\tvideo\ncrash\ta.csv\ts1\tclips/a.mp4\nnormal\tseries.npy#4\ts2\tclips/b, c.mp4\n",
        "ID,Label,Video,Series,Split\n"
        + 's1,crash,clips/a.mp4,a.csv,train\ns2,normal,"clips/b, c.mp4",series.npy#4,train',
    ],
)
def test_a_file_per_split(root, text):
    manifest = read(root, text)
    first, second = manifest.clips
    assert manifest.class_names == ["crash", "normal"]
    assert [(one.id, one.label) for one in manifest.clips] == [("s1", 0), ("s2", 1)]
    assert (first.video, first.series) == (f"{root}/clips/a.mp4", f"{root}/a.csv")
    assert (second.video, second.series) == (f"{root}/clips/b, c.mp4", f"{root}/series.npy#4")
    assert first.path == first.video


ONE = """id,label,series,split
a,0,series.npy#0,train
b,1,series.npy#1,train
c,1,series.npy#2,val
d,,series.npy#3,test
"""


def test_one_file_for_all_splits(root):
    for where in (root, root / "manifest.csv"):
        (root / "manifest.csv").write_text(ONE)
        found = {split: read(where, split=split, modalities=["series"]) for split in ("train", "val", "test")}
        assert {split: [one.id for one in manifest.clips] for split, manifest in found.items()} == {
            "train": ["a", "b"],
            "val": ["c"],
            "test": ["d"],
        }
        assert found["val"].class_names == ["0", "1"]  # of the train split, although val has only one
        assert found["test"].clips[0].label is None


def test_only_the_modalities_asked_for_are_looked_at(root):
    text = "id,label,video,series\ns1,0,nowhere.mp4,series.npy#0\ns2,1,,series.npy#1\n"
    manifest = read(root, text, modalities=["series", "video_features"])
    assert [one.video for one in manifest.clips] == ["", ""]
    assert manifest.clips[0].path == f"{root}/series.npy#0"
    assert read(root, "id,label\ns1,0\ns2,1\n", modalities=["video_features"]).clips[1].id == "s2"


def test_classes_by_the_rules_of_other_manifests(root):
    rows = "id,label,series\ns1,push,series.npy#0\ns2,wave,series.npy#1\n"
    (root / "classes.txt").write_text("wave\npush\nother\n")
    assert [one.label for one in read(root, rows, modalities=["series"]).clips] == [1, 0]
    (root / "classes.txt").unlink()
    given = read(root, rows, modalities=["series"], class_names=["a", "wave", "push"])
    assert [one.label for one in given.clips] == [2, 1]
    assert "did you mean 'push'" in problem(root, rows.replace("push", "puhs"), split="val", modalities=["series"])
    assert "MODEL.NUM_CLASSES 2" in problem(root, rows, modalities=["series"], num_classes=5)
    several = 'id,label,series\ns1,"0,2",series.npy#0\ns2,1,series.npy#1\n'
    multi = read(root, several, modalities=["series"], multi_label=True)
    assert [one.label for one in multi.clips] == [(0, 2), (1,)]


def test_integer_labels_that_end_below_the_models_classes(root):
    rows = "id,label,series\ns1,0,series.npy#0\ns2,1,series.npy#1\n"
    assert "labels end below MODEL.NUM_CLASSES 4" in problem(root, rows, modalities=["series"], num_classes=4)


def test_a_prefix_for_relative_paths(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists")
    rows = "id,label,series\ns1,0,series.npy#0\n"
    assert "missing" in problem(elsewhere, rows, modalities=["series"])
    manifest = read(elsewhere, rows, modalities=["series"], path_prefix=str(root))
    assert manifest.clips[0].series == f"{root}/series.npy#0"
    absolute = f"id,label,series\ns1,0,{root}/series.npy#0\n"
    assert read(elsewhere, absolute, modalities=["series"]).clips[0].series == f"{root}/series.npy#0"


def test_a_test_split_may_lack_labels(root):
    for text in ("id,series\na,series.npy#0\n", "id,label,series\na,,series.npy#0\n"):
        assert read(root, text, split="test", modalities=["series"]).clips[0].label is None
    assert "no column label" in problem(root, "id,series\na,series.npy#0\n", modalities=["series"])
    (root / "train.csv").unlink()
    half = "id,label,series\na,0,series.npy#0\nb,,series.npy#1\n"
    assert "an empty label" in problem(root, half, split="test", modalities=["series"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "neither train.csv nor manifest.csv"),
        ("path,label\nclips/a.mp4,0\n", ["'path'; did you mean video?", "no column id", "no column video"]),
        ("id,label,vidoe,series\na,0,clips/a.mp4,a.csv\n", "'vidoe'; did you mean video?"),
        ("id,label,video,series,weight\na,0,clips/a.mp4,a.csv,1\n", "unknown column: the header's names are id"),
        ("label,video,series\n0,clips/a.mp4,a.csv\n", "no column id: every sample needs a name of its own"),
        ("id,label,video\na,0,clips/a.mp4\n", "no column series, which DATA.MODALITIES asks for"),
        ("id,id,label,video,series\na,a,0,clips/a.mp4,a.csv\n", "a column twice"),
        ("id,label,video,series\na,0,clips/a.mp4,a.csv\na,0,clips/a.mp4,a.csv\n", "line 3: a (before: line 2)"),
        ("id,label,video,series\n,0,clips/a.mp4,a.csv\n", "an empty id"),
        ("id,label,video,series\na,0,,a.csv\n", "no video, which DATA.MODALITIES asks for:\n      line 2: a"),
        ("id,label,video,series\na,0,clips/x.mp4,a.csv\n", ["a file that is missing", "clips/x.mp4"]),
        ("id,label,video,series\na,0,clips/a.mp4,series.npy#5\n", ["beyond the end", "series.npy#5, of 5 rows"]),
        ("id,label,video,series\na,0,clips/a.mp4,series.npy#-1\n", "a row that is no number"),
        ("id,label,video,series\na,0,clips/a.mp4,series.npy#x\n", "a row that is no number"),
        ("id,label,video,series\na,0,clips/a.mp4,b.npy#0\n", ["cannot be read", "not a .npy file"]),
        ("id,label,video,series\na,0,video.npy,a.csv\n", "an array where a row is needed"),
        ("id,label,video,series\na,0,clips/a.mp4,a.csv\nb,0,video.npy#0,a.csv\n", "of one kind"),
        ("id,label,video,series\na,0,clips/a.mp4\n", "line 2: 3 columns"),
        ('id,label,video,series\na,0,"clips/a.mp4,a.csv\n', "broken quoting"),
        ("id,label,video,series\n\na,0,clips/a.mp4,a.csv\n", "an empty line: remove it:\n      line 2"),
        ("id,label,video,series\na,-1,clips/a.mp4,a.csv\n", "a negative label"),
        ("id,label,video,series\n", "no sample of the train split"),
        ("id,label,video,series,split\na,0,clips/a.mp4,a.csv,validation\n", "did you mean val?"),
        ("id,label,video,series,split\na,0,clips/a.mp4,a.csv,val\n", "a row of another split in train.csv"),
    ],
)  # fmt: skip
def test_what_is_refused(root, text, expected):
    message = problem(root, text)
    for part in [expected] if isinstance(expected, str) else expected:
        assert part in message


def test_all_problems_at_once(root):
    text = "id,label,video,series\na,0,,a.csv\na,0,clips/a.mp4,series.npy#9\nb,,clips/x.mp4,a.csv\n"
    message = problem(root, text)
    for part in ("no video", "used twice", "beyond the end", "an empty label", "missing"):
        assert part in message


def test_an_id_in_two_splits_of_one_file(root):
    message = problem(root, ONE + "a,0,series.npy#4,val\n", name="manifest.csv", modalities=["series"])
    assert "an id in train and in another split: a sample of training is in no other:\n" in message
    assert "line 6: a in val (before: line 2, in train)" in message


def test_two_kinds_of_lists_are_ambiguous(root):
    (root / "manifest.csv").write_text(ONE)
    assert "holds manifest.csv and train.csv" in problem(root, BOTH)


def test_unchecked_files(root):
    text = "id,label,series\na,0,gone.npy#3\nb,1,series.npy#77\n"
    manifest = read(root, text, modalities=["series"], check_files=False)
    assert [one.series for one in manifest.clips] == [f"{root}/gone.npy#3", f"{root}/series.npy#77"]


def test_a_stack_of_100000_rows_is_opened_once(root, monkeypatch):
    from dust.datasets import arrays
    from dust.datasets.multimodal import fusion_manifest as fused_manifest

    opened, sought = [], []
    load, find = arrays.StoredArray, fused_manifest.find_file
    monkeypatch.setattr(arrays, "StoredArray", lambda path: opened.append(path) or load(path))
    monkeypatch.setattr(fused_manifest, "find_file", lambda *args: sought.append(args) or find(*args))
    rows = "".join(f"s{n},{n % 4},series.npy#{n % 5}\n" for n in range(5000))
    assert len(read(root, "id,label,series\n" + rows, modalities=["series"]).clips) == 5000
    assert len(opened) == len(sought) == 1


def test_windows_of_long_series(root):
    lines = "id,label,series,start,end,offset_s\ns1,a,a.csv,1.5,3,\ns2,b,a.csv,3,,12.4\ns3,a,a.csv,,,\n"
    one, two, three = read(root, lines, modalities=("series",)).clips
    assert (one.window.start, one.window.end, one.window.offset_s) == (1.5, 3.0, 0.0)
    assert (two.window.start, two.window.end, two.window.offset_s) == (3.0, None, 12.4)
    assert three.window is None
    assert one.sources[0][1] == "seconds 1.5 to 3" and two.sources[0][1] == "seconds 3 to end"
    for cells, expected in {
        "3,1,": "not behind its start", "x,4,": "a start that is no number", ",,2": "would change nothing",
    }.items():  # fmt: skip
        wrong = f"id,label,series,start,end,offset_s\ns1,a,a.csv,{cells}\n"
        assert expected in problem(root, wrong, modalities=("series",))
    wrong = "id,label,video,series,start,end\ns1,a,video.npy#0,a.csv,1,2\n"
    assert "only files are cut" in problem(root, wrong)


def test_windows_that_overlap_in_two_splits_are_a_leak(root):
    parts = {"train": "s1,a,a.csv,0,5", "val": "s2,a,a.csv,5,8", "test": "s3,a,a.csv,4,6"}
    for split, row in parts.items():
        (root / f"{split}.csv").write_text(f"id,label,series,start,end\n{row}\n")
    lists = {split: samples_of(read(root, split=split, modalities=("series",)).clips) for split in parts}
    assert not find_conflicts({split: lists[split] for split in ("train", "val")})
    (leak,) = find_conflicts({split: lists[split] for split in ("train", "test")})
    assert {sample.id for case in leak.cases for _, sample in case} == {"s1", "s3"}
