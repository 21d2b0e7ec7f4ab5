"""Labels of several people: shares in a cell, rows for each of them, and what training and tests make of them."""

import pytest
import torch

from dust.cli import check
from dust.cli.main import main
from dust.config import get_cfg, with_values
from dust.config.validate import find_problems
from dust.convert.check import check_data
from dust.convert.fixes import write_lists
from dust.convert.folds import write_split
from dust.convert.lists import ListOptions, read_lists
from dust.convert.make_tracks import read_jobs
from dust.datasets.manifest.manifest import read_manifest
from dust.datasets.manifest.several import read_folders
from dust.datasets.manifest.votes import read_votes, shares_of, write_votes
from dust.datasets.multimodal.fusion_manifest import read_fused_manifest
from dust.engine.data_lists import fingerprint
from dust.utils.errors import DataError
from tests.convert.test_health import clip
from tests.helpers import csv_dicts


def read(folder, text, split="train", **options):
    (folder / f"{split}.csv").write_text(text)
    return read_manifest(root=str(folder), split=split, check_files=False, soft_labels=True, **options)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("a:0.7|b:0.3", {"a": 0.7, "b": 0.3}),
        (" a : 2 | b:1 ", None),
        ("a:2|b:1", {"a": 2, "b": 1}),
        ("12:30|b:1", {"12": 30, "b": 1}),
        ("a:.25|b: .75", {"a": 0.25, "b": 0.75}),
        ("to the left: slowly", {"to the left: slowly": 1}),
        ("a", {"a": 1}),
        ("a:0.33|b:0.33|c:0.33", {"a": 0.33, "b": 0.33, "c": 0.33}),
        ("a:0.7|b:0.2", None),
        ("a:0.7", None),
        ("a:0|b:1", None),
        ("a:1|a:1", None),
        ("a|b", None),
        ("a:-1|b:2", None),
        pytest.param(f"a:{'9' * 400}|b:1", None, id="more people than a number holds"),
    ],
)
def test_cells(cell, said):
    if cell.startswith(" "):
        said = {"a": 2, "b": 1}
    assert read_votes(cell) == said


def test_shares_and_people_and_rows_are_the_same_thing(tmp_path):
    head = "path,label\n"
    forms = [
        "a.mp4,cut:0.75|stir:0.25\nb.mp4,stir\n",
        "a.mp4,cut:3|stir:1\nb.mp4,stir\n",
        "a.mp4,cut\nb.mp4,stir\na.mp4,cut\na.mp4,stir\na.mp4,cut\n",
        "a.mp4,cut:2|stir:1\nb.mp4,stir:1\na.mp4,cut\n",
    ]
    for form in forms:
        found = read(tmp_path, head + form)
        assert [(one.id, one.label) for one in found.clips] == [("a.mp4", 0), ("b.mp4", 1)]
        assert shares_of(found.votes["a.mp4"], 2).tolist() == [0.75, 0.25]
        assert shares_of(found.votes["b.mp4"], 2).tolist() == [0, 1]
    # by their ids, by their segments; a class that is nobody's first choice is one too; equal shares: the first class
    found = read(tmp_path, "id,path,label\nx,a.mp4,cut\ny,a.mp4,stir\nx,a.mp4,beat\nx,a.mp4,beat\n")
    assert found.class_names == ["beat", "cut", "stir"] and [one.label for one in found.clips] == [0, 2]
    found = read(tmp_path, "path,start,end,label\na.mp4,0,1,b\na.mp4,1,2,a\na.mp4,0,1,a\n")
    assert [(one.id, one.label) for one in found.clips] == [("a.mp4#0-1", 0), ("a.mp4#1-2", 0)]
    found = read(tmp_path, "path,label\na.mp4,0:0.4|2:0.6\n", num_classes=3)
    assert found.votes["a.mp4"] == ((0, 0.4), (2, 0.6)) and found.clips[0].label == 2
    assert read(tmp_path, "path\na.mp4\na.mp4\n", "test", class_names=["a", "b"]).votes == {}


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path, "path,label,group\na.mp4,cut:0.7|stir:0.2,\nb.mp4,cut,p\nb.mp4,stir,q\n")
    assert "line 2: cut:0.7|stir:0.2" in str(caught.value) and "line 3 and line 4" in str(caught.value)
    with pytest.raises(DataError, match="none of the 2 classes"):
        read(tmp_path, "path,label\na.mp4,cut:2|star:1\n", class_names=["cut", "stir"])
    for name, reader in {
        "clips": lambda: read_manifest(root=str(tmp_path), split="train", check_files=False),
        "fusion": lambda: read_fused_manifest(
            root=str(tmp_path), split="train", modalities=["series"], check_files=False
        ),
    }.items():
        (tmp_path / "train.csv").write_text("id,path,series,label\nx,a.mp4,a.csv,cut:2|stir:1\n".replace(
            *(("series,", "") if name == "clips" else ("path,", ""))).replace(
            *(("a.csv,", "") if name == "clips" else ("a.mp4,", ""))))  # fmt: skip
        with pytest.raises(DataError, match=r"set DATA\.SOFT_LABELS True") as caught:
            reader()
        assert "line 2: cut:2|stir:1" in str(caught.value)


def test_lists_of_several_modalities(tmp_path):
    text = "id,label,series,split\nx,a,x.csv,train\nx,b,x.csv,train\ny,b:1|a:3,y.csv,train\nz,b,z.csv,val\n"
    (tmp_path / "manifest.csv").write_text(text)
    options = {"root": str(tmp_path), "modalities": ["series"], "check_files": False, "soft_labels": True}
    found = read_fused_manifest(split="train", **options)
    assert [(one.id, one.label) for one in found.clips] == [("x", 0), ("y", 0)]
    assert found.votes == {"x": ((0, 1), (1, 1)), "y": ((0, 3), (1, 1))}
    assert read_fused_manifest(split="val", **options).clips[0].label == 1
    (tmp_path / "manifest.csv").write_text(text.replace("x,b,x.csv", "x,b,other.csv"))
    with pytest.raises(DataError, match="an id used twice"):
        read_fused_manifest(split="train", **options)


def test_several_folders_are_merged_by_name(tmp_path):
    for name, text in {"one": "a.mp4,cut:2|stir:1\n", "two": "a.mp4,stir:3|beat:1\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.csv").write_text("path,label\n" + text)
    folders = [str(tmp_path / name) for name in ("one", "two")]
    found = read_folders(folders, "train", check_files=False, soft_labels=True)
    assert found.class_names == ["cut", "stir", "beat"]
    assert found.votes == {"one/a.mp4": ((0, 2), (1, 1)), "two/a.mp4": ((1, 3), (2, 1))}
    assert [one.label for one in found.clips] == [0, 1]


def test_lists_that_are_written_say_it_too(tmp_path):
    text = "path,label\n" + "".join(f"{n}.mp4,a\n{n}.mp4,b\n{n}.mp4,b\n" for n in range(6)) + "9.mp4,a:0.4|b:0.6\n"
    (tmp_path / "data.csv").write_text(text)
    lists = read_lists(str(tmp_path / "data.csv"), ListOptions(soft_labels=True))
    write_split(lists, tmp_path / "out", {"train": 0.7, "test": 0.3})
    rows = csv_dicts(tmp_path / "out" / "train.csv") + csv_dicts(tmp_path / "out" / "test.csv")
    assert sorted(row["label"] for row in rows) == ["a:0.4|b:0.6"] + 6 * ["a:1|b:2"]
    again = read_lists(str(tmp_path / "out"), ListOptions(soft_labels=True))
    assert again.class_names == ["a", "b"]
    before = {one.id: lists.votes(one) for part in lists.clips.values() for one in part}
    assert {one.id.split("/")[-1]: again.votes(one) for part in again.clips.values() for one in part} == before
    write_lists(tmp_path / "more", again, {"train": [(one, again.words(one)) for one in again.clips["train"]]})
    assert csv_dicts(tmp_path / "more" / "train.csv") == csv_dicts(tmp_path / "out" / "train.csv")
    assert write_votes(((1, 1.0),), ["a", "b"]) == "b" and read_votes(write_votes(((0, 0.5),), ["a:1"])) is not None


def test_check_says_how_far_they_agree(tmp_path, capsys):
    for number in range(4):
        clip(tmp_path / f"{number}.mp4", number)
    text = "path,label\n0.mp4,a:2\n1.mp4,a:1|b:1\n2.mp4,b:2\n3.mp4,b\n"
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text(text if split == "train" else "path,label\n3.mp4,b:0.9|a:0.1\n")
    facts = check_data(str(tmp_path), ListOptions(soft_labels=True)).facts
    # pairs: 1, 0, 1; each class has half of six judgements: (2/3 - 1/2) / (1 - 1/2)
    line = "train: 3 samples judged by 2 people: 66.7 % of pairs say the same, Fleiss' kappa 0.333; 1 have two largest"
    assert [fact for fact in facts if fact.startswith(line)] and not any(
        fact.startswith("val: 1 sample judged") for fact in facts
    )
    assert check.main([str(tmp_path), "--workers", "0", "--soft-labels"]) == 1  # 3.mp4 is in both
    assert "Fleiss' kappa 0.333" in capsys.readouterr().out


def test_training_takes_shares_and_a_test_the_largest(tmp_path):
    from dust.datasets.build import build_dataset
    from dust.datasets.sample import SampleRequest

    for name in "ab":
        clip(tmp_path / f"{name}.mp4", ord(name))
    text = "path,label\na.mp4,cut:1|stir:3\nb.mp4,cut\n"
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_text(text)
    values = {
        "DATA.PATH_TO_DATA_DIR": str(tmp_path), "DATA.SOFT_LABELS": True, "MODEL.NUM_CLASSES": 2,
        "DATA.TRAIN_JITTER_SCALES": [32, 32], "DATA.TRAIN_CROP_SIZE": 32, "DATA.TEST_CROP_SIZE": 32,
        "DATA.NUM_FRAMES": 2, "TEST.NUM_ENSEMBLE_VIEWS": 1, "TEST.NUM_SPATIAL_CROPS": 1,
    }  # fmt: skip
    cfg = with_values(get_cfg(), values)
    train = build_dataset("VideoDataset", cfg, "train")
    labels = [train[SampleRequest(0, number)][0]["label"] for number in (0, 1)]
    assert torch.equal(torch.stack(labels), torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    assert [build_dataset("VideoDataset", cfg, "test")[number]["label"] for number in (0, 1)] == [1, 0]
    assert train.class_counts() == [1, 1]
    before = fingerprint(train, {})
    (tmp_path / "train.csv").write_text(text.replace("cut:1", "cut:2"))
    assert fingerprint(build_dataset("VideoDataset", cfg, "train"), {}) != before


def test_a_run_with_shares_mixing_and_background(tmp_path):
    """Through the whole of training and validation, with as many classes as the data has."""
    from dust.engine.classes import build_with_classes
    from tests.runs import TINY, train

    for name in "abc":
        clip(tmp_path / f"{name}.mp4", ord(name))
    rows = "".join(f"{name}.mp4,0,0.4,cut:1|stir:2\n{name}.mp4,0.4,0.5,cut\n" for name in "abc")
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text("path,start,end,label\n" + rows)
    values = {
        **TINY, "DATA.PATH_TO_DATA_DIR": str(tmp_path), "DATA.SOFT_LABELS": True, "DATA.BACKGROUND": "none",
        "DATA.BACKGROUND_MIN_LENGTH": 0.1, "MODEL.NUM_CLASSES": -1, "MODEL.LABEL_SMOOTHING": 0.1, "MIXUP.ENABLE": True,
        "SOLVER.MAX_EPOCH": 1, "OUTPUT_DIR": str(tmp_path / "run"),
    }  # fmt: skip
    cfg = build_with_classes(with_values(get_cfg(), values))
    assert cfg.MODEL.NUM_CLASSES == 3
    assert train(cfg)["class_names"] == ["cut", "none", "stir"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"DATA.MULTI_LABEL": True}, "people are unsure"),
        ({"MODEL.LOSS_FUNC": "bce_logit"}, "exclude each other"),
        ({"AUG.TIME_REVERSAL": ["a"], "AUG.ENABLE": True}, "played backwards"),
        ({"TASK": "Contrastive"}, "takes no shares"),
        ({"TRAIN.DATASET": "StoredTokens"}, "StoredTokens does not read it"),
    ],
)
def test_what_it_does_not_go_with(values, says):
    texts = [one.text for one in find_problems(with_values(get_cfg(), {"DATA.SOFT_LABELS": True, **values}))]
    assert any("DATA.SOFT_LABELS True" in text and says in text for text in texts)


@pytest.mark.parametrize("cell", ["12:30:1", "12:30:1|b:2", "a", "a:2", "a:0.25|b:0.75"])
def test_what_is_written_is_read_again(cell):
    said = read_votes(cell)
    names = list(said)
    assert read_votes(write_votes(tuple(enumerate(said.values())), names)) == said


def test_tracks_of_a_class_with_a_colon_keep_its_name(tmp_path):
    """12:30 is a class, unless shares are asked for: not thirty people who said 12."""
    (tmp_path / "train.csv").write_text(f"path,label\n{clip(tmp_path / 'a.mp4', 0)},12:30\n")
    assert [job.label for job in read_jobs(tmp_path)] == ["12:30"]


def test_every_command_reads_the_cells_of_training_or_says_why_not(tmp_path, capsys, caplog):
    paths = [clip(tmp_path / f"{number}.mp4", number) for number in range(4)]
    cells = ["a:2|b:1", "b", "a", "b:0.7|a:0.3"]
    (tmp_path / "train.csv").write_text(
        "path,label\n" + "".join(f"{p},{c}\n" for p, c in zip(paths, cells, strict=True))
    )
    assert main(["make-tracks", str(tmp_path), "--out", str(tmp_path / "tracks")]) == 2
    said = capsys.readouterr().err
    assert "several people disagree on its label; tracks have one label a clip" in said and "a:2|b:1" in said
    (tmp_path / "videos.csv").write_text(f"video,label\n{paths[0]},a:2|b:1\n")
    assert main(["make-tracks", str(tmp_path / "videos.csv"), "--out", str(tmp_path / "tracks")]) == 2
    assert "videos.csv line 2: a:2|b:1" in capsys.readouterr().err
    assert main(["split", str(tmp_path), "-o", str(tmp_path / "s"), "--ratio", "50,25,25"]) == 2
    assert "--soft-labels" in capsys.readouterr().err
    assert main(["split", str(tmp_path), "-o", str(tmp_path / "s"), "--soft-labels", "--multi-label"]) == 2
    assert "give one of them" in capsys.readouterr().err
    # several classes: asked for, and taken for one class, which is said
    (tmp_path / "train.csv").write_text("path,label\n" + "".join(
        f"{p},{c}\n" for p, c in zip(paths, ['"a,b"', "a", "b", "a"], strict=True)))  # fmt: skip
    assert main(["split", str(tmp_path), "-o", str(tmp_path / "m"), "--ratio", "50,25,25", "--multi-label"]) == 0
    assert (tmp_path / "m" / "classes.txt").read_text() == "a\nb\n"
    rows = [row for split in ("train", "val", "test") for row in csv_dicts(tmp_path / "m" / f"{split}.csv")]
    assert {row["path"]: row["label"] for row in rows}[paths[0]] == "a,b"
    assert "labels that list other labels" not in caplog.text
    read_manifest(root=str(tmp_path), split="train")
    assert "labels that list other labels" in caplog.text and "'a,b'" in caplog.text


def test_a_column_says_who_said_it(tmp_path, caplog):
    caplog.set_level("INFO")
    text = "path,label,annotator\na.mp4,cut,anna\na.mp4,stir,bob\nb.mp4,cut,anna\nb.mp4,stir,\nb.mp4,stir,\n"
    found = read(tmp_path, text)
    assert found.votes == {"a.mp4": ((0, 1), (1, 1)), "b.mp4": ((0, 1), (1, 2))}
    assert "annotator" not in caplog.text
    with pytest.raises(DataError, match="one annotator twice of one clip.*\n.*line 2 and line 3: anna"):
        read(tmp_path, text.replace("bob", "anna"))
    (tmp_path / "train.csv").write_text(text)
    read_manifest(root=str(tmp_path), split="train", check_files=False)
    assert "columns that are not read: annotator" in caplog.text and "rows name what is named before" in caplog.text
    table = "id,label,series,annotator\nx,a,x.csv,anna\nx,b,x.csv,bob\ny,a,y.csv,bob\n"
    (tmp_path / "train.csv").write_text(table)
    options = {"root": str(tmp_path), "split": "train", "modalities": ["series"], "check_files": False}
    assert read_fused_manifest(**options, soft_labels=True).votes == {"x": ((0, 1), (1, 1)), "y": ((0, 1),)}
    with pytest.raises(DataError, match="an unknown column"):
        read_fused_manifest(**options)
