"""Point tracks: lists, files of several kinds, point choice, windows, augmentation, and what is refused."""

import numpy as np
import pytest
import torch

from dust.config import get_cfg
from dust.datasets.sample import BadClip, SampleRequest
from dust.datasets.tracks.files import Tracks, mirrored, read_tracks
from dust.datasets.tracks.manifest import read_track_manifest
from dust.datasets.tracks.tracks import PointTracks, choose_points
from dust.synthetic.tracks import generate_tracks
from dust.utils.errors import ConfigError, DataError

SIZE = (48, 64)  # height, width


def points_of(T=10, P=6, seed=0):
    rng = np.random.RandomState(seed)
    return (rng.uniform(0.02, 0.98, (T, P, 2)) * SIZE[::-1]).astype(np.float32)


def write(path, xy=None, **more):
    xy = points_of() if xy is None else xy
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"tracks": xy, "visibility": np.ones(xy.shape[:2], bool), "size": np.array(SIZE), "fps": np.array(24.0)}
    np.savez(path, **{name: value for name, value in {**arrays, **more}.items() if value is not None})
    return path


def make(folder, rows=None, header="sample,view,label,file,sequence,split", **files):
    """A folder with a clip of each split and class, seen by two cameras."""
    if rows is None:
        rows = [
            f"{split}{label},{view},{label},{split}{label}_{view}.npz,seq_{split},{split}"
            for split in ("train", "val", "test")
            for label in ("left", "right")
            for view in (0, 1)
        ]
    for number, row in enumerate(rows):
        write(folder / row.split(",")[3], points_of(seed=number))
    for name, xy in files.items():
        write(folder / f"{name}.npz", xy)
    (folder / "tracks.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def dataset(folder, split="train", **arguments):
    views = arguments.pop("views", [0, 1])
    manifest = read_track_manifest(root=str(folder), split=split, views=views)
    return PointTracks(manifest=manifest, views=views, **{"num_points": 6, "window": 4, "stride": 3, **arguments})


# ------------------------------------------------------------------------------------------------------- lists


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


# ------------------------------------------------------------------------------------------------------- files


def test_files_of_several_kinds_are_the_same_tracks(tmp_path):
    xy = points_of()
    visible = np.random.RandomState(1).uniform(size=xy.shape[:2]) > 0.5
    write(tmp_path / "own.npz", xy, visibility=visible)
    write(
        tmp_path / "cotracker.npz",
        xy[None],
        tracks=None,
        pred_tracks=xy[None],
        visibility=None,
        pred_visibility=visible[None],
    )
    torch.save({"tracks": torch.tensor(xy[None]), "vis": torch.tensor(visible[None, ..., None])}, tmp_path / "dict.pt")
    torch.save((torch.tensor(xy[None]), torch.tensor(visible[None])), tmp_path / "pair.pt")
    for start in range(0, 10, 4):
        name = tmp_path / "blocks" / f"part_{start}.npz"
        write(name, xy[None, start : start + 4], visibility=None, vis=visible[None, start : start + 4], fps=None)
    for name in ("own.npz", "cotracker.npz", "dict.pt", "pair.pt", "blocks"):
        tracks = read_tracks(tmp_path / name, size=SIZE)
        assert np.array_equal(tracks.xy, xy) and np.array_equal(tracks.visible, visible) and tracks.size == SIZE, name


KINDS = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8]


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_every_kind_are_read_exactly(tmp_path, kind):
    values = torch.arange(1, 41).reshape(5, 4, 2).to(torch.float32).to(kind)
    shown = torch.ones(5, 4).to(kind)
    torch.save({"tracks": values, "visibility": shown, "size": torch.tensor(SIZE)}, tmp_path / "a.pt")
    tracks = read_tracks(tmp_path / "a.pt")
    assert tracks.xy.dtype == np.float32 and np.array_equal(tracks.xy, values.float().numpy()) and tracks.visible.all()


def test_a_tensor_that_learns_is_read_and_one_of_no_numbers_refused(tmp_path):
    xy = torch.tensor(points_of())
    shown = torch.ones(xy.shape[:2], dtype=torch.bool)
    torch.save({"tracks": xy.requires_grad_(), "visibility": shown, "size": torch.tensor(SIZE)}, tmp_path / "a.pt")
    assert np.array_equal(read_tracks(tmp_path / "a.pt").xy, xy.detach().numpy())
    odd = {
        "sparse": xy.detach().to_sparse(),
        "complex": torch.complex(xy.detach(), xy.detach()),
    }
    for name, tensor in odd.items():
        torch.save({"tracks": tensor, "visibility": shown, "size": torch.tensor(SIZE)}, tmp_path / f"{name}.pt")
        with pytest.raises(DataError, match=f"{name}.pt"):
            read_tracks(tmp_path / f"{name}.pt")


def test_visibility_as_a_share_and_confidence(tmp_path):
    share = np.full((10, 6), 0.8, np.float32)
    share[:, 0] = 0.95
    file = write(tmp_path / "a.npz", visibility=share)
    assert read_tracks(file).visible.any(axis=0).tolist() == [True] + [False] * 5
    assert read_tracks(file, threshold=0.6).visible.all()
    write(file, visibility=share, confidence=np.full((10, 6), 0.7, np.float32))
    assert read_tracks(file, threshold=0.6).visible.any(axis=0).tolist() == [True] + [False] * 5


@pytest.mark.parametrize("shape", [(10, 6), (1, 10, 6), (10, 6, 1), (1, 10, 6, 1)])
@pytest.mark.parametrize("of_visibility", [(10, 6), (1, 10, 6), (10, 6, 1)])
def test_a_confidence_counts_whatever_axes_of_one_it_has(tmp_path, shape, of_visibility):
    confidence = np.full((10, 6), 0.95, np.float32)
    confidence[3:, 2] = 0.2
    visibility = np.ones((10, 6), bool)
    visibility[0, 4] = False
    file = tmp_path / "a.npz"
    write(file, visibility=visibility.reshape(of_visibility), confidence=confidence.reshape(shape))
    assert (read_tracks(file, threshold=0.9).visible == (visibility & (confidence > 0.9))).all()


@pytest.mark.parametrize(
    ("confidence", "words"),
    [
        (
            np.ones((6, 10)),
            r"confidence is \(6, 10\), tracks have 10 frames of 6 points; frames and points are swapped",
        ),
        (np.ones(10), r"confidence is \(10,\)"),
        (np.ones((10, 6, 2)), r"confidence is \(10, 6, 2\)"),
        (np.full((10, 6), 90.0), "confidence must be True and False, or shares"),
        (np.full((10, 6), np.nan), "confidence must be True and False, or shares"),
        (np.full((10, 6), "x"), "not an array of real numbers"),
    ],
)
def test_a_confidence_that_cannot_be_used_is_refused(tmp_path, confidence, words):
    with pytest.raises(DataError, match=f"a.npz: {words}"):
        read_tracks(write(tmp_path / "a.npz", confidence=confidence), threshold=0.9)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "float8_e5m2", "int16"])
def test_tensors_of_other_types_and_with_gradients_are_read_exactly(tmp_path, dtype):
    xy = torch.from_numpy(points_of()).round().clamp(max=40).to(getattr(torch, dtype))
    if xy.is_floating_point() and xy.element_size() > 1:
        xy.requires_grad_()
    shares = torch.full((10, 6), 0.75, dtype=torch.bfloat16, requires_grad=True)
    torch.save({"tracks": xy, "visibility": shares, "size": torch.tensor(SIZE)}, tmp_path / "a.pt")
    tracks = read_tracks(tmp_path / "a.pt", threshold=0.5)
    assert torch.equal(torch.from_numpy(tracks.xy), xy.detach().float()) and tracks.visible.all()
    torch.save({"tracks": xy.detach().float().to_sparse(), "visibility": shares}, tmp_path / "b.pt")
    with pytest.raises(
        DataError, match="b.pt: tracks is no array of numbers: a torch.float32 tensor of layout torch.sparse_coo.*dense"
    ):
        read_tracks(tmp_path / "b.pt", threshold=0.5)


def test_repeated_first_points_are_padding_in_the_published_files(tmp_path):
    xy = points_of(T=1, P=7)
    xy[:, 5:] = xy[:, :1]
    np.savez(tmp_path / "a.npz", xy[None])
    assert read_tracks(tmp_path / "a.npz", size=SIZE).visible[0].tolist() == [True] * 5 + [False] * 2


def spoilt(**changes):
    xy = points_of()
    for at, value in changes.items():
        xy[2, 3] = value if at == "point" else xy[2, 3]
    return xy


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"tracks": spoilt(point=np.nan)}, "1 points are NaN or infinite, the first in frame 2, point 3"),
        ({"tracks": points_of()[..., ::-1]}, "x and y seem swapped"),
        ({"size": np.array(SIZE[::-1])}, "height and width"),
        ({"tracks": points_of().transpose(1, 0, 2)}, "frames and points are swapped"),
        ({"tracks": points_of() * 9}, "outside of the frame"),
        ({"tracks": points_of() / 64}, "pixels are needed, not shares"),
        ({"tracks": points_of()[..., :1]}, r"tracks are float32 \(10, 6, 1\)"),
        ({"visibility": np.ones((10, 5), bool)}, r"visibility is \(10, 5\), tracks have 10 frames of 6 points"),
        ({"visibility": np.full((10, 6), 3)}, "shares from 0 to 1"),
        ({"visibility": None}, "no visibility beside tracks"),
        ({"tracks": None, "points": points_of()}, "no tracks in it.*found visibility, size, fps, points"),
        ({"size": None}, "set TRACKS.FRAME_SIZE"),
        ({"fps": np.array(-1.0)}, "fps is -1"),
    ],
    ids=lambda value: None,
)
def test_wrong_files_are_named_with_their_row(tmp_path, arrays, words):
    make(tmp_path)
    write(tmp_path / "trainright_1.npz", **{"xy": points_of(), **arrays})
    with pytest.raises(DataError, match=r"tracks.csv line 5: .*trainright_1.npz: .*" + words):
        dataset(tmp_path)
    data = dataset(tmp_path, check_files=False, training=True)
    assert isinstance(data[SampleRequest(0, 1)], BadClip) and data[SampleRequest(0, 1)].id == "trainright"
    assert not isinstance(data[SampleRequest(0, 0)], BadClip)


def test_all_bad_files_are_named_together(tmp_path):
    make(tmp_path)
    (tmp_path / "trainleft_0.npz").write_bytes(b"not a zip")
    write(tmp_path / "trainright_1.npz", np.full((10, 6, 2), np.nan))
    with pytest.raises(DataError, match=r"(?s)line 2: .*trainleft_0.npz: not a .npz file.*line 5: .*NaN"):
        dataset(tmp_path)


def test_pickled_objects_are_not_opened(tmp_path):
    np.savez(tmp_path / "a.npz", processed_actions=np.array([{}, 1], dtype=object))
    with pytest.raises(DataError, match="Python objects, which are never unpickled"):
        read_tracks(tmp_path / "a.npz")


def test_cameras_that_do_not_fit_together(tmp_path):
    make(tmp_path)
    write(tmp_path / "trainleft_1.npz", points_of(P=9))
    with pytest.raises(
        DataError, match=r"line 2, tracks.csv line 3: sample trainleft.*points \(view 0: 6, view 1: 9\)"
    ):
        dataset(tmp_path)
    inputs = dataset(tmp_path, point_counts="any", num_points=8, training=True)[SampleRequest(0, 0)][0]["inputs"]
    assert inputs["visible"].any(dim=1).sum(dim=1).tolist() == [6, 8]
    write(tmp_path / "trainleft_1.npz", points_of(T=20))
    with pytest.raises(DataError, match=r"frames \(view 0: 10, view 1: 20\)"):
        dataset(tmp_path)
    assert dataset(tmp_path, align="resample")[0]["inputs"]["tracks"].shape[1:4] == (2, 4, 6)
    write(tmp_path / "trainleft_1.npz", points_of(T=20), fps=np.array(48.0))
    assert dataset(tmp_path, fps=24.0)[0]["inputs"]["tracks"].shape[1:4] == (2, 4, 6)


def test_frames_of_a_clip_are_cut_out_of_a_longer_file(tmp_path):
    rows = ["a,0,x,a.npz,s,train,3,8"]
    header = "sample,view,label,file,sequence,split,start,end"
    make(tmp_path, rows, header=header)
    xy = points_of(seed=0)
    inputs = dataset(tmp_path, views=[0], coordinates="pixels", window=5)[0]["inputs"]
    assert torch.equal(inputs["tracks"], torch.tensor(xy[None, None, 3:8]))
    (tmp_path / "tracks.csv").write_text(f"{header}\na,0,x,a.npz,s,train,3,11\n")
    with pytest.raises(DataError, match="line 2: sample a: frames 3 to 11 of files of view 0: 10"):
        dataset(tmp_path, views=[0])


def test_frames_per_second_take_the_nearest_frame(tmp_path):
    rows = ["a,0,x,a.npz,s,train"]
    make(tmp_path, rows)
    arguments = {"views": [0], "coordinates": "pixels", "window": 4}
    xy = torch.tensor(points_of(seed=0))
    assert torch.equal(dataset(tmp_path, fps=8.0, **arguments)[0]["inputs"]["tracks"][0, 0], xy[[0, 3, 6, 9]])
    assert torch.equal(dataset(tmp_path, fps=48.0, **arguments)[0]["inputs"]["tracks"][0, 0], xy[[0, 0, 1, 2]])


# --------------------------------------------------------------------------------------------- points and windows


def test_choice_of_points():
    xy = np.zeros((3, 5, 2), np.float32)
    xy[:, :, 0] = [10, 50, 30, 60, 20]  # where
    xy[:, 2, 1] = [0, 20, 0]
    xy[:, 4, 1] = [0, 9, 9]
    visible = np.ones((3, 5), bool)
    visible[:, 3] = False
    tracks = Tracks(xy, visible, SIZE, 0.0)
    rng = np.random.RandomState(0)
    assert choose_points(tracks, 2, "rightmost", rng).tolist() == [1, 2]
    assert choose_points(tracks, 2, "motion", rng).tolist() == [2, 4]
    assert choose_points(tracks, 9, "motion", rng).tolist() == [0, 1, 2, 3, 4]
    assert 3 not in choose_points(tracks, 4, "random", rng)
    spread = np.array([[1, 1], [2, 2], [40, 1], [1, 40], [41, 2], [40, 40], [3, 3]], np.float32)
    grid = Tracks(np.repeat(spread[None], 2, axis=0), np.ones((2, 7), bool), SIZE, 0.0)
    assert choose_points(grid, 4, "grid", rng).tolist() == [0, 2, 3, 5]


def test_random_points_depend_on_the_draw_and_stay_in_evaluation(tmp_path):
    make(tmp_path)
    data = dataset(tmp_path, training=True, points="random", num_points=3, window=10)
    draws = [data[SampleRequest(epoch, 0)][0]["inputs"]["tracks"] for epoch in (0, 0, 1, 2, 3)]
    assert torch.equal(draws[0], draws[1]) and not all(torch.equal(draws[0], other) for other in draws[2:])
    data = dataset(tmp_path, points="random", num_points=3)
    assert torch.equal(data[0]["inputs"]["tracks"], data[0]["inputs"]["tracks"])


def test_evaluation_windows_cover_the_clip(tmp_path):
    make(tmp_path)
    sample = dataset(tmp_path, "test")[1]
    inputs = sample["inputs"]
    assert sample["id"] == "testright" and sample["label"] == 1
    assert inputs["tracks"].shape == (3, 2, 4, 6, 2)  # windows begin at 0, 3 and 6
    expected = 2 * points_of(seed=10) / np.array(SIZE[::-1], np.float32) - 1
    for window, start in enumerate((0, 3, 6)):
        np.testing.assert_allclose(inputs["tracks"][window, 0], expected[start : start + 4], atol=1e-6)
    assert inputs["time_mask"].all() and inputs["view_mask"].dtype == torch.bool
    assert len(dataset(tmp_path, "test", stride=4)[0]["inputs"]["tracks"]) == 3  # 0, 4 and, to the end, 6


def test_a_short_clip_is_padded_and_says_so(tmp_path):
    make(tmp_path)
    inputs = dataset(tmp_path, window=16, num_points=8)[0]["inputs"]
    assert inputs["tracks"].shape == (1, 2, 16, 8, 2)
    assert inputs["time_mask"][0].tolist() == [True] * 10 + [False] * 6
    assert not inputs["visible"][:, :, 10:].any() and not inputs["visible"][..., 6:].any()
    assert not inputs["tracks"][~inputs["visible"]].any()


def test_points_outside_of_the_frame_are_not_visible(tmp_path):
    make(tmp_path)
    xy = points_of()
    xy[4, 2] = (SIZE[1] + 2, 5)
    write(tmp_path / "trainleft_0.npz", xy)
    visible = dataset(tmp_path, window=10)[0]["inputs"]["visible"][0, 0]
    assert (~visible).nonzero().tolist() == [[4, 2]]


def test_training_windows_are_cut_anywhere_and_repeat(tmp_path):
    make(tmp_path)
    data = dataset(tmp_path, training=True)
    whole = torch.tensor(2 * points_of(seed=0) / np.array(SIZE[::-1], np.float32) - 1)
    starts = set()
    for epoch in range(30):
        (sample,) = data[SampleRequest(epoch, 0)]
        tracks = sample["inputs"]["tracks"][0]
        (start,) = [s for s in range(7) if torch.allclose(tracks, whole[s : s + 4], atol=1e-6)]
        starts.add(start)
    assert starts == set(range(7))
    assert torch.equal(
        data[SampleRequest(3, 0)][0]["inputs"]["tracks"], data[SampleRequest(3, 0)][0]["inputs"]["tracks"]
    )


def test_augmentation(tmp_path):
    make(tmp_path)
    plain = {"training": True, "window": 10}
    before = dataset(tmp_path, **plain)[SampleRequest(0, 0)][0]["inputs"]["tracks"]
    turned = dataset(tmp_path, **plain, rotation=30.0)[SampleRequest(0, 0)][0]["inputs"]["tracks"]
    assert not torch.allclose(turned, before) and torch.allclose(turned.norm(dim=-1), before.norm(dim=-1), atol=1e-5)
    zoomed = dataset(tmp_path, **plain, scale=0.3)[SampleRequest(0, 0)][0]["inputs"]["tracks"] / before
    for camera in zoomed:
        assert torch.allclose(camera, camera.flatten()[0].expand_as(camera), atol=1e-4) and 0.7 < camera.mean() < 1.3
    noise = dataset(tmp_path, **plain, point_noise=0.05)[SampleRequest(0, 0)][0]["inputs"]["tracks"] - before
    assert 0.03 < noise.std() < 0.07
    faster = dataset(tmp_path, training=True, window=4, time_jitter=0.9)
    spans = {tuple(faster[SampleRequest(epoch, 0)][0]["inputs"]["tracks"][0, :, 0, 0].tolist()) for epoch in range(20)}
    assert len(spans) > 7  # more than the seven windows of the plain speed
    masks = [dataset(tmp_path, **plain, view_dropout=0.9)[SampleRequest(e, 0)][0]["inputs"] for e in range(10)]
    assert all(inputs["view_mask"].any() for inputs in masks) and not all(inputs["view_mask"].all() for inputs in masks)
    for inputs in masks:
        assert not inputs["tracks"][~inputs["view_mask"]].any() and not inputs["visible"][~inputs["view_mask"]].any()


def test_the_cache_changes_nothing_and_keeps_to_its_size(tmp_path):
    make(tmp_path)
    kept, read = dataset(tmp_path), dataset(tmp_path, cache_mb=0)
    assert len(kept._cache) == 2 and not read._cache
    assert torch.equal(kept[1]["inputs"]["tracks"], read[1]["inputs"]["tracks"])


def test_impossible_arguments_are_named_together(tmp_path):
    make(tmp_path)
    words = (
        r"window is 0.*scale is 2.*points is 'best'.*need coordinates normalised.*\[9\] are not among.*frame_size is"
    )
    with pytest.raises(ConfigError, match=words):
        dataset(tmp_path, window=0, scale=2, points="best", coordinates="pixels", seen_views=[9], frame_size=[3])


def test_from_config_on_generated_tracks(tmp_path):
    generate_tracks(tmp_path, sequences=4, classes=3, points=12, frames=20, missing=0.2)
    cfg = get_cfg()
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(tmp_path), 3
    cfg.TRACKS.NUM_POINTS, cfg.TRACKS.WINDOW, cfg.TRACKS.STRIDE, cfg.TRACKS.TEST_VIEWS = 10, 12, 4, [0, 2]
    train = PointTracks(**PointTracks.from_config(cfg, "train"))
    assert train.class_counts() == [2, 2, 2]
    (sample,) = train[SampleRequest(0, 5)]
    assert sample["inputs"]["tracks"].shape == (4, 12, 10, 2) and sample["inputs"]["time_mask"].shape == (12,)
    test = PointTracks(**PointTracks.from_config(cfg, "test", train.class_names, views="val"))
    inputs = test[0]["inputs"]
    assert inputs["tracks"].shape == (3, 4, 12, 10, 2) and not inputs["view_mask"][:, [1, 3]].any()
    assert 0.3 < inputs["visible"][inputs["view_mask"]].float().mean() < 1


# -------------------------------------------------------------------------------------------------- names, mirrors

NAMES = np.array(["nose", "left_hand", "right_hand", "tail", "left_foot", "right_foot"])


def test_names_decide_the_pairs_unless_the_file_says_them(tmp_path):
    tracks = read_tracks(write(tmp_path / "a.npz", names=NAMES))
    assert tracks.names == tuple(NAMES) and tracks.pairs.tolist() == [[1, 2], [4, 5]]
    assert read_tracks(write(tmp_path / "b.npz", names=NAMES, pairs=np.array([[0, 3]]))).pairs.tolist() == [[0, 3]]
    assert read_tracks(write(tmp_path / "c.npz")).pairs.shape == (0, 2)
    for wrong, text in (
        (np.array([[0, 6]]), "0 to 5"),
        (np.array([[0, 1], [1, 2]]), "once"),
        (np.zeros(3), "pairs are"),
    ):
        with pytest.raises(DataError, match=text):
            read_tracks(write(tmp_path / "d.npz", pairs=wrong))
    with pytest.raises(DataError, match="5 different ones"):
        read_tracks(write(tmp_path / "e.npz", names=np.array([*NAMES[:5], "nose"])))


def test_mirrored_twice_is_as_before_and_once_left_is_right(tmp_path):
    visible = np.random.RandomState(1).uniform(size=(10, 6)) > 0.3
    tracks = read_tracks(write(tmp_path / "a.npz", names=NAMES, visibility=visible))
    once = mirrored(tracks)
    np.testing.assert_allclose(once.xy[:, 1, 0], SIZE[1] - tracks.xy[:, 2, 0])
    np.testing.assert_array_equal(once.xy[:, 1, 1], tracks.xy[:, 2, 1])
    np.testing.assert_array_equal(once.visible[:, [0, 2, 1, 3, 5, 4]], visible)
    twice = mirrored(once)
    np.testing.assert_allclose(twice.xy, tracks.xy, atol=1e-5)
    np.testing.assert_array_equal(twice.visible, visible)
    assert twice.names == tracks.names


def test_training_mirrors_points_and_classes_and_evaluation_does_not(tmp_path):
    folder = make(tmp_path)
    for file in folder.glob("*.npz"):
        write(file, read_tracks(file).xy, names=NAMES)
    plain, mirror = (dataset(folder, training=True, seed=5, mirror=chance) for chance in (0.0, 1.0))
    order = [0, 2, 1, 3, 5, 4]
    for index, label in enumerate((1, 0)):  # left becomes right
        (before,), (after,) = plain[SampleRequest(0, index)], mirror[SampleRequest(0, index)]
        assert (before["label"], after["label"]) == (1 - label, label)
        expected = before["inputs"]["tracks"][:, :, order] * torch.tensor([-1.0, 1.0])
        torch.testing.assert_close(after["inputs"]["tracks"], expected, atol=1e-5, rtol=0)
    half = dataset(folder, training=True, mirror=0.5)
    labels = [half[SampleRequest(epoch, 0)][0]["label"] for epoch in range(40)]
    assert 8 < sum(labels) < 32
    still, moved = dataset(folder, "val"), dataset(folder, "val", mirror=1.0)
    assert torch.equal(still[0]["inputs"]["tracks"], moved[0]["inputs"]["tracks"]) and moved[0]["label"] == 0
    with pytest.raises(ConfigError, match="mirror is 1.5"):
        dataset(folder, mirror=1.5)
