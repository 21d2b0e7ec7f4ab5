"""What the columns of a list mean, and which nobody may ignore."""

import pytest

from dust.datasets.manifest.columns import check_columns
from dust.datasets.manifest.corrections import read_corrections
from dust.datasets.manifest.manifest import read_manifest, read_new_clips
from dust.datasets.multimodal.fusion_manifest import read_fused_manifest
from dust.datasets.tracks.manifest import read_track_manifest
from dust.datasets.video.epic_list import read_epic
from dust.utils.errors import DataError, Problems

pytestmark = pytest.mark.usefixtures("long")


def read(tmp_path, text, **options):
    (tmp_path / "train.csv").write_text(text)
    return read_manifest(root=str(tmp_path), split="train", check_files=False, **options)


def test_rows_with_start_and_end_are_segments(tmp_path):
    text = "path;label;Start;END\na.mp4;x;0;2\na.mp4;y;2,50;4\na.mp4;x;4;\na.mp4;y;;\nb.mp4;x;;7\na.mp4;y;0;2\n"
    clips = read(tmp_path, text).clips
    assert [clip.id for clip in clips] == ["a.mp4#0-2", "a.mp4#2.5-4", "a.mp4#4-", "a.mp4", "b.mp4#0-7", "a.mp4#0-2#2"]
    times = [clip.segment and (clip.segment.start, clip.segment.end, clip.segment.unit) for clip in clips]
    assert times == [(0, 2, "seconds"), (2.5, 4, "seconds"), (4, None, "seconds"), None, (0, 7, "seconds"),
                     (0, 2, "seconds")]  # fmt: skip
    assert clips[1].path == str(tmp_path / "a.mp4")
    (one,) = read(tmp_path, "id,path,label,start,end\nrun,a.mp4,x,3,9\n", segment_unit="frames").clips
    assert (one.id, one.segment.part) == ("run", "frames 3 to 9")
    assert [clip.id for clip in read_new_clips(str(tmp_path / "train.csv"))] == ["run"]
    (tmp_path / "new.csv").write_text("video,start,end\na.mp4,1,2\na.mp4,3,4\n")
    assert [clip.id for clip in read_new_clips(str(tmp_path / "new.csv"))] == ["a.mp4#1-2", "a.mp4#3-4"]


@pytest.mark.parametrize(
    ("cells", "unit", "words"),
    [
        ("1,1", "seconds", "not behind its start"),
        ("3,1", "seconds", "not behind its start"),
        ("-1,1", "seconds", "from 0 on"),
        ("0,nan", "seconds", "from 0 on"),
        ("0,inf", "seconds", "from 0 on"),
        ("0:01,0:02", "seconds", "DATA.SEGMENT_UNIT seconds"),
        ("0,1.5", "frames", "whole numbers from 0 on"),
        ("x,4", "frames", "whole numbers from 0 on"),
    ],
)
def test_what_is_no_segment_is_said(tmp_path, cells, unit, words):
    with pytest.raises(DataError, match=words) as caught:
        read(tmp_path, f"path,label,start,end\na.mp4,x,{cells}\na.mp4,x,0,9\n", segment_unit=unit)
    assert "line 2: " in str(caught.value) and "line 3" not in str(caught.value)


REFUSED = (
    *("begin", "stop", "t0", "t1", "time_start", "time_end", "unit", "start_time", "end_time", "start_frame"),
    *("stop_frame", "t_start", "t_end", "start_s", "end_ms", "Start (s)", "onset", "offset", "timestamp", "frame"),
    *("frame_id", "from", "to", "clip_start", "segment", "startTime", "frame start", "time-unit"),
)


@pytest.mark.parametrize("name", REFUSED)
def test_columns_that_change_what_a_row_means_are_refused_by_name(tmp_path, name):
    text = f"path,label,{name}\na.mp4,wave,1\n"
    with pytest.raises(DataError, match="change what a row means") as caught:
        read(tmp_path, text)
    assert f"      {name.lower().replace(' ', '_').replace('-', '_')}" in str(caught.value)
    assert len(read(tmp_path, text, extra_columns=[name]).clips) == 1  # said to be of no meaning


def test_a_length_is_read_or_refused_where_it_says_the_end(tmp_path):
    with pytest.raises(DataError, match="change what a row means.*\n.*duration"):
        read(tmp_path, "path,label,start,duration\na.mp4,x,3,2\n")
    assert len(read(tmp_path, "path,label,start,end,duration\na.mp4,x,3,5,2\n").clips) == 1
    assert len(read(tmp_path, "path,label,duration\na.mp4,x,5\n").clips) == 1


def test_other_columns_are_named_in_one_line_until_they_are_known(caplog):
    caplog.set_level("INFO")
    names = ["path", "label", "fps", "Camera", "fold"]
    check_columns(names, ["path", "label"], "a.csv", Problems())
    assert [record.message for record in caplog.records] == [
        "a.csv: columns that are not read: fps, Camera, fold (DATA.EXTRA_COLUMNS)"
    ]
    caplog.clear()
    check_columns(names, ["path", "label"], "a.csv", Problems(), ["FPS", "camera", "fold"])
    assert not caplog.records


@pytest.mark.parametrize("names", ["path,label,Label", "path,label,path", "path,label,group,group"])
def test_a_column_that_is_read_and_stands_twice_is_refused(tmp_path, names):
    """Nobody can say which is meant; the second one was dropped in silence."""
    with pytest.raises(DataError, match="a column twice"):
        read(tmp_path, f"{names}\n" + ",".join(["a.mp4", *"xyz"][: names.count(",") + 1]) + "\n")
    assert len(read(tmp_path, "path,label,note,note,,\na.mp4,x,1,2,,\n").clips) == 1  # of those, none is read


def test_a_column_twice_is_refused_in_every_kind_of_list(tmp_path):
    path = tmp_path / "train.csv"
    readers = {
        "id,action,label,label\na.mp4,relabel,x,y\n": read_corrections,
        "clip_id,verb,noun,noun\nP1_0,0,1,2\n": lambda path: read_epic(path.parent, "train", num_verbs=2, num_nouns=3),
        "sample,view,label,file,sequence,split,view\na,0,x,a.npz,s,train,1\n": lambda path: read_track_manifest(
            root=str(path), split="train"
        ),
        "id,label,video,label\na,x,a.mp4,y\n": lambda path: read_fused_manifest(
            root=str(path.parent), split="train", modalities=["video"]
        ),
    }
    for text, reader in readers.items():
        path.write_text(text)
        with pytest.raises(DataError, match="a column twice"):
            reader(path)
