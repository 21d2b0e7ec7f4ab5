"""Both encoders end to end: against their parts, their learning rates, their weights."""

import pytest
import torch

from dust.engine.weights import load_parts
from dust.models.keystep import TemporalEncoder
from dust.models.keystep_frames import KeyStepFrameEncoder
from dust.models.keystep_video import KeyStepVideo
from dust.models.optimizer import build_optimizer, parameter_groups, set_lr
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError, DataError

FRAMES = {"arch": "test_resnet", "img_size": 32, "embed_dim": 16}
TEMPORAL = {"seq_len": 5, "depth": 2, "heads": 2, "dim_head": 8, "mlp_dim": 24}


def make(**more):
    torch.manual_seed(0)
    return KeyStepVideo(frames=FRAMES, temporal=TEMPORAL, num_classes=3, **more)


def windows(count=2):
    return torch.randn(count, 3, 5, 32, 32, generator=torch.Generator().manual_seed(1))


def test_logits_are_those_of_the_parts():
    model = make().eval()
    video = windows()
    slow = []
    for one in video:
        embeddings = torch.cat([model.frame_encoder.embed(one[None, :, t : t + 1]) for t in range(5)])
        slow.append(model.temporal_encoder(embeddings[None])[0])
    torch.testing.assert_close(model(video), torch.stack(slow), atol=1e-5, rtol=1e-4)
    tokens = model.forward_features(video)
    assert model.forward_head(tokens, pre_logits=True).shape == (2, model.num_features)
    model.reset_classifier(0)
    assert model(video).shape == (2, model.num_features) and model.num_classes == 0


def test_every_trainable_parameter_is_in_exactly_one_group_at_its_rate():
    model = make(spatial_lr_mult=0.01)
    groups = parameter_groups(model, weight_decay=1e-4)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad) and len(set(grouped)) == len(
        grouped
    )
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        spatial = name.startswith("frame_encoder.")
        assert of[id(parameter)]["lr_scale"] == (0.01 if spatial else 1.0), name
        if spatial:
            assert of[id(parameter)]["weight_decay"] == 0, name
    assert of[id(model.temporal_encoder.head.weight)]["weight_decay"] == 1e-4
    optimizer = build_optimizer(model, name="sgd", lr=0.5, weight_decay=1e-4)
    set_lr(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5, 0.005}


def test_lr_scales_multiply_with_the_others():
    model = make(spatial_lr_mult=0.1)
    groups = parameter_groups(model, weight_decay=0.0, backbone_lr_scale=0.5)
    assert {group["lr_scale"] for group in groups} == {0.05, 0.5, 1.0}


@pytest.mark.parametrize("frozen", [False, True])
def test_a_training_step(frozen):
    model = make(spatial_frozen=frozen).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = build_optimizer(model, name="sgd", lr=1.0, weight_decay=0.0)
    model(windows()).square().sum().backward()
    optimizer.step()
    changed = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == ({"temporal_encoder"} if frozen else {"frame_encoder", "temporal_encoder"})
    statistics = [key for key in before if key.startswith("frame_encoder") and ("running_" in key or "num_b" in key)]
    assert statistics and all(torch.equal(before[key], model.state_dict()[key]) for key in statistics)
    assert model.temporal_encoder.blocks[0].training and model.frame_encoder.training != frozen


def test_it_begins_from_the_stages_before(tmp_path):
    torch.manual_seed(3)
    frames, temporal = KeyStepFrameEncoder(**FRAMES), TemporalEncoder(**TEMPORAL, dim=16, num_classes=3)
    parts = {}
    for part, model in (("frame_encoder", frames), ("temporal_encoder", temporal)):
        torch.save({"model_state": model.state_dict()}, tmp_path / f"{part}.pyth")
        parts[part] = (f"KEYSTEP.{part}", str(tmp_path / f"{part}.pyth"))
    model = make(init_from=parts).eval()
    assert load_parts(model, "")
    video = windows(1)
    embeddings = frames.eval().embed(video[0].transpose(0, 1)[:, :, None])
    torch.testing.assert_close(model(video), temporal.eval()(embeddings[None]), atol=1e-5, rtol=1e-4)


def test_storm_psr_in_three_parts(tmp_path):
    """The layout of its checkpoints: spatial_enc, temporal_enc, mlp_head, each a dictionary of tensors."""
    model = make()
    theirs = {"spatial_enc": {}, "temporal_enc": {}, "mlp_head": {}, "optimizer_state_dict": {"state": {}, "lr": 0.1}}
    spatial = {"body": "encoder", "neck": "first_head"}
    fused = {"norm1": "0.fn.norm", "attn.qkv": "0.fn.fn.to_qkv", "attn.proj": "0.fn.fn.to_out.0"}
    fused |= {"norm2": "1.fn.norm", "mlp.fc1": "1.fn.fn.net.0", "mlp.fc2": "1.fn.fn.net.3"}
    for key, value in model.state_dict().items():
        part, rest = key.split(".", 1)
        first, last = rest.split(".", 1) if "." in rest else (rest, "")
        if part == "frame_encoder":
            theirs["spatial_enc"][f"{spatial[first]}.{last}"] = value
        elif first in ("norm", "head"):
            theirs["mlp_head"][f"{['norm', 'head'].index(first)}.{last}"] = value
        elif first == "blocks":
            number, inner = last.split(".", 1)
            name, leaf = inner.rsplit(".", 1)
            theirs["temporal_enc"][f"layers.{number}.{fused[name]}.{leaf}"] = value
        else:
            theirs["temporal_enc"][{"pos_embed": "pos_embedding", "cls_token": "cls_token"}[first]] = value
    torch.save(theirs, tmp_path / "storm.pth")
    torch.manual_seed(9)
    other = KeyStepVideo(frames=FRAMES, temporal=TEMPORAL, num_classes=3)
    report = load_weights(other, tmp_path / "storm.pth", strict=True)
    assert report.complete and "read from the parts" in str(report)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
    alone = TemporalEncoder(**TEMPORAL, dim=16, num_classes=3)
    assert load_weights(alone, tmp_path / "storm.pth").complete, "stage 2 may begin from it too"


def test_what_cannot_be():
    with pytest.raises(ConfigError, match=r"LR_MULT -1"):
        make(spatial_lr_mult=-1)
    with pytest.raises(DataError, match="it takes windows"):
        make()(torch.zeros(2, 3, 32, 32))
