"""The adapter gives what torchvision's own models give, and takes their files."""

import pytest
import torch
import torchvision

from dust.config import load_config
from dust.models import build_model
from dust.models.torchvision_video import TorchvisionVideo
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError, DustError
from tests.helpers import randomised


@torch.no_grad()
def test_it_is_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.get_model("mc3_18", num_classes=7).eval()
    model = TorchvisionVideo(arch="mc3_18", num_classes=7).eval()
    report = load_weights(model, theirs.state_dict())
    assert report.complete and not report.unexpected
    video = torch.randn(1, 3, 4, 32, 48)
    torch.testing.assert_close(model(video), theirs(video), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_s3d_pools_as_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.get_model("s3d", num_classes=7).eval()
    model = TorchvisionVideo(arch="s3d", num_classes=7).eval()
    report = load_weights(model, theirs.state_dict())
    assert report.complete and not report.unexpected
    video, features = torch.randn(1, 3, 8, 32, 32), torch.randn(2, 1024, 3, 8, 9)
    torch.testing.assert_close(model.forward_features(video), theirs.features(video))
    wanted = theirs.classifier(theirs.avgpool(features)).mean(dim=(2, 3, 4))
    torch.testing.assert_close(model.forward_head(features), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", ["r3d_18", "r2plus1d_18"])
def test_all_its_tensors_have_a_place(arch):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(arch).state_dict()
        model = TorchvisionVideo(arch=arch)
    adapted = model.adapt_state_dict(theirs, [])
    assert {key: value.shape for key, value in adapted.items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }


def test_a_small_clip_leaves_s3d_one_place():
    model = randomised(TorchvisionVideo(arch="s3d", num_classes=3))
    assert model(torch.randn(2, 3, 8, 32, 32)).shape == (2, 3)


def test_from_a_configuration():
    words = ["MODEL.MODEL_NAME", "TorchvisionVideo", "MODEL.ARCH", "mc3_18", "MODEL.NUM_CLASSES", "5"]
    model = build_model(load_config(None, words))
    assert model.arch == "mc3_18" and model.head.out_features == 5 and model.head_drop.p == 0.5
    with pytest.raises(
        ConfigError, match="MODEL.ARCH slow: for MODEL.MODEL_NAME TorchvisionVideo write r3d_18, mc3_18"
    ):
        load_config(None, [*words, "MODEL.ARCH", "slow"])
    with pytest.raises(ConfigError, match="arch is 'r3d', it must be one of r3d_18"):
        TorchvisionVideo(arch="r3d")
    with pytest.raises(DustError, match=r"mc3_18 got video of shape \(1, 1, 4, 8, 8\); it takes \(B, 3, T, H, W\)"):
        model(torch.zeros(1, 1, 4, 8, 8))
