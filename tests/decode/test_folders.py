"""One scanner of folders: what is a clip, what is a frame, and what is left out with its reason."""

import os

import numpy as np
import pytest
from PIL import Image

from dust.decode.folders import count_numbered, picture_kinds, scan_clips, scan_pictures
from dust.decode.reader import FrameFolderReader
from dust.utils.errors import Problems, VideoError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(path)


def relative(root, paths):
    return [os.path.relpath(path, root) for path in paths]


def test_what_is_a_clip_and_what_is_left_out(tmp_path):
    touch(
        tmp_path, *(f"{name}" for name in ("b.ASF", "a.mxf", "c.f4v", "d.m2v", "e.dv", "notes.txt", "noise", "f.xyz"))
    )
    touch(tmp_path, "._a.mp4", ".cache/x.mp4", "@eaDir/a.mxf/thumb.jpg", "__MACOSX/a.mp4", "deep/er/g.mp4", "cover.jpg")
    touch(
        tmp_path,
        "take1/0001.jpg",
        "take1/0002.jpg",
        "take2/img/1.png",
        "take2/flow_x/1.png",
        "small/a.jpg",
        "small/b.jpg",
    )
    os.symlink(tmp_path / "gone.mp4", tmp_path / "z.mp4")
    os.symlink("self", tmp_path / "self")
    os.symlink(tmp_path, tmp_path / "deep" / "loop")
    os.symlink(tmp_path / "take1", tmp_path / "linked")
    os.mkfifo(tmp_path / "pipe.mp4")
    scan = scan_clips(tmp_path)
    assert relative(tmp_path, scan.found) == [
        *("a.mxf", "b.ASF", "c.f4v", "d.m2v", "e.dv", "deep/er/g.mp4", "linked", "take1", "take2/img"),
    ]
    left = {reason: sorted(relative(tmp_path, paths)) for reason, paths in scan.left_out.items()}
    assert left == {
        "hidden, or the system's": ["._a.mp4", ".cache", "@eaDir", "__MACOSX"],
        ".txt, which is not read as video": ["notes.txt"],
        ".xyz, which is not read as video": ["f.xyz"],
        "a file without a suffix": ["noise"],
        "not a plain file": ["pipe.mp4"],
        "a link that leads nowhere": ["self", "z.mp4"],
        "a link back to a folder that it lies in": ["deep/loop"],
        "a picture that is not in a folder of frames": ["cover.jpg"],
        "a picture of something else (flow, depth, masks, previews of the videos beside it)": [
            *("small/a.jpg", "small/b.jpg", "take2/flow_x/1.png"),
        ],
    }
    assert "2 x a link that leads nowhere (self, z.mp4)" in scan.summary() and not scan.only_hidden
    assert relative(tmp_path, scan_clips(tmp_path, frames=False).found)[-1] == "deep/er/g.mp4"


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (["1.jpg", "2.jpeg"], {"#.jpg": 2}),
        (["1.jpg", "2.png"], {"#.jpg": 2}),
        (["1.jpg", "1.png"], {"#.jpg": 1, "#.png": 1}),
        (["a.jpg", "b.jpg"], {"*.jpg": 2}),
        (["1.jpg", "cover.jpg"], {"#.jpg": 1, "*.jpg": 1}),
        (["img_1.jpg", "flow_x_1.jpg", "flow_y_1.jpg"], {"img_#.jpg": 1, "flow_x_#.jpg": 1, "flow_y_#.jpg": 1}),
        (["0001.jpg", "0001_mask.png"], {"#.jpg": 1, "#_mask.png": 1}),
        (["cam0_1.jpg", "cam0_2.jpg", "cam1_1.jpg", "cam1_2.jpg"], {"cam0*.jpg": 2, "cam1*.jpg": 2}),
        (["v12_1.jpg", "v12_2.jpg"], {"v#_#.jpg": 2}),
        (["10-05-01.250.jpg", "10-05-02.250.jpg"], {"#-#-#.jpg": 2}),
    ],
)
def test_kinds_of_pictures(names, kinds):
    assert picture_kinds(names) == kinds


def test_frames_of_several_kinds_are_named(tmp_path):
    for number in range(3):
        picture(tmp_path / f"img_{number}.jpg", 10 * number)
        picture(tmp_path / f"flow_x_{number}.jpg", 200)
    with pytest.raises(VideoError, match=r"flow_x_#.jpg \(3\), img_#.jpg \(3\): .*DATA.FRAME_PATTERN"):
        FrameFolderReader(tmp_path)
    reader = FrameFolderReader(tmp_path, "img_*.jpg")
    assert reader.names == ["img_0.jpg", "img_1.jpg", "img_2.jpg"]


def test_hidden_files_are_no_frames_and_decimals_are_in_order(tmp_path):
    for time in ("0.5", "0.25", "1", "10.125", "9.5"):
        picture(tmp_path / f"t{time}.png")
        touch(tmp_path, f"._t{time}.png")
    assert FrameFolderReader(tmp_path).names == ["t0.25.png", "t0.5.png", "t1.png", "t9.5.png", "t10.125.png"]
    assert len(scan_pictures(tmp_path).left_out["hidden, or the system's"]) == 5


def test_a_number_that_no_recording_has_is_a_gap_and_no_long_wait(tmp_path):
    for name in ("0.jpg", "1.jpg", "99999999999999999.jpg", "9" * 100 + ".jpg"):
        (tmp_path / name).touch()
    problems = Problems()
    count_numbered(tmp_path, None, "", problems)
    (gap,) = problems.kinds["a gap in the pictures: every frame must be there"]
    assert "99999999999999997 of 100000000000000000 are missing, the first is number 2" in gap
    assert "9" * 100 in problems.kinds["a picture without a number at the end of its name"][0]


def test_pictures_of_several_sizes_are_said(tmp_path, caplog):
    for number, size in enumerate((16, 16, 24)):
        Image.new("RGB", (16, size)).save(tmp_path / f"{number}.png")
    with FrameFolderReader(tmp_path) as reader:
        assert reader.frames([0, 1]).shape == (2, 16, 16, 3) and not caplog.text
        assert reader.frames([0, 2]).shape == (2, 16, 16, 3)
    assert "of several sizes (16x16, 24x16; height x width)" in caplog.text


@pytest.mark.parametrize("name", ["1.tif", "1.webp", "1.png"])
def test_a_frame_of_several_pictures_is_refused(tmp_path, name):
    """All but its first picture were dropped in silence."""
    first, *others = [Image.new("RGB", (16, 16), (number, 0, 0)) for number in (0, 90, 200)]
    first.save(tmp_path / name, save_all=True, append_images=others)
    with pytest.raises(VideoError, match="holds 3 pictures, and a file is one frame"):
        FrameFolderReader(tmp_path)


def test_a_photograph_with_its_preview_is_one_picture(tmp_path):
    first, *others = [Image.new("RGB", (16, 16), (number, 0, 0)) for number in (0, 90, 200)]
    first.save(tmp_path / "1.jpg", "MPO", save_all=True, append_images=others)
    with Image.open(tmp_path / "1.jpg") as picture:
        if picture.format != "MPO":
            pytest.skip("this Pillow (11.0) writes MPO files that nobody reads")
    assert len(FrameFolderReader(tmp_path)) == 1
