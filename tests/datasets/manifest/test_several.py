"""Several data folders as one: classes by name, ids that differ, splits that some lack, a run on them."""

import json
from pathlib import Path

import pytest
import torch

from dust.cli.main import main as dust_main
from dust.config import get_cfg, load_config, with_values
from dust.config.validate import find_problems
from dust.config.values import Folders, read_value
from dust.datasets import DATASET_REGISTRY, construct_loader
from dust.datasets.manifest.several import distinct_ends, read_folders
from dust.datasets.sample import AGAIN, SampleRequest
from dust.datasets.samplers import EpochBatchSampler
from dust.datasets.video import VideoDataset
from dust.engine.run_net import main
from dust.utils.errors import ConfigError, DataError
from tests.datasets.clip_files import write_clip
from tests.helpers import csv_dicts
from tests.runs import TINY

pytestmark = pytest.mark.usefixtures("long")


def make(folder, rows):
    """A data folder with empty files; rows ``{split: {name: label}}``."""
    folder.mkdir(parents=True)
    for split, clips in rows.items():
        (folder / f"{split}.csv").write_text("".join(f"{name}.mp4,{label}\n" for name, label in clips.items()))
        for name in clips:
            (folder / f"{name}.mp4").touch()
    return str(folder)


@pytest.fixture
def folders(tmp_path):
    first = make(tmp_path / "one" / "kitchen", {"train": {"a": "stir", "b": "cut"}, "test": {"t": "cut"}})
    second = make(tmp_path / "two" / "kitchen", {"train": {"a": "pour", "c": "cut"}})
    return [first, second]


def test_classes_are_merged_by_name_and_ids_differ(folders):
    found = read_folders(folders, "train")
    assert found.class_names == ["cut", "stir", "pour"]
    assert [(clip.id, found.class_names[clip.label], clip.part) for clip in found.clips] == [
        ("one/kitchen/a.mp4", "stir", 0), ("one/kitchen/b.mp4", "cut", 0),
        ("two/kitchen/a.mp4", "pour", 1), ("two/kitchen/c.mp4", "cut", 1),
    ]  # fmt: skip
    assert [clip.path for clip in found.clips] == [
        f"{folder}/{name}.mp4" for folder, names in zip(folders, ("ab", "ac"), strict=True) for name in names
    ]


def test_a_split_that_one_folder_lacks_is_that_of_the_others_with_all_classes(folders, caplog):
    found = read_folders(folders, "test")
    assert [clip.id for clip in found.clips] == ["one/kitchen/t.mp4"] and found.class_names == ["cut", "stir", "pour"]
    assert f"no test split in {folders[1]}" in caplog.text
    with pytest.raises(DataError, match="has a val split"):
        read_folders(folders, "val")


def test_the_classes_of_a_checkpoint_decide(folders):
    found = read_folders(folders, "train", class_names=["pour", "stir", "cut"])
    assert [clip.label for clip in found.clips] == [1, 2, 0, 2]
    with pytest.raises(DataError, match="none of the 2 classes"):
        read_folders(folders, "train", class_names=["stir", "cut"])
    with pytest.raises(DataError, match="3 classes, but MODEL.NUM_CLASSES is 7"):
        read_folders(folders, "train", num_classes=7)


def test_numbers_are_no_names(tmp_path):
    pair = [make(tmp_path / name, {"train": {"a": 0, "b": 1}}) for name in ("x", "y")]
    with pytest.raises(DataError, match=r"labels of .*x, .*y are numbers"):
        read_folders(pair, "train")
    for name, classes in (("x", "cut\nstir\n"), ("y", "stir\npour\n")):
        (tmp_path / name / "classes.txt").write_text(classes)
    found = read_folders(pair, "train")
    assert found.class_names == ["cut", "stir", "pour"] and [clip.label for clip in found.clips] == [0, 1, 1, 2]
    given = read_folders(pair, "train", class_names=["pour", "stir", "cut"])
    assert [clip.label for clip in given.clips] == [2, 1, 1, 0]


def test_a_list_of_classes_says_what_numbers_mean(tmp_path):
    pair = [
        make(tmp_path / "x", {"train": {"a": 0, "b": 1}}),
        make(tmp_path / "y", {"train": {"a": "stir", "b": "cut"}}),
    ]
    found = read_folders(pair, "train", class_names=["cut", "stir"])
    assert [clip.label for clip in found.clips] == [0, 1, 1, 0]


def test_several_labels_a_clip(tmp_path):
    pair = [make(tmp_path / name, {"train": {}}) for name in ("x", "y")]
    for folder, rows in zip(pair, ('a.mp4,"cut,stir"\n', 'a.mp4,"pour,cut"\nb.mp4,pour\n'), strict=True):
        Path(folder, "train.csv").write_text(rows)
    found = read_folders(pair, "train", multi_label=True, check_files=False)
    assert found.class_names == ["cut", "stir", "pour"] and found.multi_label
    assert [clip.label for clip in found.clips] == [(0, 1), (0, 2), (2,)]


def test_the_ends_by_which_paths_differ():
    assert distinct_ends(["/d/a", "/d/b"]) == ["a", "b"]
    assert distinct_ends(["/x/a", "/y/a", "/y/b"]) == ["x/a", "y/a", "y/b"]
    with pytest.raises(DataError, match="named twice"):
        distinct_ends(["/x/a", "/x/../x/a"])


# ------------------------------------------------------------------------------------------------ the configuration


@pytest.mark.parametrize(
    ("written", "folders"),
    [
        ("[a, b]", ["a", "b"]), (["a", "b c"], ["a", "b c"]), ("a, b", "a, b"), ("a,b", "a,b"),
        ("['a, b', c]", ["a, b", "c"]), ("[a]", "a"), ("", ""),
    ],
)  # fmt: skip
def test_a_list_in_brackets_is_several_and_a_comma_is_part_of_a_name(written, folders):
    assert read_value(written, "", element=Folders) == folders


def test_empty_places_are_refused():
    for written in ("[]", "[a, '']"):
        with pytest.raises(ValueError, match="needs a folder"):
            read_value(written, "", element=Folders)


def test_what_does_not_go_together():
    cfg = with_values(get_cfg(), {
        "DATA.PATH_TO_DATA_DIR": ["a", "a"], "DATA.DATASET_WEIGHTS": [1.0, 0.0, 2.0], "DATA.CORRECTIONS": "fix.csv",
        "DATA_LOADER.SAMPLER": "balanced", "DATA.MULTI_LABEL": True,
    })  # fmt: skip
    texts = "\n".join(problem.text for problem in find_problems(cfg))
    for words in ("one for each data folder", "must be more than 0", "named twice", "is of one data folder",
                  "balanced: is for clips of one class"):  # fmt: skip
        assert words in texts


@pytest.mark.parametrize("dataset", ["FusedDataset", "PointTracks", "EpicKitchens"])
def test_other_datasets_refuse_several_by_name(dataset):
    values = {"TRAIN.DATASET": dataset, "DATA.PATH_TO_DATA_DIR": ["a", "b"]}
    with pytest.raises(ConfigError, match=f"{dataset} reads one data folder"):
        construct_loader(with_values(get_cfg(), values), "train")


def test_a_dataset_with_an_order_of_its_own_is_not_balanced(folders, monkeypatch):
    class Ordered(VideoDataset):
        def training_sampler(self, batch_size, *, seed, global_batch=None, rank=0, world_size=1):
            return EpochBatchSampler(len(self), batch_size, seed=seed)

    monkeypatch.setitem(DATASET_REGISTRY._classes, "Ordered", Ordered)
    values = {"TRAIN.DATASET": "Ordered", "DATA.PATH_TO_DATA_DIR": folders[0], "DATA_LOADER.SAMPLER": "balanced",
              "MODEL.NUM_CLASSES": 2}  # fmt: skip
    with pytest.raises(ConfigError, match="Ordered draws its own batches"):
        construct_loader(with_values(get_cfg(), values), "train")


# ------------------------------------------------------------------------------------------------ a run


def test_a_run_on_two_folders_with_weights_and_balance(tmp_path):
    for name, labels in (("x", ["cut", "stir"]), ("y", ["stir", "cut", "stir"])):
        (tmp_path / name).mkdir()
        rows = ""
        for number, label in enumerate(labels):
            write_clip(tmp_path / name / f"{number}.mp4", 6, size=(24, 32))
            rows += f"{number}.mp4,{label}\n"
        for split in ("train", "val", "test") if name == "x" else ("train",):
            (tmp_path / name / f"{split}.csv").write_text(rows)
    settings = {**TINY, "DATA.PATH_TO_DATA_DIR": [str(tmp_path / "x"), str(tmp_path / "y")], "SOLVER.MAX_EPOCH": 1,
                "SOLVER.WARMUP_EPOCHS": 0.0, "DATA.DATASET_WEIGHTS": [3, 1], "DATA_LOADER.SAMPLER": "balanced",
                "MODEL.LOSS_FUNC": "focal", "MODEL.NUM_CLASSES": -1, "OUTPUT_DIR": str(tmp_path / "run")}  # fmt: skip
    (tmp_path / "empty.yaml").write_text("TASK: Classification\n")
    cfg = load_config(tmp_path / "empty.yaml", settings)
    loader = construct_loader(with_values(cfg, {"MODEL.NUM_CLASSES": 2}), "train")
    views = [loader.dataset[SampleRequest(epoch, 3)][0]["inputs"]["video"] for epoch in (0, 0, AGAIN)]
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2]), "drawn again, it looks otherwise"
    sampler = loader.batch_sampler
    counts = [0, 0]
    for epoch in range(200):
        sampler.set_position(epoch)
        for batch in sampler:
            for draw in batch:
                counts[draw.sample >= 2] += 1
    assert abs(counts[0] / sum(counts) - 0.75) < 0.08
    texts = {key: json.dumps(value) if isinstance(value, list) else str(value) for key, value in settings.items()}
    assert main(["--cfg", str(tmp_path / "empty.yaml"), *(word for pair in texts.items() for word in pair)]) == 0
    tested = csv_dicts(tmp_path / "run" / "results" / "predictions.csv")
    assert [row["id"] for row in tested] == ["x/0.mp4", "x/1.mp4"]
    assert {"prob_cut", "prob_stir"} < set(tested[0])
    saved = load_config(tmp_path / "run" / "config.yaml")
    assert settings["DATA.PATH_TO_DATA_DIR"] == saved.DATA.PATH_TO_DATA_DIR


def test_check_looks_at_each_folder(folders, tmp_path, capsys):
    (tmp_path / "both.yaml").write_text(f"DATA: {{PATH_TO_DATA_DIR: {json.dumps(folders)}}}\n")
    words = ["check", "--cfg", str(tmp_path / "both.yaml"), "--workers", "1"]
    assert dust_main([*words, "--out", str(tmp_path / "found")]) == 1, "the files are empty"
    said = capsys.readouterr().out
    assert all(folder in said for folder in folders)
    for name in ("one", "two"):
        assert csv_dicts(tmp_path / "found" / name / "kitchen" / "check.csv")
    assert dust_main([*words, "--fix", str(tmp_path / "clean")]) == 2
    assert "dust check --fix reads one data folder" in capsys.readouterr().err
