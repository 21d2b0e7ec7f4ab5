"""The temporal encoder of KeyStep against the published code's numbers, and by its laws."""

import math

import pytest
import torch
from timm.models import group_parameters

from dust.config import get_cfg
from dust.models.build import build_model
from dust.models.keystep import TemporalEncoder
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError, DataError
from tests.helpers import golden_tensors

FACTS, TENSORS = golden_tensors("psr_temporal_encoder")
SMALL = {"seq_len": 6, "dim": 16, "depth": 2, "heads": 4, "dim_head": 8, "mlp_dim": 24, "num_classes": 5}
every_encoder = pytest.mark.parametrize("encoder", ["transformer", "gru", "mlp"])


def small(encoder="transformer", **more):
    torch.manual_seed(0)
    return TemporalEncoder(**{**SMALL, "encoder": encoder, **more})


def window(frames=6, clips=2):
    return torch.randn(clips, frames, 16, generator=torch.Generator().manual_seed(1))


def published(case):
    prefix = f"{case}.param."
    return {key.removeprefix(prefix): value for key, value in TENSORS.items() if key.startswith(prefix)}


@pytest.mark.parametrize("case", FACTS["cases"])
def test_published_logits(case):
    model = TemporalEncoder(**FACTS["cases"][case]).eval()
    report = load_weights(model, published(case), strict=True)
    assert report.complete and any("STORM-PSR" in note for note in report.notes)
    embeddings = TENSORS[f"{case}.input"]
    with torch.no_grad():
        torch.testing.assert_close(model(embeddings), TENSORS[f"{case}.logits"], atol=2e-6, rtol=0)
        torch.testing.assert_close(model(embeddings[:, :-2]), TENSORS[f"{case}.logits_short"], atol=2e-6, rtol=0)


@pytest.mark.parametrize(("dim", "millions"), [(128, 9.47), (384, 28.4)])
def test_number_of_parameters(dim, millions):
    count = sum(parameter.numel() for parameter in TemporalEncoder(dim=dim).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=2e-3)


def test_attention_is_the_formula():
    attention = small().blocks[0].attn.eval()
    x = window()
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    heads = []
    for h in range(4):
        part = slice(8 * h, 8 * h + 8)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(8)).softmax(dim=-1)
        heads.append(weights @ v[..., part])
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(heads, dim=-1)))


@every_encoder
def test_backward_reaches_every_parameter(encoder):
    model = small(encoder).train()
    model(window()).square().sum().backward()
    assert not [key for key, parameter in model.named_parameters() if not parameter.grad.any()]


@every_encoder
def test_windows_do_not_see_each_other(encoder):
    model, x = small(encoder).eval(), window()
    torch.testing.assert_close(model(x), torch.cat([model(x[:1]), model(x[1:])]), atol=1e-6, rtol=0)


@every_encoder
def test_the_order_of_frames_matters(encoder):
    model, x = small(encoder).eval(), window()
    assert (model(x) - model(x.flip(1))).abs().max() > 1e-4


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_pools_and_classifier_face(pool):
    model, x = small(pool=pool).eval(), window()
    tokens = model.forward_features(x)
    assert tokens.shape == (2, 7, 16)
    pooled = tokens[:, 0] if pool == "cls" else tokens.mean(dim=1)
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), model.norm(pooled))


@every_encoder
def test_classifier_face(encoder):
    model, x = small(encoder).eval(), window()
    tokens = model.forward_features(x)
    assert model.forward_head(tokens, pre_logits=True).shape == (2, model.num_features)
    assert torch.equal(model.forward_head(tokens), model(x)) and model(x).shape == (2, 5)
    model.reset_classifier(9)
    assert model(x).shape == (2, 9) and model.get_classifier() is model.head
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    assert model.no_weight_decay() <= set(dict(model.named_parameters()))


@every_encoder
def test_layers_for_layer_decay(encoder):
    model = small(encoder)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert layers.keys() == dict(model.named_parameters()).keys()
    first = {key for key, layer in layers.items() if layer == 0}
    if encoder == "transformer":
        assert first == {"cls_token", "pos_embed"} and layers["blocks.1.mlp.fc1.weight"] == 2
    assert layers["head.weight"] == max(layers.values())


@every_encoder
def test_activation_checkpointing_changes_nothing(encoder):
    results = []
    for act_checkpoint in (False, True):
        model = small(encoder, act_checkpoint=act_checkpoint, dropout=0.3).train()
        torch.manual_seed(7)
        logits = model(window())
        logits.square().sum().backward()
        results.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(plain, again) for plain, again in zip(*results, strict=True))


def test_dropout_is_for_training_only():
    model = small(dropout=0.5)
    assert not torch.equal(model.train()(window()), model(window()))
    assert torch.equal(model.eval()(window()), model(window()))


def test_gru_is_online():
    """Its outputs do not depend on later frames."""
    model, x = small("gru").eval(), window()
    torch.testing.assert_close(model.forward_features(x)[:, :4], model.forward_features(x[:, :4]))


def test_mlp_is_the_baseline():
    model, x = small("mlp").eval(), window()
    torch.testing.assert_close(model(x), model.head(model.norm(model.blocks[0].fc(x.flatten(1)))))
    assert model.num_features == 24


def test_from_config_is_the_published_model_with_other_sizes():
    cfg = get_cfg()
    cfg.MODEL.MODEL_NAME, cfg.MODEL.NUM_CLASSES = "TemporalEncoder", 11
    with torch.device("meta"):
        model = build_model(cfg)
        reference = TemporalEncoder()
    assert str(model) == str(reference) and model.pos_embed.shape == reference.pos_embed.shape
    node = cfg.KEYSTEP
    node.FRAMES, node.EMBED_DIM, cfg.MODEL.NUM_CLASSES = 6, 16, 5
    temporal = {"DEPTH": 2, "HEADS": 4, "DIM_HEAD": 8, "MLP_DIM": 24, "DROPOUT": 0.3, "POOL": "mean"}
    node.TEMPORAL.merge_from_list([item for pair in temporal.items() for item in pair])
    model = build_model(cfg)
    assert str(model) == str(small(dropout=0.3)) and model.pool == "mean" and model.seq_len == 6
    node.TEMPORAL.TYPE = "gru"
    assert str(build_model(cfg)) == str(small("gru", dropout=0.3))


def test_every_wrong_argument_is_named():
    with pytest.raises(ConfigError) as caught:
        TemporalEncoder(depth=0, dropout=1.0, pool="max", encoder="lstm", num_classes=-1)
    for part in ("depth is 0", "dropout is 1.0", "pool is 'max'", "encoder is 'lstm'", "num_classes is -1"):
        assert part in str(caught.value)


def test_wrong_embeddings_are_refused():
    with pytest.raises(DataError, match=r"\(2, 6, 9\).*\(B, N, 16\)"):
        small()(torch.zeros(2, 6, 9))
    with pytest.raises(DataError, match="at most 6 frames"):
        small()(window(7))
    with pytest.raises(DataError, match="exactly 6 frames"):
        small("mlp")(window(5))
    with pytest.raises(DataError, match="int64"):
        small()(torch.zeros(2, 6, 16, dtype=torch.long))
