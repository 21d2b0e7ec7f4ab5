"""Files of point tracks of several kinds: the same tracks, exactly, and what is refused."""

import numpy as np
import pytest
import torch

from dust.datasets.sample import BadClip, SampleRequest
from dust.datasets.tracks.files import read_tracks
from dust.utils.errors import DataError
from tests.datasets.tracks.test_tracks import SIZE, dataset, make, points_of, write


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
