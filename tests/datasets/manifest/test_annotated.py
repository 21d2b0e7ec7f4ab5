"""Annotation files as data formats: the same samples as those of the lists that ``dust convert-data`` writes."""

import json
import shutil

import pytest

from dust.cli.check import build_options
from dust.config import get_cfg, with_values
from dust.config.validate import find_problems
from dust.convert.annotations import convert_annotations
from dust.convert.check import check_data
from dust.convert.lists import ListOptions
from dust.datasets.build import build_dataset
from dust.datasets.manifest.annotated import AnnotatedFolder
from dust.datasets.manifest.manifest import available_splits, read_manifest
from dust.datasets.manifest.several import read_folders
from dust.datasets.sample import SampleRequest
from dust.engine.data_lists import record_training_list
from dust.utils.errors import DataError
from tests.convert.test_health import clip
from tests.engine.test_data_lists import Listed

ACTIVITYNET = {
    "database": {
        "abc": {"subset": "training", "annotations": [
            {"segment": [0.1, 0.4], "label": "cut"}, {"segment": [1 / 3, 0.7], "label": "stir, slowly"},
            {"segment": [0.1, 0.4], "label": "cut"}]},
        "def": {"subset": "validation", "annotations": [{"segment": ["00:00.25", 0.5], "label": "cut"}]},
        "none": {"subset": "testing", "annotations": []},
    }
}  # fmt: skip
_KINETICS = "label,youtube_id,time_start,time_end,split\n"
KINETICS = {
    "train.csv": "label,youtube_id,time_start,time_end,split\ncut,abc,0,2,train\nstir,ghi,10,20,train\n",
    "val.csv": "label,youtube_id,time_start,time_end,split\nstir,def,1,3,validate\n",
}
_EPIC = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb,noun\n"
EPIC = {
    "EPIC_100_train.csv": f"{_EPIC}P01_0,P01,abc,00:00:00.10,00:00:00.45,cut,red onion\n"
    "P01_1,P01,abc,00:00:00.5,00:00:00.6,stir,pot\n",
    "EPIC_100_validation.csv": f"{_EPIC}P02_0,P02,def,00:00:00.10,00:01:00.25,cut,red onion\n",
}
FILES = {"activitynet": {"anet.json": json.dumps(ACTIVITYNET)}, "kinetics": KINETICS, "epic": EPIC}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data" / "videos").mkdir(parents=True)
    for seed, name in enumerate(("abc", "def", "ghi_000010_000020")):
        clip(tmp_path / "data" / "videos" / f"{name}.mp4", seed)
    return tmp_path / "data"


def annotate(root, form, folder="annotations"):
    (root / folder).mkdir(exist_ok=True)
    for name, text in FILES[form].items():
        (root / folder / name).write_text(text)
    return str(root / folder)


@pytest.mark.parametrize("label", ["", "verb", "noun"])
@pytest.mark.parametrize("form", FILES)
def test_the_same_samples_as_the_converted_lists(root, form, label):
    if label and form != "epic":
        pytest.skip("has one label")
    source = annotate(root, form)
    convert_annotations(form, source, root, videos=str(root), label=label)
    for split in ("train", "val"):
        listed = read_manifest(root=str(root), split=split, format="csv")
        options = {"format": form, "annotations": "annotations", "epic_label": label or "action"}
        found = read_manifest(root=str(root), split=split, **options)
        assert list(found.clips) == list(listed.clips) and found.class_names == listed.class_names
        person = {"train": {"P01"}, "val": {"P02"}}[split] if form == "epic" else {""}
        assert {clip.group for clip in found.clips} == person
    assert available_splits(str(root), form, annotations="annotations") == ["train", "val"]
    assert len({clip.id for clip in read_manifest(root=str(root), split="train", **options).clips}) == (
        3 if form == "activitynet" else 2
    )
    with pytest.raises(DataError, match=r"of the test split \(found train, val\); TEST.SPLIT val measures on val"):
        read_manifest(root=str(root), split="test", **options)


def test_by_configuration_by_check_and_in_two_folders(root, tmp_path):
    annotate(root, "epic", ".")
    values = {
        "DATA.PATH_TO_DATA_DIR": str(root),
        "DATA.FORMAT": "epic",
        "DATA.EPIC_LABEL": "verb",
        "MODEL.NUM_CLASSES": 2,
    }
    cfg = with_values(get_cfg(), values)
    train = build_dataset("VideoDataset", cfg, "train")
    assert train.class_names == ["cut", "stir"] and [one.id for one in train.clips] == [
        "videos/abc.mp4#0.1-0.45", "videos/abc.mp4#0.5-0.6",
    ]  # fmt: skip
    assert train[SampleRequest(0, 1)][0]["label"] == 1
    report = check_data(str(root), ListOptions(**build_options(cfg)))
    assert not report.errors and report.files == 2
    shutil.copytree(root, tmp_path / "more")
    found = read_folders([str(root), str(tmp_path / "more")], "train", format="epic")
    assert len(found.clips) == 4 and found.class_names == ["cut red onion", "stir pot"]


OVERLAPPING = {
    "activitynet": {"a.json": json.dumps({"database": {
        "abc": {"subset": "training", "annotations": [{"segment": [0, 0.5], "label": "cut"}]},
        "abc.mp4": {"subset": "validation", "annotations": [{"segment": [0.4, 0.7], "label": "cut"}]},
    }})},
    "kinetics": {"a.csv": f"{_KINETICS}cut,abc,0,0.5,train\ncut,abc,0.4,0.7,val\n"},
    "epic": {
        "train.csv": f"{_EPIC}1,P01,abc,0,0.5,cut,pot\n",
        "validation.csv": f"{_EPIC}2,P01,abc,0.4,0.7,cut,pot\n",
    },
    "csv": {
        "train.csv": "path,label,start,end,group\nvideos/abc.mp4,cut,0,0.5,P01\n",
        "val.csv": "path,label,start,end,group\nvideos/abc.mp4,cut,0.4,0.7,P01\n",
    },
}  # fmt: skip


@pytest.mark.parametrize("form", OVERLAPPING)
def test_overlapping_segments_are_an_error_of_check_and_a_warning_of_training(root, form, caplog):
    for name, text in OVERLAPPING[form].items():
        (root / name).write_text(text)
    report = check_data(str(root), ListOptions(format=form))
    of_groups = [("error", "group", "videos/abc.mp4#0-0.5")] if form in ("epic", "csv") else []
    found = [(one.level, one.kind, one.id) for one in report.errors]
    assert found == [("error", "leak", "videos/abc.mp4#0-0.5"), *of_groups]
    train, val = (read_manifest(root=str(root), split=split, format=form) for split in ("train", "val"))
    warnings = record_training_list(root, train.clips, Listed(*val.clips))
    assert "1 clip of train is in another split too" in warnings[0] and warnings[0] in caplog.text


def test_what_is_not_there(root):
    source = annotate(root, "kinetics")
    (root / "videos" / "def.mp4").unlink()
    options = {"root": str(root), "split": "val", "format": "kinetics"}
    with pytest.raises(DataError, match="--skip-missing` leaves such out"):
        read_manifest(**options, annotations="annotations")
    (missing,) = read_manifest(**options, annotations=source, check_files=False).clips
    assert missing.path == str(root / "def.mp4")
    with pytest.raises(DataError, match="no such file or folder"):
        read_manifest(**options, annotations="elsewhere")
    with pytest.raises(DataError, match=r"no file that ends in \.csv"):
        read_manifest(**options, annotations="videos")
    (root / "annotations" / "train.csv").write_text("label,youtube_id,time_start,time_end\ncut,abc,0,2\n")
    with pytest.raises(DataError, match=r"1 of 2 stretches are of no split: .* cut them by `dust split`"):
        read_manifest(**options, annotations="annotations")
    texts = [one.text for one in find_problems(with_values(get_cfg(), {"DATA.ANNOTATIONS": "x.json"}))]
    assert any("DATA.ANNOTATIONS x.json: goes with DATA.FORMAT activitynet" in text for text in texts)


def test_a_point_within_a_name_ends_no_name(root):
    """The video of abc.2 is not abc.mp4."""
    document = {"database": {"abc.2": ACTIVITYNET["database"]["abc"], "def.avi": ACTIVITYNET["database"]["def"]}}
    (root / "a.json").write_text(json.dumps(document))
    keys = {"root": str(root), "format": "activitynet", "source": "a.json", "videos": str(root / "videos")}
    with pytest.raises(DataError, match=r"the video is not there.*\n +abc\.2"):
        AnnotatedFolder(**keys).read("train").problems.raise_if_any("a.json")
    (root / "videos" / "ghi_000010_000020.mp4").rename(root / "videos" / "abc.2.mp4")
    assert {row.written for row in AnnotatedFolder(**keys).read("train").rows} == {"abc.2.mp4"}
    assert [row.written for row in AnnotatedFolder(**keys).read("val").rows] == ["def.mp4"]
