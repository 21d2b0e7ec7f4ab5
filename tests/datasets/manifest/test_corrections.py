"""A list as it is after its corrections."""

import pytest

from dust.datasets.manifest import read_manifest
from dust.datasets.manifest.corrections import read_corrections
from dust.utils.errors import DataError


@pytest.fixture
def lists(tmp_path):
    for split in ("train", "val"):
        rows = "".join(f"{name}.mp4,{label}\n" for name, label in zip("aabc", ("x", "x", "y", "wv"), strict=True))
        (tmp_path / f"{split}.csv").write_text("path,label\n" + rows)
    return tmp_path


def correct(folder, text, split="train"):
    path = folder / "corrections.csv"
    path.write_text("id,action,label,split\n" + text)
    manifest = read_manifest(root=str(folder), split=split, check_files=False, corrections=path)
    return [(clip.id, manifest.class_names[clip.label]) for clip in manifest.clips]


def test_rows_are_dropped_and_relabelled(lists):
    text = "a.mp4#2,drop,,train\nc.mp4,relabel,y,\nb.mp4,keep,,\nc.mp4,drop,,val\n"
    assert correct(lists, text) == [("a.mp4", "x"), ("b.mp4", "y"), ("c.mp4", "y")]
    # the classes of val are train's after its corrections; a row of one split goes before one of all
    assert correct(lists, text, "val") == [("a.mp4", "x"), ("a.mp4#2", "x"), ("b.mp4", "y")]


def test_what_is_wrong_with_corrections(lists):
    with pytest.raises(DataError, match=r"lacks:\n.*line 2: q.mp4"):
        correct(lists, "q.mp4,drop,,train\n")
    with pytest.raises(DataError) as caught:
        correct(lists, "a.mp4,remove,,\nb.mp4,relabel,,\nc.mp4,drop,,dev2\na.mp4,drop,,\n")
    for words in ("'remove'", "relabel without a label", "'dev2'", "corrected in two ways"):
        assert words in str(caught.value)
    path = lists / "none.csv"
    path.write_text("name,what\na,drop\n")
    with pytest.raises(DataError, match="no column id, action"):
        read_corrections(path)
