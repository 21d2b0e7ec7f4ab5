import logging
import multiprocessing
import pickle
import random
import struct
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from dust.decode import cache as index_cache
from dust.decode import clip as clip_module
from dust.decode import reader as decoder
from dust.decode.reader import FrameFolderReader, FrameRequest, VideoReader, open_clip
from dust.decode.session import DecodeSession
from dust.utils.errors import DustError, VideoError
from tests.datasets.clip_files import (
    damaged,
    decode_all,
    patch_box,
    scratched,
    texture,
    turned,
    write_clip,
    write_sound,
)
from tests.helpers import ROOT, VIDEOS, needs_videos

MUXED_FIRST = {"movflags": "+faststart"}
X264 = {"preset": "fast", "g": "12", "bf": "3", "x264-params": "mbtree=0"}
IRREGULAR = np.cumsum(np.random.RandomState(1).randint(1, 4, 60)).tolist()
KINDS = {
    "bframes.mp4": {"options": X264},
    "pyramid.mp4": {"options": {"g": "30", "bf": "8", "x264-params": "b-pyramid=normal:b-adapt=0"}},
    "open_gop.mp4": {"options": {"g": "15", "bf": "3", "x264-params": "open-gop=1"}},
    "intra_refresh.mp4": {"options": {"g": "15", "x264-params": "intra-refresh=1"}},
    "no_bframes.mp4": {"options": {"g": "20", "bf": "0"}},
    "interlaced.mp4": {"options": {"g": "12", "flags": "+ildct+ilme"}},
    "colour444.mp4": {"options": X264, "pixels": "yuv444p"},
    "odd.mp4": {"options": X264, "size": (56, 88), "pixels": "yuv422p"},
    "fragmented.mp4": {"options": X264, "container": {"movflags": "frag_keyframe+empty_moov"}},
    "irregular.mkv": {"options": X264, "times": IRREGULAR},
    "irregular.mp4": {"options": X264, "times": IRREGULAR},
    "late.mp4": {"options": X264, "times": [100 + i for i in range(60)]},
    "one.mp4": {"options": X264, "count": 1},
    "two.mp4": {"options": X264, "count": 2},
    "sparse.mp4": {"options": X264, "count": 5, "times": [0, 50, 100, 400, 900]},
    "stream.ts": {"options": X264},
    "flash.flv": {"options": X264},
    "avc.avi": {"options": X264},
    "closed.h264": {"options": X264},
    "xvid.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "xvid.mp4": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "program.mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "mpeg2.mkv": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "motion.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "hevc.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=15:bframes=4:pools=none:frame-threads=1:log-level=none"},
    },
    "layered.mkv": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=20:temporal-layers=2:pools=none:frame-threads=1:log-level=none"},
    },
    "altref.webm": {"codec": "libvpx-vp9", "options": {"g": "20", "cpu-used": "8", "auto-alt-ref": "1"}},
    "vp8.webm": {
        "codec": "libvpx",
        "options": {"g": "20", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"},
    },
}
SEEKING = {"bframes.mp4", "pyramid.mp4", "open_gop.mp4", "no_bframes.mp4", "colour444.mp4", "fragmented.mp4"}
SEEKING |= {"irregular.mkv", "irregular.mp4", "late.mp4", "hevc.mp4", "xvid.mp4", "altref.webm"}


@pytest.fixture(autouse=True)
def no_memory():
    """Each test meets its files anew."""
    index_cache._memory.clear()
    index_cache._memory_bytes = 0


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Gives the path of a clip by its name in KINDS, written once."""
    folder = tmp_path_factory.mktemp("clips")

    def get(name):
        path = folder / name
        if not path.exists():
            try:
                write_clip(path, **KINDS[name])
            except (av.codec.codec.UnknownCodecError, ValueError) as error:
                pytest.skip(f"this PyAV cannot write {name}: {error}")
        return path

    return get


def picks(count, seed=0):
    """Single frames far apart, spread sets, random order, repeats, the first and the last."""
    rng = random.Random(seed)
    some = [rng.randrange(count) for _ in range(9)]
    spread = list(range(0, count, max(count // 8, 1)))
    return [[count - 1], [0], some[:1], some[1:2], some[2:] + some[2:4], spread, spread[::-1]]


def assert_exact(reader, truth, sets):
    for numbers in sets:
        found = reader.frames(numbers)
        assert found.dtype == np.uint8 and len(found) == len(numbers)
        for number, frame in zip(numbers, found, strict=True):
            assert np.array_equal(frame, truth[number]), (reader.path, numbers, number)


@pytest.mark.parametrize("name", KINDS)
def test_any_frame_equals_decoding_from_the_start(clips, name):
    truth, error = decode_all(clips(name))
    with VideoReader(clips(name)) as reader:
        assert not error and len(reader) == len(truth) == len(reader.pts)
        assert_exact(reader, truth, [*picks(len(truth)), range(len(truth))])
        assert (np.diff(reader.pts) > 0).all() and reader.pts.dtype == np.float64
        assert (reader.height, reader.width) == truth[0].shape[:2]
        assert not reader.report.damaged and not reader.report.reason
        assert not reader.check().damaged and len(reader) == len(truth)


@pytest.mark.parametrize("name", sorted(SEEKING))
def test_seeks_where_that_is_proven(clips, name, monkeypatch):
    taken = []
    take = DecodeSession._take_packet
    monkeypatch.setattr(DecodeSession, "_take_packet", lambda self: taken.append(1) or take(self))
    with VideoReader(clips(name)) as reader:
        far = int(reader._index.order.size - 3)
        reader.frames([far])
        assert reader._index.mode == "seek"
        assert len(taken) <= 32 < far


def test_times_rates_and_length(clips):
    with VideoReader(clips("irregular.mp4")) as reader:
        assert np.allclose(reader.pts - reader.pts[0], (np.array(IRREGULAR) - IRREGULAR[0]) / 25)
        assert reader.fps == pytest.approx(59 / (reader.pts[-1] - reader.pts[0]), rel=0.05)
    with VideoReader(clips("late.mp4")) as reader:
        assert reader.pts[0] == pytest.approx(4.0)
        assert reader.duration == pytest.approx(60 / 25, abs=0.05) and reader.fps == 25
    with VideoReader(clips("one.mp4")) as reader:
        assert len(reader) == 1 and reader.duration == pytest.approx(1 / reader.fps)


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, -1), (-1, 0, 0, 1), (0, 1, 1, 0)])
def test_the_display_matrix_is_applied(clips, tmp_path, matrix):
    a, b, c, d = matrix
    upright, _ = decode_all(clips("bframes.mp4"))
    with VideoReader(turned(clips("bframes.mp4"), tmp_path / "turned.mp4", *matrix)) as reader:
        found = reader.frames([7, 50])
        height, width = reader.height, reader.width
        scaled = reader.frames([50], box=(8, 8, 32, 40), size=(64, 80))[0]
    for stored, shown in zip((upright[7], upright[50]), found, strict=True):
        # (x, y) goes to (a x + c y, b x + d y), then into the picture's corner: pixel by pixel, the slow way
        expected = np.zeros((height, width, 3), np.uint8)
        y, x = np.mgrid[: stored.shape[0], : stored.shape[1]]
        to_x, to_y = a * x + c * y, b * x + d * y
        expected[to_y - to_y.min(), to_x - to_x.min()] = stored
        assert np.array_equal(shown, expected)
    whole = np.asarray(Image.fromarray(found[1][8:40, 8:48]).resize((80, 64), Image.Resampling.BILINEAR))
    assert np.abs(whole.astype(int) - scaled).mean() < 8


def test_a_display_matrix_of_nearly_a_right_angle(clips, tmp_path):
    upright, _ = decode_all(clips("bframes.mp4"))
    matrix = struct.pack(">5i", 2, 1 << 16, 0, -1 << 16, -300)
    with VideoReader(patch_box(clips("bframes.mp4"), tmp_path / "turned.mp4", b"tkhd", 40, matrix)) as reader:
        assert np.array_equal(reader.frames([7])[0], np.rot90(upright[7], -1))


def test_an_edit_list_shortens_the_clip(clips, tmp_path):
    source = clips("bframes.mp4")
    content = source.read_bytes()
    at = content.index(b"elst") + 4
    start = int.from_bytes(content[at + 12 : at + 16], "big")
    with av.open(str(source)) as container:
        tick = int(container.streams.video[0].duration // 60)
        movie_ticks = int.from_bytes(content[at + 8 : at + 12], "big")
    later = patch_box(source, tmp_path / "later.mp4", b"elst", 12, (start + 10 * tick).to_bytes(4, "big"))
    shorter = patch_box(source, tmp_path / "shorter.mp4", b"elst", 8, (movie_ticks // 2).to_bytes(4, "big"))
    for path in (later, shorter):
        truth, _ = decode_all(path)
        assert len(truth) < 60
        with VideoReader(path) as reader:
            assert len(reader) == len(truth)
            assert_exact(reader, truth, picks(len(truth)))
            assert not reader.check().damaged, reader.report


def test_a_frame_that_a_wrong_time_puts_behind_the_end_is_missed(clips, tmp_path):
    """An edit list hides it, as it hides what it may; the hole that it leaves is damage."""
    entry, late = 8 + 8 * 10, struct.pack(">I", 1 << 24)  # of the table of composition times, its offset behind a count
    path = patch_box(clips("bframes.mp4"), tmp_path / "late.mp4", b"ctts", entry + 4, late)
    assert len(decode_all(path)[0]) < 60
    with VideoReader(path) as reader:
        assert "are missing between the others" in reader.report.reason


# -- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cut", "zeros", "flips", "dropped"])
@pytest.mark.parametrize("name", ["bframes.mp4", "hevc.mp4", "irregular.mkv", "stream.ts", "program.mpg", "xvid.avi"])
def test_damage_is_reported_and_changes_no_frame_in_silence(clips, tmp_path, name, kind):
    if name.endswith(".mp4"):
        source = write_clip(tmp_path / f"first_{name}", **KINDS[name], container=MUXED_FIRST)
    else:
        source = clips(name)
    path = damaged(source, tmp_path / name, kind)
    clean, _ = decode_all(source)
    truth, error = decode_all(path)
    if not truth:
        with pytest.raises(VideoError):
            VideoReader(path)
        return
    with VideoReader(path) as reader:
        report = reader.check()
        assert len(reader) == report.decoded == len(truth)
        for numbers in ([len(truth) - 1], list(range(0, len(truth), 5))):
            assert all(map(np.array_equal, reader.frames(numbers), [truth[number] for number in numbers]))
        same = not error and len(clean) == len(truth) and all(map(np.array_equal, clean, truth))
        unnoticed = name == "program.mpg" and kind == "dropped"  # MPEG-2 has no checks of its own
        assert report.damaged != same or unnoticed
        assert bool(report.reason) == report.damaged


def test_damage_is_found_while_reading(tmp_path):
    source = write_clip(tmp_path / "clip.mp4", 120, options={"g": "30", "bf": "2"}, container=MUXED_FIRST)
    path = scratched(source, tmp_path / "scratched.mp4")
    clean, _ = decode_all(source)
    truth, _ = decode_all(path)
    with VideoReader(path) as reader:
        assert np.array_equal(reader.frames([3])[0], clean[3])
        assert not reader.report.damaged  # the first key frames are whole
        numbers = list(range(0, min(len(reader), len(truth)), 4))
        assert all(map(np.array_equal, reader.frames(numbers), [truth[i] for i in numbers]))
        assert reader.report.damaged and len(reader) == len(truth)
    assert VideoReader(path).report.damaged  # known from now on
    lost = VideoReader(damaged(source, tmp_path / "cut.mp4", "cut"))
    assert lost.report.damaged and lost.report.declared == 120 > lost.report.decoded == len(lost)


def test_a_frame_behind_damage_is_an_error(tmp_path):
    source = write_clip(tmp_path / "clip.mp4", 60, options=X264, container=MUXED_FIRST)
    path = damaged(source, tmp_path / "zeros.mp4", "zeros")
    with VideoReader(path) as reader, pytest.raises((IndexError, VideoError)):
        reader.frames([59])


def unreadable(folder):
    yield "empty.mp4", b"", "empty"
    yield "text.mp4", b"this is no video\n" * 20, "cannot be opened"
    yield "random.mp4", random.Random(0).randbytes(5000), "cannot be opened"
    clip = write_clip(folder / "whole.mp4", options=X264).read_bytes()
    yield "no_moov.mp4", clip[: clip.index(b"moov") - 4], "cannot be opened"
    yield "head.mp4", clip[:900], "cannot be opened"
    yield "sound.mp4", write_sound(folder / "only_sound.mp4").read_bytes(), "no video stream"


def test_what_cannot_be_read_is_a_video_error(tmp_path):
    for name, content, words in unreadable(tmp_path):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(VideoError, match=words) as caught:
            VideoReader(path)
        assert caught.value.path == str(path) and caught.value.reason in str(caught.value)
    with pytest.raises(VideoError, match="cannot be opened"):
        VideoReader(tmp_path / "missing.mp4")


@pytest.mark.parametrize("name", ["12:30:05.mp4", "concat:a.mp4", "http:b.mp4", "C:c.mp4", "-.mp4"])
def test_a_name_is_never_taken_for_an_address(clips, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(clips("two.mp4").read_bytes())
    with open_clip(name) as reader:
        assert len(reader) == 2 and len(reader.frames([0, 1])) == 2
    with pytest.raises(VideoError, match="cannot be opened"):
        open_clip("http://127.0.0.1:9/clip.mp4")


def test_numbers_outside_are_an_index_error(clips):
    with VideoReader(clips("bframes.mp4")) as reader:
        for number in (-1, 60, 10**6):
            with pytest.raises(IndexError, match="frames 0 to 59"):
                reader.frames([0, number])
        assert reader.frames([]).shape == (0, 64, 96, 3)
    with pytest.raises(DustError, match="swscale, torch"):
        VideoReader(clips("bframes.mp4"), resize="nearest")


# -- requests ----------------------------------------------------------------------------------------------------


def test_many_requests_come_out_of_one_decode(clips, monkeypatch):
    requests = [
        FrameRequest([0, 8, 16]),
        FrameRequest([16, 3, 3], box=(4, 8, 40, 48)),
        FrameRequest(np.array([30, 31]), size=(128, 192), crops=((0, 0, 112, 112), (8, 40, 112, 112))),
    ]
    assert pickle.loads(pickle.dumps(requests[1])) == requests[1]
    runs = []
    read = DecodeSession.read
    monkeypatch.setattr(DecodeSession, "read", lambda self, *args: runs.append(args[0]) or read(self, *args))
    with VideoReader(clips("bframes.mp4")) as reader:
        together = reader.read(requests)
        assert runs == [[0, 3, 8, 16, 30, 31]]
        assert [one.shape for one in together] == [(3, 64, 96, 3), (3, 40, 48, 3), (2, 2, 112, 112, 3)]
        alone = [reader.frames(one.indices, one.box, one.size, one.crops) for one in requests]
    assert all(map(np.array_equal, together, alone))


def _child(reader, queue):
    queue.put(reader.frames([40, 2]))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_reader_survives_a_fork(clips):
    reader = VideoReader(clips("bframes.mp4"))
    expected = reader.frames([40, 2])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(reader, queue))
    child.start()
    assert np.array_equal(queue.get(timeout=30), expected)
    child.join()
    assert np.array_equal(reader.frames([40, 2]), expected)


# -- folders of pictures -----------------------------------------------------------------------------------------


def test_a_folder_of_pictures_is_a_clip_too(tmp_path, clips):
    pictures = texture(12)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"img_{number}.PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    reader = open_clip(tmp_path, fps=10.0, threads=1, index_cache=None)
    assert isinstance(reader, FrameFolderReader) and isinstance(open_clip(clips("one.mp4"), fps=5.0), VideoReader)
    assert len(reader) == 12 and (reader.height, reader.width) == (64, 96)
    assert np.array_equal(reader.frames([11, 2, 10, 2]), pictures[[11, 2, 10, 2]])
    assert np.allclose(reader.pts, np.arange(12) / 10) and reader.duration == pytest.approx(1.2)
    views = reader.frames([1], size=(128, 192), crops=((0, 0, 64, 64), (9, 9, 64, 64)))
    assert views.shape == (2, 1, 64, 64, 3)
    with pytest.raises(IndexError):
        reader.frames([12])
    assert not reader.check().damaged
    (tmp_path / "img_5.PNG").write_bytes(b"broken")
    assert np.array_equal(reader.frames([4])[0], pictures[4])
    with pytest.raises(VideoError, match=r"img_5\.PNG"):
        reader.frames([5])
    assert reader.report.damaged and "img_5.PNG" in reader.report.reason and reader.check().decoded == 11


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(VideoError, match="holds no picture"):
        open_clip(tmp_path)
    Image.fromarray(texture(1)[0]).save(tmp_path / "a.bmp")
    assert len(open_clip(tmp_path, pattern="*.bmp|png")) == 1
    with pytest.raises(VideoError, match="cannot be opened"):
        FrameFolderReader(tmp_path / "missing")


# -- real clips --------------------------------------------------------------------------------------------------

BROKEN = {"bitflips.mp4", "decord_corrupted.mp4", "trunc.avi", "trunc.webm", "trunc_faststart.mp4", "zero_hole.mp4"}
UNREADABLE = {"audio_only.mp4", "no_moov.mp4", "random.mp4", "text.mp4", "trunc_header.mp4", "trunc_moov_end.mp4"}
UNREADABLE.add("zero.mp4")
REAL = [path for path in sorted(VIDEOS.glob("**/*")) if path.suffix[1:] in {"mp4", "avi", "webm", "mkv", "mov"}]
REAL += [path for path in sorted(VIDEOS.glob("**/*")) if path.suffix[1:] in {"ts", "mpg", "flv"}]
LARGE = 500_000  # bytes


def _cases(paths):
    for path in paths:
        marks = [pytest.mark.slow] if path.stat().st_size > LARGE and path.name not in {"ts.ts", "mma_demo.mp4"} else []
        yield pytest.param(path, id=path.name, marks=marks)


@needs_videos
@pytest.mark.parametrize("path", _cases(path for path in REAL if path.name not in UNREADABLE))
def test_real_clips_are_read_exactly(path):
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        small = stream.width * stream.height * max(stream.frames, 100) < 3e6
    with VideoReader(path) as reader:
        known = len(reader)
        sets = [list(one) for one in picks(known, seed=known)]
        truth, error = decode_all(path, None if small else {number for one in sets for number in one})
        if path.name in BROKEN:
            reader.check()
            assert reader.report.damaged and reader.report.reason
            sets = [[number for number in one if number < len(truth)] for one in sets]
        else:
            assert not error and not reader.report.damaged, reader.report
        assert len(reader) == len(truth)
        if path.name == "res_change.ts":  # a set holds frames of one size
            sets = [[number] for one in sets for number in one[:2]]
        assert_exact(reader, truth, [*sets, range(len(truth))] if small else sets)
        assert reader.report.damaged == (path.name in BROKEN)


@needs_videos
@pytest.mark.parametrize("name", sorted(UNREADABLE))
def test_real_unreadable_files(name):
    with pytest.raises(VideoError):
        VideoReader(VIDEOS / "bad" / name)


@needs_videos
def test_a_file_that_changes_its_picture_size():
    with VideoReader(VIDEOS / "bad" / "res_change.ts") as reader:
        mixed = reader.frames([0, 500])
        assert mixed.shape == (2, reader.height, reader.width, 3)
        assert np.array_equal(mixed[0], reader.frames([0])[0])
        assert reader.frames([0, 500], size=(64, 64), crops=((0, 0, 32, 32),)).shape == (1, 2, 32, 32, 3)
        assert reader.frames([500, 0], box=(0, 0, 100, 100), crops=((9, 9, 80, 80),)).shape == (1, 2, 80, 80, 3)


def test_the_public_face():
    assert set(decoder.__all__) >= {"VideoReader", "FrameRequest", "VideoReport", "FrameFolderReader", "open_clip"}


def test_remarks_about_any_number_of_files_take_no_memory(monkeypatch):
    said = []
    monkeypatch.setattr(clip_module, "_said", {})
    monkeypatch.setattr(clip_module.logger, "log", lambda level, text, *words: said.append((level, text % words)))
    for number in range(200):
        clip_module.say_once("odd", f"{number}.mp4", "is odd", most=5)
    assert [level for level, _ in said[:6]] == [logging.WARNING] * 5 + [logging.DEBUG] and len(said) == 200
    assert "not named" in said[4][1] and len(clip_module._said["odd"]) <= 6


def test_training_needs_no_pyav():
    """Whoever trains on arrays, or on a GPU machine without a network, imports all of it without PyAV."""
    code = "import sys; sys.modules['av'] = None; import dust.benchmark.report, dust.datasets, dust.engine.train as _"
    subprocess.run([sys.executable, "-c", code + "; dust.benchmark.report.machine()"], check=True, cwd=ROOT)
