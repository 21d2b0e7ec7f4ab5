"""The frame encoder: unit length, timm's own features, other files' weights, and what cannot be."""

import pytest
import timm
import torch

from dust.engine.extract import layer_output
from dust.engine.weights import load_parts
from dust.models.keystep_frames import KeyStepFrameEncoder
from dust.utils.checkpoint import load_weights
from dust.utils.errors import CheckpointError, ConfigError, DataError

SMALL = {"arch": "test_vit", "img_size": 32, "embed_dim": 16, "proj_dim": 8}


def make(**more):
    torch.manual_seed(0)
    return KeyStepFrameEncoder(**{**SMALL, **more})


def frames(count=4, size=32):
    return torch.randn(count, 3, 1, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("arch", ["test_vit", "test_resnet", "test_convnext"])
def test_outputs_have_unit_length_and_every_parameter_learns(arch):
    model = make(arch=arch, num_classes=5).train()
    with torch.no_grad():  # what begins at zero counts too
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    outputs = model(frames())
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "embedding": (4, 16),
        "projection": (4, 8),
        "logits": (4, 5),
    }
    for name in ("embedding", "projection"):
        torch.testing.assert_close(outputs[name].norm(dim=1), torch.ones(4))
    sum(value.pow(2).mul(torch.arange(1.0, value.shape[1] + 1)).sum() for value in outputs.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    behind_norm = ("neck.0.bias", "projection.0.bias")  # a batch norm takes these away again
    assert not [name for name in without if name not in behind_norm and "k_norm" not in name]


def test_the_embedding_is_the_neck_of_timms_features():
    model = make().eval()
    pooled = model.body(frames()[:, :, 0])  # timm's own way from picture to features
    expected = torch.nn.functional.normalize(model.neck(pooled), dim=1)
    torch.testing.assert_close(model.embed(frames()), expected)
    torch.testing.assert_close(layer_output(model, "pooled")(model, {"video": frames()}), expected)
    torch.testing.assert_close(model(frames())["embedding"], expected)


def test_a_frame_does_not_see_the_others():
    model = make().eval()
    alone = torch.cat([model.embed(one[None]) for one in frames()])
    torch.testing.assert_close(model.embed(frames()), alone, atol=1e-6, rtol=0)


def test_heads_come_and_go():
    model = make(proj_dim=0)
    assert set(model(frames())) == {"embedding"}
    model.reset_classifier(3)
    assert model(frames())["logits"].shape == (4, 3)
    model.reset_classifier(0)
    assert "logits" not in model(frames())
    assert model.no_weight_decay() <= set(dict(model.named_parameters())) and model.no_weight_decay()


def test_weights_of_timm(tmp_path):
    theirs = timm.create_model("test_vit", num_classes=7, img_size=32)
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    model = make(init_from={"body": ("KEYSTEP.SPATIAL.PRETRAINED", str(tmp_path / "timm.pth"))})
    assert load_parts(model, "")
    torch.testing.assert_close(model.body(frames()[:, :, 0]), theirs.eval().forward_head(
        theirs.forward_features(frames()[:, :, 0]), pre_logits=True
    ))  # fmt: skip
    other = make()
    report = load_weights(other, tmp_path / "timm.pth")  # MODEL.PRETRAINED
    assert {key.split(".")[0] for key in report.missing} == {"neck", "projection"}
    wrong = make(arch="test_resnet", init_from=model.init_from)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_parts(wrong, "")


def test_weights_of_storm_psr():
    model, other = make().eval(), make().eval()
    names = {"body": "encoder", "neck": "first_head", "projection": "second_head"}
    theirs = {}
    for key, value in model.state_dict().items():
        part, rest = key.split(".", 1)
        theirs[f"{names[part]}.{rest}"] = value + 1
    load_weights(other, theirs, strict=True)
    assert all(torch.equal(value + 1, other.state_dict()[key]) for key, value in model.state_dict().items())


def test_what_cannot_be():
    with pytest.raises(ConfigError, match="vit_smal.*no model of timm's"):
        make(arch="vit_smal_patch16")
    with pytest.raises(ConfigError, match="img_size is 0, it must be above 0; embed_dim is -1"):
        make(img_size=0, embed_dim=-1)
    with pytest.raises(DataError, match=r"\(4, 3, 2, 32, 32\); it takes single frames"):
        make()(torch.zeros(4, 3, 2, 32, 32))
