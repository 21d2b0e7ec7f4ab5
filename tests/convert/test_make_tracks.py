"""Tracks from videos: where points go is known, lists are checked before anything is tracked, and work is kept."""

import json

import av
import numpy as np
import pytest

from dust.cli import make_tracks as command
from dust.convert.make_tracks import make_tracks, read_jobs
from dust.convert.trackers import Settings, cotracker, lucas_kanade
from dust.datasets.manifest.manifest import SPLITS
from dust.datasets.tracks.files import read_tracks
from dust.datasets.tracks.manifest import read_track_manifest
from dust.utils.errors import DataError
from tests.helpers import VIDEOS, needs_videos

cv2 = pytest.importorskip("cv2")
SIZE = (96, 128)


def texture(seed=0, size=(200, 240)):
    """Smooth noise with corners, uint8 (H, W, 3)."""
    rng = np.random.RandomState(seed)
    noise = cv2.GaussianBlur(rng.uniform(0, 255, size).astype(np.float32), (0, 0), 2.5)
    noise = (noise - noise.min()) / (noise.max() - noise.min()) * 255
    return np.repeat(noise[..., None], 3, axis=2).astype(np.uint8)


def moving(frames=12, dx=2, dy=1, seed=0):
    """Frames of SIZE: the texture moves by (dx, dy) pixels per frame."""
    picture = texture(seed)
    height, width = SIZE
    at = [(60 - dy * t, 60 - dx * t) for t in range(frames)]
    return [picture[y : y + height, x : x + width] for y, x in at]


def write_video(path, frames, fps=25):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "5"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# ---------------------------------------------------------------------------------------------------- Lucas-Kanade


def test_points_follow_a_known_motion():
    xy, visible = lucas_kanade(moving(), None, Settings(points=64))
    assert xy.shape == (12, 64, 2) and visible.shape == (12, 64)
    both = visible[1:] & visible[:-1]
    assert both.sum() > 200
    steps = np.diff(xy, axis=0)[both]
    np.testing.assert_allclose(np.median(steps, axis=0), [2, 1], atol=0.05)
    assert (np.abs(steps - [2, 1]).max(axis=1) < 0.5).mean() > 0.98


def test_an_unseen_point_stays_where_it_was_seen():
    xy, visible = lucas_kanade(moving(), None, Settings(points=64))
    lost = ~visible[1:] & visible[:-1]
    assert lost.any(), "points leave the frame"
    unseen = ~visible[1:]
    np.testing.assert_array_equal(xy[1:][unseen], xy[:-1][unseen])
    leaving = xy[:-1][lost]
    assert ((leaving > np.array(SIZE[::-1]) - 10) | (leaving < 10)).any(axis=1).mean() > 0.8


def test_a_cut_ends_every_point_and_new_ones_begin():
    alive = through = 0
    for seed in range(8):
        _, visible = lucas_kanade(moving(15, seed=seed) + moving(15, seed=seed + 20), None, Settings(points=64))
        alive += visible[14].sum()
        through += (visible[14] & visible[15]).sum()
        assert visible[-1].sum() > 10
        assert (np.diff(visible.astype(int), axis=0) == 1).sum(axis=0).max() <= 1, "a lost point never comes back"
    assert alive > 160 and through < 0.02 * alive


def test_without_the_check_back_points_slide():
    """A flat patch slides over the texture: points under it are lost, not carried along."""
    frames = [frame.copy() for frame in moving(10, 0, 0)]
    for number, frame in enumerate(frames):
        frame[:, 8 * number : 8 * number + 40] = 128
    xy, visible = lucas_kanade(frames, None, Settings(points=64))
    loose, seen = lucas_kanade(frames, None, Settings(points=64, max_error=1e9))

    def drift(xy, visible):
        both = visible[1:] & visible[:-1]
        return (np.linalg.norm(np.diff(xy, axis=0), axis=-1)[both] > 1).mean()

    assert drift(xy, visible) < 0.5 * drift(loose, seen)


def test_masks_say_where_points_begin():
    mask = np.zeros(SIZE, bool)
    mask[:, :50] = True
    xy, visible = lucas_kanade(moving(10, 0, 0), lambda place: mask, Settings(points=64))
    assert visible.any() and xy[visible][:, 0].max() <= 51
    _, visible = lucas_kanade(moving(5), lambda place: np.zeros(SIZE, bool), Settings(points=64))
    assert not visible.any()


# ------------------------------------------------------------------------------------------------ lists and files


def two_cameras(folder, rows=None):
    write_video(folder / "left.mp4", moving(12))
    write_video(folder / "right.mp4", moving(12, -1, 0, seed=3))
    rows = rows or [
        "left.mp4,one,0,slide,s1,train",
        "right.mp4,one,1,slide,s1,train",
        "left.mp4,two,0,still,s2,val",
        "right.mp4,three,1,still,s3,test",
    ]
    (folder / "videos.csv").write_text("\n".join(["video,sample,view,label,sequence,split", *rows]) + "\n")
    return folder / "videos.csv"


def test_several_cameras_by_a_csv(tmp_path):
    source, out = two_cameras(tmp_path), tmp_path / "out"
    made = make_tracks(source, out, Settings(points=32))
    assert (made.written, made.ready, made.left_out) == (4, 0, {})
    manifest = read_track_manifest(root=str(out), split="train", class_names=["slide", "still"], views=[0, 1])
    (clip,) = manifest.clips
    assert sorted(clip.files) == [0, 1] and clip.sequence == "s1"
    tracks = read_tracks(clip.files[1])
    assert tracks.size == SIZE and tracks.fps == 25 and tracks.xy.shape == (12, 32, 2)
    both = tracks.visible[1:] & tracks.visible[:-1]
    np.testing.assert_allclose(np.median(np.diff(tracks.xy, axis=0)[both], axis=0), [-1, 0], atol=0.1)


def test_groups_go_on(tmp_path):
    source, out = two_cameras(tmp_path), tmp_path / "out"
    header, *rows = source.read_text().split()
    people = ("ann", "ann", "bob", "eve")
    lines = [f"{header},group", *(f"{row},{who}" for row, who in zip(rows, people, strict=True))]
    source.write_text("\n".join(lines) + "\n")
    make_tracks(source, out, Settings(points=8))
    read = {split: read_track_manifest(root=str(out), split=split, class_names=["slide", "still"]) for split in SPLITS}
    assert {split: [clip.group for clip in one.clips] for split, one in read.items()} == {
        "train": ["ann"], "val": ["bob"], "test": ["eve"],
    }  # fmt: skip
    source.write_text("\n".join([lines[0], lines[1], lines[2].replace("ann", "bob")]) + "\n")
    with pytest.raises(DataError, match="one: group 'bob', but 'ann'"):
        read_jobs(source)


def test_what_is_there_is_kept(tmp_path):
    source, out = two_cameras(tmp_path), tmp_path / "out"
    settings = Settings(points=16)
    make_tracks(source, out, settings)
    (out / "tracks" / "two_view_0.npz").unlink()
    made = make_tracks(source, out, settings)
    assert (made.written, made.ready) == (1, 3)
    source.write_text(source.read_text().replace("left.mp4,two", "right.mp4,two"))
    assert make_tracks(source, out, settings).written == 1, "another video under the same name"
    with pytest.raises(DataError, match="was made with"):
        make_tracks(source, out, Settings(points=17))
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("")
    with pytest.raises(DataError, match="not empty"):
        make_tracks(source, other, settings)


def test_part_of_a_video_at_another_rate_and_size(tmp_path):
    write_video(tmp_path / "a.mp4", moving(20))
    (tmp_path / "videos.csv").write_text("video,start,end\na.mp4,4,16\n")
    make_tracks(tmp_path / "videos.csv", tmp_path / "out", Settings(points=16, fps=12.5, short_side=48))
    tracks = read_tracks(tmp_path / "out" / "tracks" / "a_view_0.npz")
    assert tracks.xy.shape[0] == 6 and tracks.fps == 12.5 and tracks.size == (48, 64)
    both = tracks.visible[1:] & tracks.visible[:-1]
    np.testing.assert_allclose(np.median(np.diff(tracks.xy, axis=0)[both], axis=0), [2, 1], atol=0.1)
    assert (tmp_path / "out" / "tracks.csv").read_text().splitlines()[1] == "a,0,,tracks/a_view_0.npz,a"


def test_masks_of_every_frame(tmp_path):
    write_video(tmp_path / "a.mp4", moving(12, 0, 0))
    half = np.zeros(SIZE, np.uint8)
    half[:, 64:] = 255
    (tmp_path / "masks").mkdir()
    for number in range(12):
        cv2.imwrite(str(tmp_path / "masks" / f"{number}.png"), half if number < 10 else 255 - half)
    (tmp_path / "videos.csv").write_text("video,mask\na.mp4,masks\n")
    make_tracks(tmp_path / "videos.csv", tmp_path / "out", Settings(points=32))
    tracks = read_tracks(tmp_path / "out" / "tracks" / "a_view_0.npz")
    assert tracks.xy[0][tracks.visible[0]][:, 0].min() > 60
    assert not (tracks.visible[0] & (tracks.xy[0][:, 0] < 60)).any()
    (tmp_path / "masks" / "11.png").unlink()
    with pytest.raises(DataError, match="11 masks, but frame 11"):
        make_tracks(tmp_path / "videos.csv", tmp_path / "out2", Settings(points=32))


def test_everything_wrong_with_a_list_is_said_first(tmp_path):
    rows = [
        "left.mp4,one,0,slide,s1,train",
        "left.mp4,one,0,slide,s1,train",
        "right.mp4,one,1,still,s1,train",
        "gone.mp4,two,0,still,s2,val",
        "left.mp4,three,x,still,s3,val",
        "left.mp4,four,0,still,s1,test",
        "left.mp4,five,0,still,s5,tset",
        "left.mp4,six,0,still",
        ",seven,0,still,s7,val",
    ]
    with pytest.raises(DataError) as error:
        read_jobs(two_cameras(tmp_path, rows))
    said = str(error.value)
    for words in (
        "a sample and view twice:\n      videos.csv line 3: one, view 0 (videos.csv line 2)",
        "a sample whose rows disagree:\n      videos.csv line 4: one: label 'still', but 'slide' in videos.csv line 2",
        "a video that is missing:\n      videos.csv line 5: ",
        "a view that is not a number from 0:\n      videos.csv line 6: 'x'",
        "a sequence in two splits: keep a recording together:\n      videos.csv line 7: s1 in test, and in train",
        "a split that is none of train, val, test:\n      videos.csv line 8: 'tset'",
        "not 6 columns, as the header has:\n      videos.csv line 9: 4",
        "no video:\n      videos.csv line 10",
    ):
        assert words in said, words
    (tmp_path / "videos.csv").write_text("clip,view\na.mp4,0\n")
    with pytest.raises(DataError, match="a column video is needed.*not clip"):
        read_jobs(tmp_path / "videos.csv")
    with pytest.raises(DataError, match="tracker 'x'.*points 1.*short_side 3.*fps -1.*max_error 0"):
        Settings("x", 1, 3, -1, 0).check()


def test_a_broken_video_is_left_out_and_named(tmp_path, capsys):
    (tmp_path / "bad.mp4").write_text("no video")
    rows = ["left.mp4,one,0,slide,s1,train", "bad.mp4,one,1,slide,s1,train"]
    source = str(two_cameras(tmp_path, rows))
    assert command.main([source, "--out", str(tmp_path / "out"), "--points", "16"]) == 1
    said = capsys.readouterr().out
    assert "wrote 1 file of" in said and f"left out: {tmp_path}/bad.mp4: cannot be opened" in said
    assert (tmp_path / "out" / "tracks.csv").read_text().count("\n") == 2
    two_cameras(tmp_path, rows[1:])
    assert command.main([source, "--out", str(tmp_path / "out3"), "--points", "16"]) == 2
    assert "none of the videos could be read" in capsys.readouterr().err


def test_a_folder_of_clips_is_one_camera(tmp_path):
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        lines = ["path,label,group"]
        for number in range(count):
            name = f"{split}_{number}.mp4"
            write_video(tmp_path / "clips" / name, moving(6, seed=number))
            lines.append(f"{name},{('slide', 'still')[number]},home {split}")
        (tmp_path / "clips" / f"{split}.csv").write_text("\n".join(lines) + "\n")
    made = make_tracks(tmp_path / "clips", tmp_path / "out", Settings(points=8))
    assert made.written == 4
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        manifest = read_track_manifest(root=str(tmp_path / "out"), split=split, views=[0])
        assert [clip.group for clip in manifest.clips] == [f"home {split}"] * count
        assert manifest.class_names == ["slide", "still"]


def test_a_folder_of_segments(tmp_path):
    write_video(tmp_path / "clips" / "a.mp4", moving(20))
    for split, times in (("train", "0,0.4"), ("val", "0.4,0.6"), ("test", "0.6,0.8")):
        (tmp_path / "clips" / f"{split}.csv").write_text(f"path,label,start,end\na.mp4,slide,{times}\n")
    make_tracks(tmp_path / "clips", tmp_path / "out", Settings(points=8))
    lengths = []
    for split in SPLITS:
        (one,) = read_track_manifest(root=str(tmp_path / "out"), split=split, views=[0]).clips
        lengths.append(len(read_tracks(one.files[0]).xy))
    assert lengths == [10, 5, 5]


HUB = """
import torch
dependencies = ["torch"]
class Predictor(torch.nn.Module):
    def forward(self, video, grid_size, segm_mask=None):
        assert video.shape == (1, 5, 3, 96, 128) and video.dtype == torch.float32 and video.max() > 1
        count = grid_size ** 2
        tracks = torch.arange(5.0)[None, :, None, None].expand(1, 5, count, 2) + 10
        seen = torch.ones(1, 5, count, dtype=torch.bool)
        if segm_mask is not None:
            assert segm_mask.shape == (1, 1, 96, 128)
            seen[:] = bool(segm_mask.any())
        return tracks, seen
def cotracker3_offline(pretrained=True):
    return Predictor()
"""


def test_cotracker_by_torch_hub(tmp_path, caplog):
    (tmp_path / "hubconf.py").write_text(HUB)
    settings = Settings("cotracker", points=20, hub=str(tmp_path))
    xy, visible = cotracker(moving(5), None, settings)
    assert xy.shape == (5, 20, 2) and visible[:, :16].all() and not visible[:, 16:].any()
    np.testing.assert_array_equal(xy[:, 3, 0], 10 + np.arange(5))
    assert "CC-BY-NC" in caplog.text
    _, visible = cotracker(moving(5), lambda place: np.zeros(SIZE, bool), settings)
    assert not visible.any()
    (tmp_path / "hubconf.py").write_text("import a_module_that_is_not_there\n")
    with pytest.raises(DataError, match="torch.hub cannot load cotracker3_offline"):
        cotracker(moving(5), None, settings)


@needs_videos
def test_real_clips(tmp_path):
    clip = VIDEOS / "k400like" / "mma_demo_g12.mp4"
    (tmp_path / "videos.csv").write_text(f"video,start,end\n{clip},0,30\n{VIDEOS / 'bad' / 'rot90.mp4'},0,10\n")
    make_tracks(tmp_path / "videos.csv", tmp_path / "out", Settings(points=128))
    tracks = read_tracks(tmp_path / "out" / "tracks" / "mma_demo_g12_view_0.npz")
    assert tracks.xy.shape == (30, 128, 2) and tracks.visible.sum(axis=1).min() > 30
    assert json.loads((tmp_path / "out" / "make_tracks.json").read_text())["points"] == 128
