"""MODEL.NUM_CLASSES -1: every system has as many classes as its data, or as the checkpoint that it works on."""

import json

import pytest
import torch

from dust.config import load_config, with_values
from dust.engine import run_net
from dust.engine.classes import build_with_classes
from dust.synthetic.fusion import generate_dust
from dust.synthetic.keystep import generate_procedure
from dust.synthetic.motion_appearance import generate_motion_appearance
from dust.synthetic.tracks import generate_tracks
from dust.utils.errors import DataError
from tests.helpers import ROOT
from tests.runs import words

QUICK = ROOT / "configs" / "quickstart"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{name: folder}: a small data set for each system."""
    root = tmp_path_factory.mktemp("made")
    generate_dust(root / "dust", samples=8)
    generate_motion_appearance(root / "cast", clips=4, frames=8)
    generate_procedure(root / "keystep", recordings=4, parts=3, size=32)
    generate_tracks(root / "tracks", classes=3, sequences=5, views=2, points=8)
    epic = root / "epic"
    (epic / "videos").mkdir(parents=True)
    (epic / "videos" / "P01_1.MP4").write_bytes(b"")
    (epic / "train.csv").write_text("P01_1,2,1\n")
    for number in range(6):
        folder = root / "folder" / "train" / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.mp4").write_bytes(b"")
    return root


@pytest.mark.parametrize(
    ("stage", "data", "more", "classes"),
    [
        ("video", "folder", [], 3),
        ("dust_stage1", "dust", [], 4),
        ("dust_stage2", "dust", [], 4),
        ("cast_spatial", "cast", [], 12),
        ("tstl_selector", "cast", [], 4),
        ("tstl_test", "cast", [], 12),
        ("keystep_spatial", "keystep", [], 3),
        ("keystep_spatial", "keystep", ["KEYSTEP.CONTRAST.LOSS", "ce"], None),
        ("keystep_temporal", "keystep", [], 3),
        ("keystep_finetune", "keystep", [], 3),
        ("tracks_transformer", "tracks", ["TRACKS.VIEWS", "[0, 1]"], 3),
        ("tracks_lstm", "tracks", ["TRACKS.VIEWS", "[0, 1]"], 3),
        (
            "cast",
            "epic",
            ["TASK", "VerbNoun", "TRAIN.DATASET", "EpicKitchens", "CAST.COMPOSITION", "True", "CAST.NUM_VERBS", "3",
             "CAST.NUM_NOUNS", "2"],
            5,
        ),
    ],
)  # fmt: skip
def test_every_system_takes_the_classes_of_its_data(made, tmp_path, stage, data, more, classes):
    words = ["DATA.PATH_TO_DATA_DIR", str(made / data), "OUTPUT_DIR", str(tmp_path / "run"), *more]
    cfg = build_with_classes(load_config(QUICK / f"{stage}.yaml", words))
    states = json.loads((made / "keystep" / "procedure.json").read_text())["states"]
    named = {name for name in states if name and not set(name) - {"0", "1"}}
    assert (1 + len(named) if classes is None else classes) == cfg.MODEL.NUM_CLASSES
    assert build_with_classes(cfg) is cfg, "a number that is given stays"


def test_the_number_is_logged_and_written_and_a_test_takes_the_checkpoints(clips, tmp_path, capsys):
    run = words(clips, tmp_path / "run", MODEL__NUM_CLASSES=-1)
    assert run_net.main(run) == 0
    assert "NUM_CLASSES: 2" in (tmp_path / "run" / "config.yaml").read_text()
    assert "MODEL.NUM_CLASSES 2, as many as the train split of" in (tmp_path / "run" / "stdout.log").read_text()
    assert run_net.main(run) == 0, "and the same command goes on"
    few = tmp_path / "few"  # clips of one class alone: the checkpoint knows of two
    few.mkdir()
    rows = (clips / "test.csv").read_text().splitlines()
    (few / "test.csv").write_text("\n".join([rows[0], *(row for row in rows if row.endswith("dark"))]) + "\n")
    more = ["DATA.PATH_TO_DATA_DIR", str(few), "DATA.PATH_PREFIX", str(clips), "TRAIN.ENABLE", "False"]
    more += ["TEST.CHECKPOINT_FILE_PATH", "run", "OUTPUT_DIR", str(tmp_path / "other")]
    assert run_net.main([*run, *more]) == 0
    assert "NUM_CLASSES: 2" in (tmp_path / "other" / "config.yaml").read_text()


def test_the_classes_are_those_of_the_dataset_that_reads_the_split(made, tmp_path):
    torch.save({"model_state": {}}, tmp_path / "bare.pyth")  # says nothing of its classes
    cfg = load_config(QUICK / "video.yaml", ["DATA.PATH_TO_DATA_DIR", str(made / "folder"), "TRAIN.ENABLE", "False"])
    bare = {"TEST.CHECKPOINT_FILE_PATH": str(tmp_path / "bare.pyth"), "TEST.SPLIT": "train"}
    asked = with_values(cfg, {**bare, "TRAIN.DATASET": "EpicKitchens"})  # which would not read these folders
    assert build_with_classes(asked).MODEL.NUM_CLASSES == 3
    features = {"TEST.ENABLE": False, "FEATURES.ENABLE": True, "TEST.DATASET": "EpicKitchens"}
    features |= {"FEATURES.CHECKPOINT_FILE_PATH": str(tmp_path / "bare.pyth"), "FEATURES.SPLITS": ["train"]}
    assert build_with_classes(with_values(cfg, features)).MODEL.NUM_CLASSES == 3


def test_data_that_cannot_be_read(tmp_path):
    cfg = load_config(QUICK / "video.yaml", ["DATA.PATH_TO_DATA_DIR", str(tmp_path / "none")])
    with pytest.raises(DataError, match="the data folder .*none does not exist"):
        build_with_classes(cfg)
    assert build_with_classes(with_values(cfg, {"MODEL.NUM_CLASSES": 0})).MODEL.NUM_CLASSES == 0, "0 is no classifier"
