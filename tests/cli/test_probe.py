"""What dust probe writes for weights of the zoo: the recipes say what is trained, whatever the row's own use was."""

import pytest

from dust.cli import probe
from dust.cli.main import main
from dust.config import load_config


@pytest.mark.parametrize("name", ["videomae2_s_k710", "slow_8x8_r50_ssv2", "vjepa2_vith_256"])
def test_a_row_of_the_zoo_is_probed(name, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(probe.run_net, "main", lambda words: 0)
    assert main(["probe", str(clips), "--backbone", f"zoo://{name}", "--out", str(tmp_path)]) == 0
    features, head = (load_config(str(tmp_path / f"{stage}.yaml")) for stage in ("features", "probe"))
    source = f"zoo://{name}"
    assert features.FEATURES.ENABLE and source == features.FEATURES.CHECKPOINT_FILE_PATH
    assert head.TRAIN.ENABLE and head.MODEL.MODEL_NAME == "Probe" and source == head.PROBE.BACKBONE_FROM
    assert head.PROBE.BACKBONE == features.MODEL.MODEL_NAME
