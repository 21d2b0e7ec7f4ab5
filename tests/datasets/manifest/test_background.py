"""A class that is made of the gaps between the segments of videos."""

import numpy as np
import pytest

from dust.cli import check
from dust.cli.train import build_fold_lists, words_of_fold
from dust.config import get_cfg, with_values
from dust.config.validate import find_problems
from dust.convert.check import check_data
from dust.convert.fixes import write_clean
from dust.convert.lists import ListOptions
from dust.convert.shards import pack
from dust.datasets.manifest.background import Background
from dust.datasets.manifest.manifest import read_manifest
from dust.datasets.manifest.several import read_folders
from dust.datasets.video import VideoDataset
from dust.engine.classes import build_class_names
from dust.synthetic.motion import write_video
from dust.utils.errors import DataError

HEAD = "path,label,start,end,group\n"
ALL = Background("none", ratio=0, min_length=0.5)


@pytest.fixture
def videos(tmp_path):
    """Two videos of 5 s and one of 2 s, at 30 frames per second."""
    for name, frames in (("a", 150), ("b", 150), ("c", 60)):
        pixels = np.random.RandomState(ord(name)).randint(0, 255, (frames, 16, 16, 3), np.uint8)
        write_video(tmp_path / f"{name}.mp4", pixels)
    return tmp_path


def lists(folder, **texts):
    for split, text in texts.items():
        (folder / f"{split}.csv").write_text(HEAD + text)


def gaps(folder, split="train", rule=ALL, name="none", **options):
    """{video: parts} of the clips of a class."""
    found = read_manifest(root=str(folder), split=split, background=rule, **options)
    place, parts = found.class_names.index(name), {}
    for clip in found.clips:
        if clip.label == place:
            parts.setdefault(clip.path[-5:], []).append(clip.segment.part.removeprefix("seconds "))
    return parts


def slow_gaps(busy, length, least):
    """Stretches of a tenth of a second that no segment touches, joined."""
    free = [not any(start < (t + 0.5) / 10 < end for start, end in busy) for t in range(round(length * 10))]
    runs, begun = [], None
    for t, one in enumerate([*free, False]):
        if one and begun is None:
            begun = t
        elif not one and begun is not None:
            runs.append((begun / 10, t / 10))
            begun = None
    return [(a, b) for a, b in runs if b - a >= least]


def test_gaps_are_before_between_and_behind(videos):
    lists(
        videos,
        train="a.mp4,cut,1,2,p1\na.mp4,stir,1.5,2.4,p1\na.mp4,cut,3.2,4.2,p1\nb.mp4,cut,0.2,4.9,p2\nc.mp4,stir,0,,p3\n",
    )
    assert gaps(videos) == {"a.mp4": ["0 to 1", "2.4 to 3.2", "4.2 to end"]}
    slow = slow_gaps([(1, 2), (1.5, 2.4), (3.2, 4.2)], 5.0, 0.5)
    assert slow == [(0.0, 1.0), (2.4, 3.2), (4.2, 5.0)]
    clips = read_manifest(root=str(videos), split="train", background=ALL).clips
    assert [(clip.id, clip.group) for clip in clips[-3:]] == [
        ("a.mp4#0-1", "p1"), ("a.mp4#2.4-3.2", "p1"), ("a.mp4#4.2-", "p1"),
    ]  # fmt: skip
    with pytest.raises(DataError, match="no gap of a training video is DATA.BACKGROUND_MIN_LENGTH long"):
        gaps(videos, rule=Background("none", 0, 1.5))


def test_a_long_gap_makes_clips_as_long_as_the_segments(videos):
    lists(videos, train="a.mp4,cut,0,1,\nb.mp4,cut,2,3,\n")
    assert gaps(videos) == {
        "a.mp4": ["1 to 2", "2 to 3", "3 to 4", "4 to end"],
        "b.mp4": ["0 to 1", "1 to 2", "3 to 4", "4 to end"],
    }
    lists(videos, train="a.mp4,cut,0,30,\nb.mp4,cut,61,90,\n")
    found = gaps(videos, segment_unit="frames")
    assert found["b.mp4"] == ["frames 0 to 30", "frames 30 to 61", "frames 90 to 120", "frames 120 to end"]


def test_the_draw_has_a_seed_and_a_ratio(videos):
    lists(videos, train="a.mp4,cut,0,1,\nb.mp4,cut,2,3,\n")
    draws = [gaps(videos, rule=Background("none", 1.0, 0.5, seed)) for seed in (0, 0, 1, 2, 3, 4)]
    assert draws[0] == draws[1] and any(one != draws[0] for one in draws)
    assert all(sum(map(len, one.values())) == 2 for one in draws)
    # segments of that name count among it, so that lists that were written with it get no more
    lists(videos, train="a.mp4,cut,0,1,\nb.mp4,cut,2,3,\na.mp4,none,1,2,\n")
    assert sum(map(len, gaps(videos, rule=Background("none", 1.0, 0.5)).values())) == 2


def test_every_split_keeps_out_of_the_others(videos):
    lists(
        videos,
        train="a.mp4,cut,0,1,\nc.mp4,stir,0,2,\n",
        val="a.mp4,stir,2,3,\nb.mp4,cut,0,4,\n",
        test="a.mp4,stir,2,3,\nb.mp4,cut,0,4,\n",
    )
    assert gaps(videos) == {"a.mp4": ["1 to 2", "3 to end"]}
    assert gaps(videos, "val") == gaps(videos, "test") == {"b.mp4": ["4 to end"]}
    report = check_data(str(videos), ListOptions(background=ALL))
    assert not [one for one in report.findings if one.kind in ("leak", "bad")]
    assert "none 2" in report.facts[0]
    write_clean(report, videos / "clean")
    assert gaps(videos / "clean") == gaps(videos)
    one = HEAD.replace("group", "split")
    (videos / "one.csv").write_text(one + "a.mp4,cut,0,1,train\na.mp4,stir,2,3,test\nb.mp4,cut,0,4,test\n")
    assert gaps(videos / "one.csv", class_names=["cut", "none", "stir"]) == {"a.mp4": ["1 to 2", "3 to 4", "4 to end"]}
    (videos / "one.csv").write_text(HEAD + "b.mp4,cut,0,4,\n")
    assert gaps(videos / "one.csv", "test") == {"b.mp4": ["4 to end"]}


def test_folds_have_it_once(videos, tmp_path):
    """Their lists name the clips of gaps, so that a run of a fold makes no more of them."""
    lists(videos, train="a.mp4,cut,1,2,\na.mp4,stir,3,4,\nb.mp4,cut,1,2,\nb.mp4,stir,2,3,\n")
    values = {
        "DATA.PATH_TO_DATA_DIR": str(videos),
        "DATA.BACKGROUND": "none",
        "DATA.BACKGROUND_RATIO": 0.5,
        "MODEL.NUM_CLASSES": 3,
    }
    cfg = with_values(get_cfg(), values)
    folders = build_fold_lists(cfg, tmp_path / "folds", 2)
    whole = sum(map(len, gaps(videos, rule=Background("none", 0.5)).values()))
    assert whole == 2
    words = words_of_fold(cfg, folders[0])
    fold = with_values(cfg, dict(zip(words[::2], words[1::2], strict=True)))
    parts = {split: VideoDataset.from_config(fold, split)["manifest"] for split in ("train", "test")}
    labels = [one.class_names[clip.label] for one in parts.values() for clip in one.clips]
    assert labels.count("none") == whole and len(labels) == 6


def test_classes(videos):
    lists(videos, train="a.mp4,1,0,1,\nb.mp4,0,0,5,\n")
    with pytest.raises(DataError, match="the classes of this list are numbers; write the number of one"):
        gaps(videos)
    assert list(gaps(videos, rule=Background("2", 0, 0.5), name="2")) == ["a.mp4"]
    (videos / "classes.txt").write_text("stir\ncut\n")
    found = read_manifest(root=str(videos), split="train", background=ALL)
    assert found.class_names == ["stir", "cut", "none"] and found.clips[-1].label == 2
    (videos / "classes.txt").unlink()
    lists(videos, train="a.mp4,cut,0,1,\n", test="a.mp4,cut,4,5,\n")
    cfg = with_values(get_cfg(), {"DATA.PATH_TO_DATA_DIR": str(videos), "DATA.BACKGROUND": "none"})
    assert list(build_class_names(cfg, "train", "VideoDataset")) == ["cut", "none"]
    assert read_folders([str(videos)], "test", background=ALL).class_names == ["cut", "none"]
    lists(videos, train="a.mp4,cut,,,\n")
    with pytest.raises(DataError, match="no row has start and end"):
        gaps(videos)


def test_a_video_that_cannot_be_read_has_no_end(videos, caplog):
    (videos / "a.mp4").write_bytes(b"nothing")
    lists(videos, train="a.mp4,cut,1,2,\nb.mp4,cut,0,4,\n")
    assert gaps(videos) == {"a.mp4": ["0 to 1"], "b.mp4": ["4 to end"]}
    assert "what lies behind its last segment makes no background" in caplog.text


def test_only_lists_of_videos_have_gaps(videos, tmp_path):
    values = {"DATA.BACKGROUND": "none", "TRAIN.DATASET": "PointTracks", "TEST.DATASET": "VideoDataset"}
    texts = [one.text for one in find_problems(with_values(get_cfg(), values))]
    assert any("DATA.BACKGROUND none: PointTracks does not read it" in text for text in texts)
    assert check.build_options(with_values(get_cfg(), {"DATA.BACKGROUND": "none"}))["background"].min_length == 1


def test_a_segment_behind_the_end_makes_no_longer_video(videos):
    lists(videos, train="a.mp4,cut,1,2,p\na.mp4,cut,20,21,p\n")
    assert gaps(videos, rule=Background("none", ratio=0, min_length=1.0))["a.mp4"] == [
        "0 to 1",
        "2 to 3",
        "3 to 4",
        "4 to end",
    ]


@pytest.mark.parametrize("own", [False, True], ids=["ids of paths", "ids of the list"])
def test_gaps_in_shards_are_called_as_those_of_the_files(videos, tmp_path, own):
    lists(videos, train="a.mp4,cut,1,2,p\na.mp4,cut,3,4,p\nb.mp4,cut,0,2,\n")
    if own:
        head, *rows = (videos / "train.csv").read_text().splitlines()
        rows = [f"no. {number},{row}" for number, row in enumerate(rows)]
        (videos / "train.csv").write_text("\n".join([f"id,{head}", *rows, ""]))
    pack(videos, tmp_path / "packed")
    ids = [
        [clip.id for clip in read_manifest(root=str(root), split="train", background=ALL).clips]
        for root in (videos, tmp_path / "packed")
    ]
    assert ids[0] == ids[1] and len(set(ids[0])) == len(ids[0]) > 5
    assert all(one.startswith("no. ") for one in ids[0]) is own
