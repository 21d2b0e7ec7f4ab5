"""A class that stands only in validation is seen in every layout: an error where the classes are those of training, and
else a count of zero training clips, of which build_trainer speaks."""

import json
import shutil

import pytest

from dust.config import load_config
from dust.datasets.build import build_dataset
from dust.datasets.manifest.manifest import read_manifest
from dust.datasets.multimodal.fusion_manifest import read_fused_manifest
from dust.datasets.sample import counted_from_one, unlearnt_classes
from dust.datasets.tracks.manifest import read_track_manifest
from dust.synthetic.keystep import generate_procedure
from dust.utils.errors import DataError
from tests.helpers import touch


def folders(root):
    touch(root, "train/wave/a.mp4", "train/push/b.mp4", "val/Wave/c.mp4", "val/push/d.mp4")
    return lambda split: read_manifest(root=str(root), split=split)


def csv(root):
    touch(root, "a.mp4", "b.mp4")
    (root / "train.csv").write_text("a.mp4,wave\nb.mp4,push\n")
    (root / "val.csv").write_text("a.mp4,Wave\nb.mp4,push\n")
    return lambda split: read_manifest(root=str(root), split=split)


def fused(root):
    (root / "manifest.csv").write_text("id,label,split\n1,wave,train\n2,push,train\n3,Wave,val\n4,push,val\n")
    return lambda split: read_fused_manifest(root=str(root), split=split, modalities=())


def tracks(root):
    touch(root, "a.npz", "b.npz", "c.npz", "d.npz")
    rows = ["1,0,wave,a.npz,s1,train", "2,0,push,b.npz,s2,train", "3,0,Wave,c.npz,s3,val", "4,0,push,d.npz,s4,val"]
    (root / "tracks.csv").write_text("\n".join(["sample,view,label,file,sequence,split", *rows]) + "\n")
    return lambda split: read_track_manifest(root=str(root), split=split)


@pytest.mark.parametrize("layout", [folders, csv, fused, tracks])
def test_a_name_that_training_lacks_is_refused_with_the_near_one(tmp_path, layout):
    read = layout(tmp_path)
    assert sorted(read("train").class_names) == ["push", "wave"], "validation adds no class"
    with pytest.raises(DataError, match="'Wave'; did you mean 'wave'"):
        read("val")


def unlearnt(cfg, name):
    train = build_dataset(name, cfg, "train")
    val = build_dataset(name, cfg, "val", train.class_names)
    return unlearnt_classes(train.class_names, train.class_counts(), val.class_counts(), "val")


def test_listed_classes_numbers_verbs_and_components(tmp_path):
    """Where the classes are listed elsewhere, one may lack training clips; that is counted in every layout."""
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "train.csv").write_text("a.mp4,0\nb.mp4,2\n")
    (tmp_path / "val.csv").write_text("c.mp4,1\n")
    words = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "MODEL.NUM_CLASSES", "3"]
    (text,) = unlearnt(load_config(None, words), "VideoDataset")
    assert text == "1 of 3 classes have clips in the val split and none in training: 1"
    epic = tmp_path / "epic"
    touch(epic, "videos/P1.MP4", "videos/P2.MP4")
    (epic / "train.csv").write_text("P1,0,0\n")
    (epic / "val.csv").write_text("P2,1,0\n")
    words = ["DATA.PATH_TO_DATA_DIR", str(epic), "CAST.NUM_VERBS", "2", "CAST.NUM_NOUNS", "2"]
    (text,) = unlearnt(load_config(None, words), "EpicKitchens")
    assert text.endswith("none in training: verb:1")


def test_components_and_states_of_procedures(tmp_path, caplog):
    made = tmp_path / "made"
    generate_procedure(made, recordings=4, parts=3, size=32)
    data = tmp_path / "data"
    shutil.copytree(made, data)
    table = (data / "states.csv").read_text().splitlines()
    kept = [row for row in table if not row.startswith("train") or ",0," in row or row.endswith(",0")]
    last = [",".join([*row.split(",")[:-1], "0"]) if row.startswith("train") else row for row in kept]
    (data / "states.csv").write_text("\n".join(last) + "\n")  # the last part is never touched in training
    words = ["DATA.PATH_TO_DATA_DIR", str(data), "MODEL.NUM_CLASSES", "3", "DATA.TRAIN_CROP_SIZE", "32"]
    words += ["KEYSTEP.CONTRAST.N_CLASSES", "0", "KEYSTEP.CONTRAST.N_BG", "0", "KEYSTEP.DTYPE", "video"]
    words += ["KEYSTEP.FRAMES", "5", "KEYSTEP.SAMPLER.SEP", "2"]
    cfg = load_config(None, words)
    (text,) = unlearnt(cfg, "VideoWindows")
    assert "of 3 classes have clips in the val split and none in training" in text and text.endswith("blue")
    facts = json.loads((data / "procedure.json").read_text())
    (data / "procedure.json").write_text(json.dumps({**facts, "states": []}))
    build_dataset("KeyFrames", cfg, "val")
    said = [record for record in caplog.records if "states that are no class are left out" in record.message]
    assert said and said[0].levelname == "WARNING"


def test_labels_that_count_from_one():
    (said,) = counted_from_one(["0", "1", "2"], [0, 4, 1])
    assert said.startswith("class 0 has no training clip") and "subtract 1" in said
    for names, counts in ((["0", "1"], [1, 2]), (["0", "1", "2"], [0, 0, 1]), (["a", "b"], [0, 1]), (["0"], [0])):
        assert counted_from_one(names, counts) == []
