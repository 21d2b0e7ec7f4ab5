"""Whole recordings: files played one behind the other, frames as in the files, labels where clips are."""

import numpy as np

from dust.datasets.sample import BadClip
from dust.datasets.tracks.manifest import read_track_manifest
from dust.datasets.tracks.recordings import TrackRecordings
from tests.datasets.tracks.test_tracks import SIZE, points_of, write


def recordings(folder, rows, header="sample,view,label,file,sequence,split,start,end", **arguments):
    (folder / "tracks.csv").write_text("\n".join([header, *rows]) + "\n")
    manifest = read_track_manifest(root=str(folder), split="test", views=[0, 1])
    return TrackRecordings({"manifest": manifest, "views": [0, 1], "num_points": 6, **arguments})


OTHERS = [
    "a,1,left,other.npz,seq_a,train,0,",
    "a,0,left,other.npz,seq_a,train,0,",
    "b,0,right,other.npz,seq_b,train,0,",
    "c,0,left,other.npz,seq_c,val,0,",
]


def test_clips_of_one_file_and_the_frames_between_them(tmp_path):
    write(tmp_path / "other.npz")
    for view in (0, 1):
        write(tmp_path / f"long_{view}.npz", points_of(20, seed=view))
    rows = [
        *(f"x,{view},left,long_{view}.npz,seq_x,test,2,6" for view in (0, 1)),
        *(f"y,{view},right,long_{view}.npz,seq_x,test,6,15" for view in (0, 1)),
    ]
    found = recordings(tmp_path, [*OTHERS, *rows])
    assert found.names == ["seq_x"] and len(found) == 1
    (part,) = found.parts(0)
    assert part.labels.tolist() == [-1] * 2 + [0] * 4 + [1] * 9 + [-1] * 5
    assert part.tracks.shape == (20, 2, 6, 2) and part.view_mask.tolist() == [True, True]
    pixels = (part.tracks[:, 1].numpy() + 1) / 2 * SIZE[::-1]
    np.testing.assert_allclose(pixels, points_of(20, seed=1), atol=1e-3)


def test_files_of_a_sequence_follow_each_other(tmp_path):
    write(tmp_path / "other.npz")
    write(tmp_path / "one.npz", points_of(5))
    write(tmp_path / "two.npz", points_of(7))
    rows = ["x,0,left,one.npz,seq_x,test,0,", "y,1,right,two.npz,seq_x,test,0,", "z,0,left,other.npz,seq_z,test,0,"]
    found = recordings(tmp_path, [*OTHERS, *rows])
    assert found.names == ["seq_x", "seq_z"]
    first, second = found.parts(0)
    assert (first.labels.tolist(), second.labels.tolist()) == ([0] * 5, [1] * 7)
    assert (first.view_mask.tolist(), second.view_mask.tolist()) == ([True, False], [False, True])


def test_labels_at_another_rate(tmp_path):
    write(tmp_path / "other.npz")
    write(tmp_path / "long.npz", points_of(24))  # 24 frames per second
    rows = ["x,0,left,long.npz,seq_x,test,6,12", "y,0,right,long.npz,seq_x,test,12,24"]
    (part,) = recordings(tmp_path, [*OTHERS, *rows], fps=8.0).parts(0)
    assert part.labels.tolist() == [-1] * 2 + [0] * 2 + [1] * 4


def test_published_files_are_played_whole(tmp_path):
    """Segments are counted in the labelled camera's frames, to which the other one is stretched."""
    lines = ["sequence_number,view,action_label,start frame,end frame"]
    for number in range(3):
        for view, length in ((1, 20), (2, 14)):
            folder = tmp_path / f"seq_{number}" / f"seq_{number}_view_{view}"
            folder.mkdir(parents=True)
            for frame, points in enumerate(points_of(length, seed=view)):
                np.savez(folder / f"left{frame:04d}.npz", points[None, None])
        lines += [f"seq_{number},1,left,2,8", f"seq_{number},1,right,10,20"]
    (tmp_path / "action_labels.csv").write_text("\n".join(lines) + "\n")
    manifest = read_track_manifest(root=str(tmp_path), split="test", views=[0, 1])
    arguments = {"manifest": manifest, "views": [0, 1], "num_points": 6, "align": "resample", "frame_size": SIZE}
    (part,) = TrackRecordings(arguments).parts(0)
    assert part.labels.tolist() == [-1] * 2 + [0] * 6 + [-1] * 2 + [1] * 10
    assert part.tracks.shape == (20, 2, 6, 2) and part.view_mask.all()
    other = points_of(14, seed=2)[np.linspace(0, 13, 20).round().astype(int)]
    np.testing.assert_allclose((part.tracks[:, 1].numpy() + 1) / 2 * SIZE[::-1], other, atol=1e-3)


def test_what_cannot_be_read(tmp_path):
    write(tmp_path / "other.npz")
    (tmp_path / "broken.npz").write_text("")
    found = recordings(tmp_path, [*OTHERS, "x,0,left,broken.npz,seq_x,test,0,"], check_files=False)
    (part,) = found.parts(0)
    assert isinstance(part, BadClip) and "broken.npz" in part.reason
