"""``dust configs``: what came with dust, listed, shown and copied."""

import pytest
import yaml

from dust.cli.configs import main
from dust.config import load_config
from dust.utils.errors import ConfigError
from tests.helpers import ROOT

CONFIGS = ROOT / "configs"


def said(capsys, *words, code=0):
    capsys.readouterr()  # what a log that an earlier test has set up says of configurations
    assert main([str(word) for word in words]) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def test_list_names_each_with_its_first_sentence(capsys):
    lines = said(capsys, "list").splitlines()
    assert [line.split()[0] for line in lines] == [
        str(path.relative_to(ROOT)) for path in sorted(CONFIGS.rglob("*.yaml"))
    ]
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines), "every configuration begins with what it is for"
    one, two = said(capsys, "list", "quickstart/video", "configs/TSTL/ssv2_test.yaml").splitlines()
    assert one.endswith("  A small TimeSformer that trains on a CPU in minutes.") and two.startswith("configs/TSTL")


def test_show_is_the_text_or_every_key(capsys):
    assert said(capsys, "show", "quickstart/cast.yaml") == (CONFIGS / "quickstart" / "cast.yaml").read_text()
    whole = yaml.safe_load(said(capsys, "show", "configs/quickstart/cast", "--whole"))
    cfg = load_config(CONFIGS / "quickstart" / "cast.yaml")
    assert whole == yaml.safe_load(cfg.dump()) and whole["MODEL"]["MODEL_NAME"] == cfg.MODEL.MODEL_NAME


@pytest.mark.parametrize(
    "name, says",
    [
        ("quickstart/vido", "Did you mean quickstart/video.yaml"),
        ("quickstrat", "Did you mean quickstart"),
        ("../setup.py", "no configuration '../setup.py'"),
        ("/etc/hostname", "no configuration '/etc/hostname'"),
        ("quickstart", "is a folder of several"),
    ],
)
def test_what_is_none_is_said(capsys, name, says):
    assert says in said(capsys, "show", name, code=2)


def test_a_copy_is_what_the_same_command_reads_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "configs/MuWiGes/LightTimeSformer.yaml"
    before = load_config(name)
    names = said(capsys, "copy", "MuWiGes/LightTimeSformer").splitlines()
    assert set(names) == {
        "configs/Kinetics/TimeSformer_base.yaml", "configs/Kinetics/vn.yaml",
        "configs/MuWiGes/LightTimeSformer.yaml", "configs/MuWiGes/TimeSformer.yaml",
    }  # fmt: skip
    assert load_config(name) == before
    base = tmp_path / "configs" / "Kinetics" / "vn.yaml"
    base.write_text(base.read_text() + "RNG_SEED: 77\n")
    assert load_config(name).RNG_SEED == 77
    refused = said(capsys, "copy", "Kinetics", code=2)
    assert "--force" in refused and str(base.relative_to(tmp_path)) in refused
    assert not (tmp_path / "configs" / "Kinetics" / "VideoSwin_tiny.yaml").exists(), "nothing was written"
    assert main(["copy", "Kinetics", "--force"]) == 0 and load_config(name) == before
    assert main(["copy", "TSTL", "--out", "elsewhere"]) == 0
    assert load_config("elsewhere/TSTL/ssv2_test.yaml") == load_config("configs/TSTL/ssv2_test.yaml")
    assert (tmp_path / "elsewhere" / "TSTL" / "ssv2_class_grouping.json").is_file()


def test_a_configuration_of_ones_own_inherits_from_dusts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("_BASE_: configs/quickstart/video.yaml\nRNG_SEED: 5\n")
    mine = load_config("mine.yaml")
    assert mine.RNG_SEED == 5 and mine.TIMESFORMER == load_config("configs/quickstart/video.yaml").TIMESFORMER
    (tmp_path / "configs" / "quickstart").mkdir(parents=True)
    here = tmp_path / "configs" / "quickstart" / "mine.yaml"
    here.write_text("_BASE_: [video.yaml, ../Kinetics/vn.yaml]\n")
    assert load_config("configs/quickstart/mine.yaml").MODEL == load_config("configs/Kinetics/vn.yaml").MODEL
    (tmp_path / "configs" / "quickstart" / "video.yaml").write_text("RNG_SEED: 9\n")
    assert load_config("mine.yaml").RNG_SEED == 5 and load_config("configs/quickstart/video.yaml").RNG_SEED == 9
    (tmp_path / "mine.yaml").write_text("_BASE_: configs/quickstart/vidoe.yaml\n")
    with pytest.raises(ConfigError, match=r"no such file, here .* did you mean configs/quickstart/video.yaml"):
        load_config("mine.yaml")
