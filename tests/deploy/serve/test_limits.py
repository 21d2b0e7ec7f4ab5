"""What is opened for a stranger, and what is not."""

import os

import av
import numpy as np
import pytest
from PIL import Image

from dust.deploy.serve import limits
from dust.deploy.serve.limits import Limits, Refused, check_video, find_under, main_file, sees_video
from dust.utils.errors import DustError, VideoError
from tests.datasets.clip_files import write_clip
from tests.helpers import VIDEOS, needs_videos


def test_limits_are_above_zero():
    assert Limits().max_bytes == 512 << 20
    with pytest.raises(DustError, match="max_mb 0.*timeout inf.*queue -1"):
        Limits(max_mb=0, timeout=float("inf"), queue=-1)


def test_long_large_and_whole_videos(tmp_path, monkeypatch):
    path = str(write_clip(tmp_path / "a.mp4", 50))
    check_video(path, Limits())
    with pytest.raises(VideoError, match="lasts 2 s, and at most 1.2 s"):
        check_video(path, Limits(max_minutes=0.02))
    monkeypatch.setattr(limits, "LARGEST", 100)
    with pytest.raises(VideoError, match="pixels, far too many"):
        check_video(path, Limits())


def test_a_length_that_the_header_does_not_tell(tmp_path):
    path = str(tmp_path / "a.h264")  # packets alone
    with av.open(path, "w", format="h264") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        for value in range(100):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), value, np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with pytest.raises(VideoError, match="lasts 4 s"):
        check_video(path, Limits(max_minutes=1 / 60))


def test_a_folder_of_pictures_has_a_length_too(tmp_path):
    for number in range(60):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{number}.png")
    check_video(str(tmp_path), Limits())
    with pytest.raises(VideoError, match="lasts 2 s"):
        check_video(str(tmp_path), Limits(max_minutes=1 / 60))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.mp4", "ffconcat version 1.0\nfile secret.mp4\n"),
        ("a.ffconcat", "ffconcat version 1.0\nfile secret.mp4\n"),
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n"),
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"),
        ("a.mp4", "no video"),
    ],
)
def test_what_names_other_files_is_not_opened(tmp_path, name, text):
    write_clip(tmp_path / "secret.mp4", 10)
    (tmp_path / name).write_text(text)
    with pytest.raises(VideoError, match="playlist|cannot be opened"):
        check_video(str(tmp_path / name), Limits())


@needs_videos
def test_every_usual_container_is_taken():
    sound = [path for path in VIDEOS.iterdir() if path.suffix in (".mp4", ".mkv", ".mov", ".avi", ".webm")]
    assert len({path.suffix for path in sound}) >= 4
    for path in sound:
        check_video(str(path), Limits())


@pytest.mark.parametrize(
    ("names", "kind", "main"),
    [("a.csv a.mp4", "video+series", "a.mp4"), ("a.mp4 a.CSV", "video+series", "a.mp4"), ("a.csv", "video", "a.csv"),
     ("x_view_1.npz x_view_0.npz", "tracks", "x_view_1.npz"), ("a.npy", "series", "a.npy"),
     ("r_results_pred.csv r.mkv", "recording", "r.mkv")],
)  # fmt: skip
def test_the_file_that_is_named(names, kind, main):
    assert main_file([(name, f"/x/{name}") for name in names.split()], kind) == (main, f"/x/{main}")
    assert sees_video(kind) == any(word in kind for word in ("video", "recording"))


def test_a_folder_is_not_left(tmp_path):
    served, outside = tmp_path / "served", tmp_path / "outside"
    (served / "in").mkdir(parents=True)
    outside.mkdir()
    (served / "in" / "a.mp4").write_text("x")
    (outside / "secret.mp4").write_text("x")
    (outside / "secret.csv").write_text("x")
    (served / "link.mp4").symlink_to(outside / "secret.mp4")
    (served / "folder").symlink_to(outside)
    (served / "good.mp4").symlink_to(served / "in" / "a.mp4")
    root = str(served)
    assert find_under(root, "in/a.mp4") == os.path.realpath(served / "in" / "a.mp4") == find_under(root, "good.mp4")
    for name in ("../outside/secret.mp4", "in/../../outside/secret.mp4", "link.mp4", "folder/secret.mp4", "/etc/passwd",
                 str(outside / "secret.mp4"), "in/../in/a.mp4", "a\0b", "..", "in\\..\\..\\x"):  # fmt: skip
        with pytest.raises(Refused, match="leads out") as refused:
            find_under(root, name)
        assert refused.value.status == 403 and str(outside) not in str(refused.value).replace(name, "")
    for name in ("gone.mp4", "in/gone/x.mp4"):
        with pytest.raises(Refused, match="no such file") as refused:
            find_under(root, name)
        assert refused.value.status == 404
    # what is read beside the file that is named
    (served / "b.mp4").write_text("x")
    (served / "b.csv").symlink_to(outside / "secret.csv")
    (served / "walk_view_0.npz").write_text("x")
    (served / "walk_view_1.npz").symlink_to(outside / "secret.csv")
    (served / "pictures").mkdir()
    (served / "pictures" / "1.png").symlink_to(outside / "secret.mp4")
    for name in ("b.mp4", "walk_view_0.npz", "pictures"):
        with pytest.raises(Refused, match="leads out"):
            find_under(root, name)
    other = tmp_path / "served2"  # a neighbour whose name only begins alike
    other.mkdir()
    (other / "x.mp4").write_text("x")
    (served / "near").symlink_to(other)
    with pytest.raises(Refused, match="leads out"):
        find_under(root, "near/x.mp4")
