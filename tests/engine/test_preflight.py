"""What can be known before the first step is said then: of all stages and splits of a command, and all at once."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from dust.config import load_config
from dust.datasets import construct_loader
from dust.datasets.manifest import manifest
from dust.engine import run_net
from dust.engine.preflight import build_ahead
from dust.synthetic.fusion import generate_dust
from dust.synthetic.keystep import generate_procedure
from dust.synthetic.motion_appearance import generate_motion_appearance
from tests.helpers import ROOT
from tests.runs import words

QUICK = ROOT / "configs" / "quickstart"
DUST = ("dust_stage1", "dust_stage2", "dust_stage3", "dust_stage4")
KEYSTEP = ("keystep_spatial", "keystep_features", "keystep_temporal", "keystep_finetune", "keystep_test")
TSTL = ("tstl_selector", "tstl_experts", "tstl_test")


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fused") / "data"
    generate_dust(folder, samples=16)
    return folder


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assembly") / "data"
    generate_procedure(folder, recordings=6, parts=3, size=32)
    return folder


@pytest.fixture(scope="module")
def gestures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gestures") / "data"
    generate_motion_appearance(folder, clips=4, frames=8)
    return folder


@pytest.fixture
def said(tmp_path, capsys, monkeypatch):
    """``said(stages, data, KEY, VALUE...)``: run them in one command, none of which may begin; returns the error."""

    def never(cfg):
        raise AssertionError(f"{cfg.OUTPUT_DIR} was begun")

    monkeypatch.setattr(run_net, "run_stage", never)

    def run(stages, data, *more, code=2):
        files = [str(path if str(path).endswith(".yaml") else QUICK / f"{path}.yaml") for path in stages]
        out = ["OUTPUT_DIR", str(tmp_path / "runs"), "DATA_LOADER.NUM_WORKERS", "0"]
        assert run_net.main(["--cfg", *files, "DATA.PATH_TO_DATA_DIR", str(data), *out, *map(str, more)]) == code
        assert not (tmp_path / "runs").exists(), "what is refused leaves nothing"
        return capsys.readouterr().err

    return run


def test_all_problems_of_all_stages_are_said_at_once(fused, said, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(fused, data)
    (data / "test.csv").unlink()
    error = said(DUST, data, "SERIES.NUM_CHANNELS", "4", "TRAIN.BEST_METRIC", "top5_acc", "TEST.METRICS", "[nope]")
    assert "4 problems, and nothing was begun" in error
    assert "dust_stage1, dust_stage2, dust_stage3, dust_stage4: TEST.METRICS: no metric is called 'nope'" in error
    assert "dust_stage2, dust_stage4: the series of the train split cannot be used" in error
    assert "dust_stage1, dust_stage2, dust_stage4: TRAIN.BEST_METRIC top5_acc: is not measured; choose" in error
    assert "neither test.csv nor manifest.csv for the test split" in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["SERIES.LENGTH", "52"], "dust_stage2, dust_stage4: the series of the train split cannot be used"),
        (["FUSION.MODE", "cross_attention"], "dust_stage4: FUSION.FEATURES_FROM dust_stage3: will store a vector"),
        (["FEATURES.FORMAT", "per_video"], "dust_stage4: FUSION.FEATURES_FROM dust_stage3: will store a file per"),
        (["FEATURES.SPLITS", "[train, val]"], "stores no features of the test split; its FEATURES.SPLITS are"),
        (["FEATURES.LAYER", "layers.7"], "dust_stage3: FEATURES.LAYER layers.7: the model has no such layer"),
        (["FUSION.SERIES_FROM", "dust_stage7"], "FUSION.SERIES_FROM dust_stage7: there is no"),
        (["FEATURES.CHECKPOINT_FILE_PATH", "zoo://nothing"], "the zoo has no weights named 'nothing'"),
        (["MODEL.NUM_CLASSES", "5"], "4 classes, but MODEL.NUM_CLASSES is 5"),
        (["TRAIN.HOOKS", "[Absent]"], "no hook is called 'Absent'"),
        (["SOLVER.OPTIMIZING_METHOD", "adamv"], "adamv"),
        (["AUG.ENABLE", "True", "AUG.LIST", "[absent]"], "absent"),
        (["NUM_GPUS", "16"], "NUM_GPUS 16: this machine has"),
    ],
)
def test_what_stage_one_does_not_ask_for_is_known_before_it_too(fused, said, more, message):
    assert message in said(DUST, fused, *more)


def test_a_stage_that_trains_nothing_leaves_no_checkpoint(fused, said, tmp_path):
    fourth = tmp_path / "fourth.yaml"
    fourth.write_text(f"_BASE_: {QUICK / 'dust_stage4.yaml'}\nFUSION:\n  SERIES_FROM: dust_stage3\n")
    error = said((*DUST[:3], fourth), fused)
    assert "fourth: FUSION.SERIES_FROM dust_stage3: that stage trains nothing" in error


def test_a_stage_that_stands_behind_the_one_that_asks_for_it(fused, said):
    order = ("dust_stage1", "dust_stage3", "dust_stage4", "dust_stage2")
    assert "FUSION.SERIES_FROM dust_stage2: there is no" in said(order, fused)


def test_components_rates_and_embeddings_of_procedures(assembly, said, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(assembly, data)
    error = said(KEYSTEP, data, "MODEL.NUM_CLASSES", "7")
    assert "keystep_temporal, keystep_finetune, keystep_test: MODEL.NUM_CLASSES 7" in error
    assert "has 3 components" in error
    error = said(KEYSTEP, data, "FEATURES.FORMAT", "npz", "FEATURES.STRIDE", "0")
    assert "keystep_temporal: KEYSTEP.FEATURES_FROM keystep_features: will store no embedding of every frame" in error
    table = (data / "recordings.csv").read_text()
    (data / "recordings.csv").write_text(table.replace(",train,", ",val,"))
    error = said(KEYSTEP, data)
    assert "no recording of the train split" in error
    error = said(("keystep_spatial", "keystep_features", "keystep_temporal"), assembly, "TRAIN.BEST_METRIC", "top1_acc")
    assert "keystep_temporal: TRAIN.BEST_METRIC top1_acc: is not measured; choose one of macro_f1" in error
    assert "keystep_spatial: TRAIN.BEST_METRIC top1_acc: is not measured; choose one of precision_at_1" in error


def test_recordings_without_a_rate(assembly, said, tmp_path):
    """Folders of pictures say no rate, and it is known before the frame encoder is trained."""
    data = tmp_path / "data"
    shutil.copytree(assembly, data)
    table = (data / "recordings.csv").read_text()
    (data / "recordings.csv").write_text(table.replace(".mp4,10,", ".gone,,"))
    error = said(("keystep_features", "keystep_temporal"), data, "FEATURES.CHECKPOINT_FILE_PATH", "zoo://absent")
    assert "keystep_temporal" in error and "no frames per second for test_" in error


def test_groups_and_experts(gestures, said):
    error = said(TSTL, gestures, "MODEL.NUM_CLASSES", "5")
    assert "tstl_selector: selector by class_grouping.json: 4 classes. MODEL.NUM_CLASSES is 5" in error
    assert "TSTL.GROUPS [0, 7]: write all, or numbers from 0 to 3" in said(TSTL, gestures, "TSTL.GROUPS", "[0, 7]")


def test_experts_that_nobody_trains(gestures, said, tmp_path):
    two = tmp_path / "tstl_experts.yaml"
    two.write_text(f"_BASE_: {QUICK / 'tstl_experts.yaml'}\nTSTL:\n  GROUPS: [0, 1]\n")
    error = said(("tstl_selector", two, "tstl_test"), gestures)
    assert "tstl_test: TSTL.EXPERTS_FROM" in error and "group_2" in error and "group_3" in error
    assert "group_1" not in error


def test_nothing_to_do_is_said(fused, said):
    error = said(("dust_stage1",), fused, "TRAIN.ENABLE", "False", "TEST.ENABLE", "False")
    assert error.startswith("error: TRAIN.ENABLE, TEST.ENABLE, FEATURES.ENABLE and PREDICT.ENABLE are all False")


def test_two_stages_in_one_folder_and_a_folder_that_is_a_file(clips, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(f"OUTPUT_DIR: {tmp_path / 'x'}\n")
    (tmp_path / "b.yaml").write_text(f"OUTPUT_DIR: {tmp_path / 'x'}/\n")
    options = words(clips, tmp_path / "run")
    at = options.index("OUTPUT_DIR")
    options = options[:at] + options[at + 2 :]
    files = ["--cfg", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    assert run_net.main([*files, *options]) == 2
    assert "b: OUTPUT_DIR" in (error := capsys.readouterr().err) and "a of this command trains there, too" in error
    (tmp_path / "file").write_text("")
    assert run_net.main(words(clips, tmp_path / "file" / "run")) == 2
    assert f"{tmp_path / 'file'} is a file" in capsys.readouterr().err


def test_what_is_wrong_with_a_list_that_others_need_for_its_classes_is_said_once(clips, tmp_path, capsys):
    """Validation and test read the training list for its classes, and so does NUM_CLASSES -1, without its files."""
    home = tmp_path / "data"
    shutil.copytree(clips, home)
    listed = (home / "train.csv").read_text()

    def said(text, **options):
        (home / "train.csv").write_text(text)
        assert run_net.main(words(home, tmp_path / "run", **options)) == 2
        return capsys.readouterr().err

    assert said(listed, MODEL__NUM_CLASSES=7).count("MODEL.NUM_CLASSES is 7") == 1
    error = said(f"{listed}nowhere.mp4,0\nclip_0.mp4,\n", MODEL__NUM_CLASSES=-1)
    assert error.count("an empty label") == 1 == error.count("nowhere.mp4") and "problems" not in error
    error = said("", MODEL__NUM_CLASSES=-1)
    assert error.count("the train split holds no clip") == 1 and "0 classes" not in error


def test_figures_that_nobody_registered(clips, tmp_path, capsys):
    assert run_net.main([*words(clips, tmp_path / "run"), "TEST.METRICS", "[top1_acc]"]) == 2
    assert "TEST.METRICS: no metric is called 'top1_acc'" in (error := capsys.readouterr().err)
    assert "What the task itself measures (top1_acc, ...) is not named here" in error


def test_weights_that_cannot_be_read_or_do_not_fit(clips, tmp_path, capsys):
    (tmp_path / "notes.pth").write_text("weights will come later")
    torch.save({"other.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    for name, message in (("notes.pth", "is a text file ('weights will come later')"), ("other.pth", "other.pth")):
        assert run_net.main([*words(clips, tmp_path / "run"), "MODEL.PRETRAINED", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert message in error and "weights_only" not in error
    assert not (tmp_path / "run").exists()


def test_problems_of_several_files_come_together(clips, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("TRAIN:\n  BATCHSIZE: 3\n")
    (tmp_path / "b.yaml").write_text("LOG_PERIOD: none\n")
    files = ["--cfg", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    assert run_net.main([*files, "OUTPUT_DIR", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "TRAIN.BATCHSIZE" in error and "LOG_PERIOD" in error
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("RNG_SEED: 1\n")
    assert run_net.main([*files, "NUM_GPU", "0", "OUTPUT_DIR", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("NUM_GPU (override)") == 1 and "a.yaml" in error and "b.yaml" in error, "said once, of both"


def test_a_list_is_read_once_for_all_stages_that_ask_for_it_alike(clips, tmp_path, monkeypatch):
    """Each asks for the number of classes, for the clips of training, and for those of validation under training's
    classes; so does the run itself."""
    read, old = [], manifest.read_csv
    monkeypatch.setattr(manifest, "read_csv", lambda path, **how: read.append(Path(path).stem) or old(path, **how))

    def look(*names):
        read.clear()
        options = {"MODEL__NUM_CLASSES": -1, "TEST__ENABLE": False}
        runs = [load_config(None, words(clips, tmp_path / name, **options)) for name in names]
        assert build_ahead(list(zip(names, runs, strict=True))) == 0
        return sorted(read)

    assert look("a") == ["train", "val"]
    assert look("a", "b", "c") == ["train", "val"]
    assert look("a") == ["train", "val"], "nothing is known of a command before"
    read.clear()
    monkeypatch.setattr("dust.engine.train.run_stage", lambda cfg, run: construct_loader(cfg, "train"))
    assert run_net.main(words(clips, tmp_path / "d", MODEL__NUM_CLASSES=-1, TEST__ENABLE=False)) == 0
    assert sorted(read) == ["train", "train", "val"]


def test_finished_stages_are_not_looked_at_again(clips, tmp_path, capsys):
    """Their data may be gone, as long as later stages do not ask for it."""
    data = tmp_path / "data"
    shutil.copytree(clips, data)
    (tmp_path / "b.yaml").write_text(f"DATA:\n  PATH_TO_DATA_DIR: {clips}\n")
    files = ["--cfg", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    options = words(data, tmp_path / "run")
    at = options.index("DATA.PATH_TO_DATA_DIR")
    options = options[:at] + options[at + 2 :]
    (tmp_path / "a.yaml").write_text(f"DATA:\n  PATH_TO_DATA_DIR: {data}\nTEST:\n  ENABLE: False\n")
    assert run_net.main([*files, *options]) == 0
    shutil.rmtree(data)
    (tmp_path / "run" / "b" / "results" / "test.json").unlink()
    assert run_net.main([*files, *options]) == 0
    assert capsys.readouterr().out.count("finished already") == 1
    assert json.loads((tmp_path / "run" / "b" / "results" / "test.json").read_text())["counts"]["samples"] == 4
