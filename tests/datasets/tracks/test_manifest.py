"""Lists of point tracks: columns, splits, cameras, and all that is wrong in one error."""

import numpy as np
import pytest
import torch

from dust.datasets.tracks.manifest import read_track_manifest
from dust.utils.errors import DataError
from tests.datasets.tracks.test_tracks import SIZE, dataset, make, write


def test_manifest(tmp_path):
    manifest = read_track_manifest(root=str(make(tmp_path)), split="val", views=[0, 1])
    assert manifest.class_names == ["left", "right"]
    assert [(clip.id, clip.label, sorted(clip.files)) for clip in manifest.clips] == [
        ("valleft", 0, [0, 1]),
        ("valright", 1, [0, 1]),
    ]
    assert manifest.clips[0].path == str(tmp_path / "valleft_0.npz")


def test_split_files_instead_of_a_split_column(tmp_path):
    make(tmp_path)
    lines = (tmp_path / "tracks.csv").read_text().split("\n")[1:-1]
    (tmp_path / "tracks.csv").unlink()
    for split in ("train", "val", "test"):
        rows = [line.rpartition(",")[0] for line in lines if line.endswith(split)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["sample,view,label,file,sequence", *rows]))
    assert [clip.id for clip in read_track_manifest(root=str(tmp_path), split="test").clips] == [
        "testleft",
        "testright",
    ]


def test_without_splits_whole_sequences_are_dealt_out(tmp_path):
    rows = [f"s{n}_{k},0,a,s{n}.npz,seq{n}" for n in range(20) for k in range(3)]
    make(tmp_path, rows, header="sample,view,label,file,sequence")
    found = {split: read_track_manifest(root=str(tmp_path), split=split).clips for split in ("train", "val", "test")}
    assert {split: len(clips) for split, clips in found.items()} == {"train": 48, "val": 6, "test": 6}
    sequences = [{clip.sequence for clip in clips} for clips in found.values()]
    assert len(set.union(*sequences)) == 20 == sum(map(len, sequences))


def test_every_problem_of_a_list_is_named_with_its_line(tmp_path):
    make(tmp_path)
    rows = [
        "a,0,left,trainleft_0.npz,seq_a,train",
        "a,0,left,trainleft_1.npz,seq_a,train",
        "b,0,left,trainleft_0.npz,seq_a,test",
        "c,x,left,trainleft_0.npz,seq_c,train",
        "d,0,left,nowhere.npz,seq_d,train",
        "e,0,left,trainleft_0.npz,seq_e,trian",
        "f,0,left,trainleft_0.npz,,train",
        "g,0,left,trainleft_0.npz,seq_g",
        "h,0,left,trainleft_0.npz,seq_h,train",
        "h,1,right,trainleft_0.npz,seq_h,train",
        "i,1,,trainleft_0.npz,seq_i,val",
    ]
    (tmp_path / "tracks.csv").write_text("\n".join(["sample,view,label,file,sequence,split", *rows]))
    with pytest.raises(DataError) as caught:
        read_track_manifest(root=str(tmp_path), split="val", views=[0, 1])
    text = str(caught.value)
    for words in (
        "a view that a sample has twice:\n      tracks.csv line 3: sample a, view 0 (tracks.csv line 2)",
        "a sequence of train in another split",
        "line 4: seq_a in test, and in train (tracks.csv line 2)",
        "not a camera's number (0, 1, ...):\n      tracks.csv line 5: 'x'",
        "a file that is missing:\n      tracks.csv line 6",
        "none of train, val, test:\n      tracks.csv line 7: 'trian'",
        "an empty field:\n      tracks.csv line 8: sequence",
        "not 6 columns, as the header has:\n      tracks.csv line 9",
        "line 11: sample h: label 'right' but 'left' in tracks.csv line 10",
        "no label:\n      tracks.csv line 12",
    ):
        assert words in text


def test_sequences_in_two_split_files_are_refused(tmp_path):
    write(tmp_path / "a.npz")
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text(f"sample,view,label,file,sequence\n{split},0,x,a.npz,same\n")
    with pytest.raises(DataError, match=r"val.csv line 2: same in val, and in train \(train.csv line 2\)"):
        read_track_manifest(root=str(tmp_path), split="train")


def test_a_missing_view_is_allowed_but_not_a_camera_that_nobody_has(tmp_path):
    make(tmp_path)
    text = (tmp_path / "tracks.csv").read_text().replace("valleft,1,left,valleft_1.npz,seq_val,val\n", "")
    (tmp_path / "tracks.csv").write_text(text)
    inputs = dataset(tmp_path, "val")[0]["inputs"]
    assert inputs["view_mask"].tolist() == [[True, False]] * len(inputs["view_mask"])
    assert not inputs["tracks"][:, 1].any() and not inputs["visible"][:, 1].any()
    with pytest.raises(DataError, match=r"no clip has \(there are \[0, 1\]\):\n      \[7\]"):
        dataset(tmp_path, "val", views=[0, 7])
    nothing = dataset(tmp_path, "val", views=[1])[0]["inputs"]  # a clip that camera 1 does not have still counts
    assert nothing["time_mask"].all() and not nothing["view_mask"].any() and not nothing["visible"].any()


def test_views_choose_cameras_and_their_order(tmp_path):
    make(tmp_path)
    both, swapped = dataset(tmp_path, "val")[0], dataset(tmp_path, "val", views=[1, 0])[0]
    assert torch.equal(both["inputs"]["tracks"].flip(1), swapped["inputs"]["tracks"])
    seen = dataset(tmp_path, "val", seen_views=[1])[0]["inputs"]
    assert seen["view_mask"][0].tolist() == [False, True] and not seen["tracks"][:, 0].any()
    assert torch.equal(seen["tracks"][:, 1], both["inputs"]["tracks"][:, 1])


def test_the_published_list(tmp_path):
    """action_labels.csv, classes.json, and one file per frame whose only array has no name."""
    header = (
        "file_list,temporal_segment_start,temporal_segment_end,action_label,sequence_number,view,diff,fps,start frame"
    )
    rows = [f"{header},end frame,frame_diff"]
    for number, label in ((1, "flip"), (2, "mistakes"), (3, "flip")):
        rows.append(f"seq_{number}_view_2.webm,0,1,{label},seq_{number},2,1,24.0,2,7,5")
        for view in (1, 2):
            for frame in range(10):
                path = tmp_path / f"seq_{number}/seq_{number}_view_{view}/left{frame}.npz"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez(path, np.full((1, 1, 3, 2), 10.0 * view + frame, np.float32) + np.arange(3)[:, None])
    (tmp_path / "action_labels.csv").write_text("\n".join(rows))
    (tmp_path / "classes.json").write_text('{"classes": {"no action": 0, "mistakes": 2, "flip": 6}}')
    found = [dataset(tmp_path, split, frame_size=SIZE, coordinates="pixels") for split in ("train", "val", "test")]
    assert found[0].class_names == ["mistakes", "flip"]
    for data in found:
        (clip,) = data.clips
        assert clip.label == (1 if clip.sequence in ("seq_1", "seq_3") else 0) and (clip.start, clip.end) == (2, 7)
        inputs = data[0]["inputs"]
        assert inputs["tracks"].shape == (2, 2, 4, 6, 2)  # frames 2..5 and 3..6
        assert inputs["tracks"][0, 0, :, 0, 0].tolist() == [12, 13, 14, 15]
        assert inputs["tracks"][1, 1, :, 1, 1].tolist() == [24, 25, 26, 27]
        assert inputs["visible"][0, 0, 0].tolist() == [True] * 3 + [False] * 3
