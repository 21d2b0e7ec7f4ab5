"""A list as it is after its corrections."""

from functools import partial

import pytest

from dust.datasets.keystep.data import ProcedureData, text_of_procedure
from dust.datasets.keystep.layouts import read_procedures
from dust.datasets.manifest import read_manifest
from dust.datasets.manifest.corrections import Corrections, read_corrections
from dust.datasets.multimodal.fusion_manifest import read_fused_manifest
from dust.datasets.tracks.manifest import read_track_manifest
from dust.datasets.video.epic_list import read_epic
from dust.utils.errors import DataError, Problems
from tests.datasets.keystep.test_files import industreal, table

pytestmark = pytest.mark.usefixtures("long")


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


def test_an_id_without_a_split_must_be_in_one(lists):
    (lists / "val.csv").write_text("path,label\nonly_val.mp4,x\n")
    assert len(correct(lists, "only_val.mp4,drop,,\nb.mp4,keep,,\n")) == 4
    for split in ("train", "val"):
        with pytest.raises(DataError, match=r"no split has:\n.*line 2: only_vall.mp4; did you mean only_val.mp4"):
            correct(lists, "only_vall.mp4,drop,,\n", split)


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return str(folder)


def fused(folder, one_file):
    if one_file:
        write(folder, manifest="id,label,video,split\na,x,a.mp4,train\nb,y,b.mp4,train\nc,x,c.mp4,val\n")
    else:
        write(folder, train="id,label,video\na,x,a.mp4\nb,y,b.mp4\n", val="id,label,video\nc,x,c.mp4\n")
    return partial(read_fused_manifest, root=str(folder), modalities=["video"], check_files=False)


def tracks(folder):
    head = "sample,view,label,file,sequence\n"
    write(folder, train=head + "a,0,x,a.npz,s\nb,0,y,b.npz,t\n", val=head + "c,0,x,c.npz,u\n")
    return partial(read_track_manifest, root=str(folder), check_files=False)


def epic(folder):
    write(folder, train="clip_id,verb,noun\na,1,2\nb,2,3\n", val="clip_id,verb,noun\nc,1,2\n")
    return partial(read_epic, str(folder), num_verbs=5, num_nouns=5, check_files=False)


def recordings(folder):
    (folder / "procedure.json").write_text(text_of_procedure(ProcedureData([], ["lid"], table(1), {"assy": "0"}, "")))
    write(folder, recordings="id,split,path\na,train,a.mp4\nb,train,b.mp4\nc,val,c.mp4\n")
    return partial(read_procedures, str(folder), frames=False, labels=False)


def published_recordings(folder):
    for split, name in (("train", "a_assy"), ("train", "b_assy"), ("val", "c_assy")):
        industreal(folder, name, split=split)
    return partial(read_procedures, str(folder), frames=False, labels=False)


@pytest.mark.parametrize(
    "kind",
    [partial(fused, one_file=False), partial(fused, one_file=True), tracks, epic, recordings, published_recordings],
)
def test_every_kind_of_list_says_an_id_that_no_split_has(tmp_path, kind):
    read, path = kind(tmp_path), tmp_path / "fix.csv"
    name = "c_assy" if kind is published_recordings else "c"
    path.write_text(f"id,action\n{name},drop\n")
    data = read(split="train", corrections=path)
    assert len(data.recordings if isinstance(data, ProcedureData) else data.clips) == 2
    path.write_text("id,action\ncc,drop\n")
    with pytest.raises(DataError, match="an id that no split has:") as caught:
        read(split="train", corrections=path)
    assert str(caught.value).count("line 2: cc") == 1


def test_near_names_are_given_up_among_very_many(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("id,action\nname7,drop\nnamee,drop\n")
    problems = Problems()
    chosen = Corrections(path).choose((f"name{n}" for n in range(30)), "train", problems, others=lambda: ())
    assert chosen == ([7], {}) and "did you mean name" in str(problems.kinds)
    problems = Problems()
    Corrections(path).choose((f"name{n}" for n in range(30_000)), "train", problems, others=lambda: ())
    assert len(problems.kinds) == 1 and "did you mean" not in str(problems.kinds)


def test_a_label_that_no_action_gives_is_said(lists, caplog):
    """Somebody wrote the right label, and left the action as it was proposed."""
    assert correct(lists, "b.mp4,keep,x,\nc.mp4,keep,,\n")[2] == ("b.mp4", "y")
    assert "1 label is not read, for only relabel gives one (line 2: keep, x)" in caplog.text
