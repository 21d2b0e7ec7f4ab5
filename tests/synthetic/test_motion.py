"""The generated clips: their class is in the motion and nowhere else, and the generator never harms other files."""

import math

import numpy as np
import pytest

from dust.cli import gen_data
from dust.datasets.manifest.manifest import read_manifest
from dust.decode.reader import VideoReader
from dust.synthetic import motion as synthetic
from dust.synthetic.motion import directions, generate_motion, moving_texture, texture, write_video
from dust.utils.errors import DataError
from tests.helpers import contents


def rng(seed=0):
    return np.random.RandomState(seed)


@pytest.mark.parametrize("classes", range(2, 9))
def test_directions_differ_and_are_evenly_spaced(classes):
    table = directions(classes)
    angles = [math.degrees(math.atan2(d.shift[1], d.shift[0])) % 360 for d in table]
    for index, angle in enumerate(angles):
        error = (angle - 360 * index / classes + 180) % 360 - 180
        assert abs(error) < 13  # whole pixels allow no better
    assert len({d.name for d in table}) == classes
    speeds = [math.hypot(*d.shift) for d in table]
    assert max(speeds) < 1.5 * min(speeds)


def test_names_of_directions_say_what_they_do():
    assert {d.name: np.sign(d.shift).tolist() for d in directions(4)} == {
        "right": [1, 0],
        "down": [0, 1],
        "left": [-1, 0],
        "up": [0, -1],
    }
    assert [d.name for d in directions(8)][1] == "down_right"
    for classes in (1, 9):
        with pytest.raises(DataError, match="choose 2 to 8"):
            directions(classes)


def test_a_clip_is_its_first_frame_moved():
    frames = moving_texture(rng(), (3, -2), 40, 24)
    assert (frames.shape, frames.dtype) == ((40, 24, 24, 3), np.uint8)
    for time in (1, 7, 39):
        for y, x in [(0, 0), (5, 23), (23, 1)]:
            assert (frames[time, (y - 2 * time) % 24, (x + 3 * time) % 24] == frames[0, y, x]).all()


def test_a_texture_is_the_same_everywhere():
    """Mean and spread by place, over many textures, differ no more than chance allows; also across the seam."""
    many = np.stack([texture(rng(seed), 32)[..., 0] for seed in range(600)]).astype(float)
    centre, spread = many.mean(), many.std()
    assert abs(many.mean(0) - centre).max() < 5 * spread / math.sqrt(600)
    assert abs(many.std(0) / spread - 1).max() < 5 / math.sqrt(2 * 600)
    across = abs(many[:, :, 0] - many[:, :, -1]).mean()
    assert across == pytest.approx(abs(many[:, :, 16] - many[:, :, 15]).mean(), rel=0.1)
    assert spread > 25


def test_files_are_real_videos_with_motion_intact(tmp_path):
    frames = moving_texture(rng(), (3, 0), 32, 96)
    write_video(tmp_path / "a.mp4", frames)
    with VideoReader(tmp_path / "a.mp4") as reader:
        assert (len(reader), reader.fps, reader.height, reader.width) == (32, 30.0, 96, 96)
        decoded = reader.frames(range(32))
        assert not reader.report.damaged
    assert abs(decoded.astype(float) - frames).mean() < 4
    write_video(tmp_path / "b.mp4", frames)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def shift_between(before, after):
    """(right, down) of the peak of the circular cross-correlation of two frames, in pixels."""
    a, b = (np.fft.fft2(frame.mean(-1) - frame.mean()) for frame in (before, after))
    peak = np.unravel_index(np.fft.ifft2(a.conj() * b).real.argmax(), before.shape[:2])
    down, right = ((int(p) + size // 2) % size - size // 2 for p, size in zip(peak, before.shape, strict=False))
    return right, down


def test_folder_splits_and_classes(tmp_path):
    counts = generate_motion(tmp_path / "out", classes=4, clips=10, seed=0)
    assert counts == {"train": 24, "val": 8, "test": 8}
    ids: set[str] = set()
    for split, count in counts.items():
        manifest = read_manifest(root=str(tmp_path / "out"), split=split, num_classes=4)
        assert manifest.class_names == ["down", "left", "right", "up"]
        assert np.bincount([clip.label for clip in manifest.clips]).tolist() == [count // 4] * 4
        assert ids.isdisjoint(clip.id for clip in manifest.clips)
        ids.update(clip.id for clip in manifest.clips)
        shift_of = {d.name: d.shift for d in directions(4)}
        for clip in manifest.clips[:: count // 4]:
            with VideoReader(clip.path) as reader:
                first, second = reader.frames([10, 11])
            assert shift_between(first, second) == shift_of[manifest.class_names[clip.label]]
    assert len(ids) == 40


def test_the_seed_decides(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate_motion(tmp_path / name, classes=2, clips=3, seed=seed, size=32, frames=4)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert all(a[name] != c[name] for name in a if name.endswith(".mp4"))
    assert len({a[name] for name in a if name.endswith(".mp4")}) == 6 + 1, "the tour too"


def small(out, **options):
    return generate_motion(out, **{"classes": 2, "clips": 3, "size": 16, "frames": 2} | options)


def test_force_replaces_its_own_files_only(tmp_path):
    out = tmp_path / "out"
    small(out, clips=4)
    before = contents(out)
    with pytest.raises(DataError, match="not empty"):
        small(out)
    assert contents(out) == before
    (out / "notes.txt").write_text("mine")
    (out / "videos" / "mine.mp4").write_text("mine")
    small(out, force=True)
    after = contents(out)
    assert after["notes.txt"] == after["videos/mine.mp4"] == b"mine"
    assert len([name for name in after if name.endswith(".mp4")]) == 2 * 3 + 1 + 1, "clips, the tour, mine"


def test_a_foreign_file_in_the_way_stops_it_before_anything_is_removed(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "train.csv").write_text("mine")
    for force in (False, True):
        with pytest.raises(DataError, match=r"train\.csv"):
            small(out, force=force)
    assert contents(out) == {"train.csv": b"mine"}
    with pytest.raises(DataError, match="is a file"):
        small(out / "train.csv")


def test_an_interrupted_run_is_taken_up(tmp_path, monkeypatch):
    out = tmp_path / "out"

    def interrupted(work):
        yield work[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(out, progress=interrupted)
    assert not (out / "train.csv").exists()
    assert small(out)["train"] == 2
    (out / synthetic.RECORD).write_text('{"finished": true, "files": ["../../precious"]}')
    with pytest.raises(DataError, match="damaged"):
        small(out, force=True)


@pytest.mark.parametrize("options", [{"classes": 9}, {"clips": 2}, {"size": 17}, {"size": 8}, {"frames": 1}])
def test_numbers_out_of_range_write_nothing(tmp_path, options):
    with pytest.raises(DataError):
        small(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_command_line(tmp_path, capsys):
    arguments = [
        "video",
        "--out",
        str(tmp_path / "o"),
        "--classes",
        "2",
        "--clips",
        "3",
        "--size",
        "16",
        "--frames",
        "2",
    ]
    assert gen_data.main(arguments) == 0
    assert ": 2 train, 2 val, 2 test" in capsys.readouterr().out
    assert gen_data.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert gen_data.main([*arguments, "--force"]) == 0


def test_a_tour_shows_each_direction_after_the_other(tmp_path):
    generate_motion(tmp_path / "out", classes=4, clips=3, size=32, frames=8)
    with VideoReader(tmp_path / "out" / "tour.mp4") as reader:
        frames = reader.frames(range(len(reader)))[..., 0].astype(float)
    assert len(frames) == 4 * 2 * 8
    for number, direction in enumerate(directions(4)):
        part = frames[16 * number : 16 * (number + 1)]
        right, down = direction.shift
        moved = np.abs(np.roll(part[:-1], (down, right), axis=(1, 2)) - part[1:]).mean()
        against = np.abs(np.roll(part[:-1], (-down, -right), axis=(1, 2)) - part[1:]).mean()
        assert moved < 0.2 * against
    assert "tour" not in "".join(path.read_text() for path in (tmp_path / "out").glob("*.csv"))
