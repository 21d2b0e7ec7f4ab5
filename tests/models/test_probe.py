"""Probe: any backbone with tokens, published heads, grids of heads, what learns, and whose weights these are."""

import re

import pytest
import torch

from dust.engine.weights import load_trained
from dust.models import MODEL_REGISTRY
from dust.models.backbones import sha256_of_backbone
from dust.models.layers.tokens import TokenPooling
from dust.models.optimizer import parameter_groups
from dust.models.probe import Probe
from dust.models.protocol import GivesTokens
from dust.models.vjepa2 import VJEPA2
from dust.utils.checkpoint import load_checkpoint, load_weights, save_checkpoint
from dust.utils.errors import CheckpointError, ConfigError, DustError
from dust.utils.features import FeatureWriter
from tests.helpers import golden_tensors, noise_of, part
from tests.models.small_models import OPTIONAL, OTHERS, SMALL, inputs_of, make
from tests.models.test_vjepa2 import of_authors

#: Those that see no video, or see it in two streams, or whose tokens are another library's (HuggingFaceVideo), or which
#: keep no places (ClipMoments).
WITHOUT = {
    "CAST", "ClipMoments", "SeriesRocket", "HuggingFaceVideo", "SeriesSwin", "DualSwinFusion", "TemporalEncoder",
    "PointTrackTransformer", "PointTrackLSTM",
}  # fmt: skip
BACKBONES = [(name, arguments, shapes) for name, arguments, shapes in SMALL if name not in WITHOUT]
TINY = {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "probe_depth": 1, "probe_heads": 2}
TINY = {"backbone": "VJEPA2", "backbone_arguments": {**TINY, "num_classes": 0}, "num_classes": 3, "head": "linear"}
VIDEO = noise_of(2, 3, 4, 16, 16)


def probe(**arguments):
    torch.manual_seed(1)
    return Probe(**{**TINY, **arguments})


def test_every_registered_backbone_of_video_gives_tokens():
    names = {name for name, _, _ in SMALL} | set(OPTIONAL)
    assert {name for name in names if not isinstance(MODEL_REGISTRY.get(name), GivesTokens)} == WITHOUT


@pytest.mark.parametrize(("name", "arguments", "shapes"), BACKBONES)
def test_any_backbone_can_be_probed(name, arguments, shapes):
    own, inputs = {**arguments, "num_classes": 0}, inputs_of(shapes)
    model = Probe(backbone=name, backbone_arguments=own, num_classes=3, head="linear").train()
    class_tokens, grid = model.backbone.forward_tokens(**inputs)
    assert class_tokens.shape[::2] == (2, model.num_features) and grid.ndim == 5
    assert grid.shape[0] == 2 and grid.shape[-1] == model.num_features
    assert not any(module.training for module in model.backbone.modules())
    logits = model(**inputs)
    assert torch.equal(logits, model(tokens=TokenPooling()(class_tokens, grid)))
    logits.square().sum().backward()
    assert {key.split(".")[0] for key, one in model.named_parameters() if one.grad is not None} == {"heads"}
    beyond = {key for key in model.backbone.state_dict() if re.search(model.backbone.beyond_tokens, key)}
    model.backbone.requires_grad_(True).zero_grad()
    sum(part.square().sum() for part in model.backbone.forward_tokens(**inputs)).backward()
    used = {key for key, one in model.backbone.named_parameters() if one.grad is not None}
    assert not used & beyond, "what is left out of the hash is not used"


def test_tokens_are_those_before_the_classifier():
    """The means of a ViT's tokens are what its own head sees, where that is a mean."""
    arguments, shapes = next((a, s) for name, a, s in SMALL if name == "VideoSwin")
    model, inputs = make("VideoSwin", arguments).eval(), inputs_of(shapes)
    _, grid = model.forward_tokens(**inputs)
    wanted = model.forward_head(model.forward_features(**inputs), pre_logits=True)
    torch.testing.assert_close(grid.mean(dim=(1, 2, 3)), wanted)


def test_one_without_tokens_is_refused_by_name():
    arguments = next(arguments for name, arguments, _ in SMALL if name == "CAST")
    with pytest.raises(ConfigError, match=r"PROBE.BACKBONE CAST: CAST gives no tokens.*VJEPA2, VideoMAE, VideoSwin"):
        Probe(backbone="CAST", backbone_arguments=arguments)


def test_golden_probe_of_the_authors():
    """Encoder and head of the published layout, as two parts, give the published logits."""
    facts, tensors = golden_tensors("vjepa2_orig_rect")
    published = VJEPA2(**of_authors(facts["args"]["encoder"], facts["args"]["probe"])).eval()
    load_weights(published, part(tensors, "weight"))
    sizes = of_authors(facts["args"]["encoder"], facts["args"]["probe"])
    head = {"depth": sizes["probe_depth"], "num_heads": sizes["probe_heads"]}
    model = probe(backbone_arguments={**sizes, "num_classes": 0}, num_classes=sizes["num_classes"],
                  head="attentive", head_arguments=head).eval()  # fmt: skip
    model.backbone.load_state_dict(published.state_dict(), strict=False)
    model.heads[0].load_state_dict({k: v for k, v in published.state_dict().items() if not k.startswith("encoder.")})
    torch.testing.assert_close(model(tensors["input"]), tensors["output.logits"], atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------------------------ a grid

GRID = [(0.1, 0.0), (0.5, 0.2), (0.01, 0.1)]


def trained(model, steps=4):
    groups = parameter_groups(model, weight_decay=9.0)
    for group in groups:
        group["lr"] = 0.1 * group["lr_scale"]  # base_lr 0.1
    optimizer = torch.optim.AdamW(groups)
    for step in range(steps):
        tokens, labels = noise_of(5, 7, 16) + step, torch.arange(5) % 3
        logits = model.train()(tokens=tokens)
        each = logits["heads"].unbind(1) if isinstance(logits, dict) else [logits]
        optimizer.zero_grad()
        sum(torch.nn.functional.cross_entropy(one, labels) for one in each).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_each_head_of_a_grid_learns_as_it_would_alone(head):
    more = {"head": head, "base_lr": 0.1, "head_arguments": {"num_heads": 2, "depth": 2} if head == "attentive" else {}}
    together = trained(probe(grid=GRID, **more))
    for number, pair in enumerate(GRID):
        alone = trained(probe(grid=[pair], **more))
        for name, value in alone.heads[0].state_dict().items():
            torch.testing.assert_close(together.heads[number].state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_validation_chooses_and_video_gets_the_chosen_answer():
    model = trained(probe(grid=GRID, base_lr=0.1)).eval()
    model.choose({"lr0.1_wd0_top1_acc": 40.0, "lr0.5_wd0.2_top1_acc": 60.0, "lr0.01_wd0.1_top1_acc": 60.0})
    tokens = model.forward_features(VIDEO)
    assert torch.equal(model(VIDEO), model.heads[1](tokens))
    again = probe(grid=GRID, base_lr=0.1).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(VIDEO), model(VIDEO))


def test_a_head_that_diverged_says_nothing_and_the_others_are_measured():
    model = probe(grid=GRID).eval()
    with torch.no_grad():
        model.heads[0].head.weight.fill_(torch.nan)
    outputs = model(tokens=model.forward_features(VIDEO))
    assert outputs["logits"].isfinite().all()
    assert outputs["heads"][:, 0].isneginf().all() and outputs["heads"][:, 1:].isfinite().all()


def test_a_wild_gradient_of_one_head_is_none_of_the_others():
    model = probe(grid=GRID).train()
    with torch.no_grad():
        model.heads[0].head.weight.fill_(1e38)
    outputs = model(tokens=noise_of(2, 7, 16))["heads"]
    (outputs[:, 0].square() * 1e20 + outputs[:, 1].square() + outputs[:, 2].square()).sum().backward()
    grads = [head.head.weight.grad for head in model.heads]
    assert not grads[0].any() and grads[1].isfinite().all() and grads[1].any()


# ------------------------------------------------------------------------------------------------------- what learns


def test_the_last_blocks_learn_and_the_rest_stays_in_evaluation():
    arguments = {**TINY["backbone_arguments"], "drop_path_rate": 0.5}
    model = probe(unfreeze_blocks=1, backbone_arguments=arguments).train()
    learns = {name for name, one in model.backbone.named_parameters() if one.requires_grad}
    assert {name.split(".")[2] for name in learns if "blocks" in name} == {"2"} and "encoder.norm.weight" in learns
    assert not any(name.startswith("pooler") for name in learns)
    assert [block.training for block in model.backbone.encoder.blocks] == [False, False, True]
    model(VIDEO).square().sum().backward()
    assert all(one.grad is not None for one in model.parameters() if one.requires_grad)
    scales = parameter_groups(model, weight_decay=0.1, layer_decay=0.5)
    assert sorted({group["lr_scale"] for group in scales}) == [0.5, 1.0]
    with pytest.raises(ConfigError, match=r"UNFREEZE_BLOCKS 9: the backbone has 3 blocks; write 1 to 3, or -1"):
        probe(unfreeze_blocks=9)


def test_adapters_learn_beside_frozen_weights():
    model = probe(lora_rank=2, lora_targets=["q", "v", "proj", "fc"]).train()
    model(VIDEO).square().sum().backward()
    learns = {name for name, one in model.backbone.named_parameters() if one.requires_grad}
    assert learns and all(name.endswith((".up", ".down")) for name in learns if "encoder.blocks" in name)
    assert any(one.grad is not None and one.grad.any() for name, one in model.named_parameters() if name.endswith("up"))


# ------------------------------------------------------------------------------------------------------------ weights


@pytest.fixture
def files(tmp_path):
    """Encoders of two seeds, as files."""
    paths = {}
    for seed in (1, 2):
        torch.manual_seed(seed)
        paths[seed] = tmp_path / f"encoder{seed}.pth"
        torch.save(VJEPA2(**TINY["backbone_arguments"]).encoder.state_dict(), paths[seed])
    return paths


def filled(files, seed=1, **arguments):
    model = probe(backbone_from=str(files[seed]), **arguments)
    model.load_parts({"backbone": files[seed]})
    return model


@pytest.mark.parametrize("more", [{}, {"unfreeze_blocks": 1}, {"lora_rank": 2}, {"grid": GRID}], ids=str)
def test_a_checkpoint_holds_what_learns_and_comes_back(files, more):
    model = filled(files, **more)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    state = {name: value.clone() for name, value in model.partial_state_dict().items()}
    assert not any("patch_embed" in name for name in state)
    other = filled(files, **more)
    other.load_partial(state, "x.pyth")
    assert torch.equal(other.eval()(VIDEO), model.eval()(VIDEO))
    assert other.frozen_sha256() == model.frozen_sha256() != ""


def test_another_backbone_is_refused_by_name(files):
    state = filled(files, 1).partial_state_dict()
    with pytest.raises(CheckpointError, match=r"x.pyth: trained on another backbone .* PROBE.BACKBONE_FROM .*encoder2"):
        filled(files, 2).load_partial(state, "x.pyth")
    meta = {"backbone_sha256": sha256_of_backbone(filled(files, 1).backbone)}
    writer = FeatureWriter(files[1].parent / "tokens", "train", ["a"], (1, 5, 16), "float32", meta)
    writer.write(0, torch.zeros(1, 1, 5, 16))
    writer.finish()
    stored = {"tokens_from": "tokens", "output_dir": str(files[1].parent / "probe")}
    with pytest.raises(CheckpointError, match=r"encoder2.pth: its weights .* made the tokens of PROBE.TOKENS_FROM"):
        filled(files, 2, **stored)
    filled(files, 1, **stored)


def test_a_file_that_leaves_some_of_the_backbone_random_is_refused(tmp_path, files):
    state = torch.load(files[1], weights_only=True)
    torch.save({name: value for name, value in state.items() if name != "norm.weight"}, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match=r"does not fill the backbone: encoder.norm.weight would stay random"):
        filled({1: tmp_path / "short.pth"})


def test_training_goes_on_from_the_chosen_head(tmp_path, files):
    first = trained(filled(files, grid=GRID, base_lr=0.1))
    first.choose({"lr0.5_wd0.2_top1_acc": 60.0})
    save_checkpoint(tmp_path / "probe.pyth", {"model_state": first.partial_state_dict()})
    second = probe(backbone_from=str(files[1]), head_from="probe", lora_rank=2)
    second.load_parts({"backbone": files[1], "head": tmp_path / "probe.pyth"})
    assert torch.equal(second.eval()(VIDEO), first.eval()(VIDEO))
    torch.save({"x": torch.zeros(1)}, tmp_path / "no.pyth")
    with pytest.raises(CheckpointError, match=r"no.pyth: holds no probe"):
        second.load_parts({"backbone": files[1], "head": tmp_path / "no.pyth"})


def test_wrong_inputs_are_named():
    with pytest.raises(DustError, match="either video or tokens"):
        probe()(VIDEO, tokens=VIDEO)
    with pytest.raises(DustError, match=r"tokens \(2, 5, 9\); its backbone's have 16 channels"):
        probe()(tokens=noise_of(2, 5, 9))
    with pytest.raises(DustError, match="knn learns from stored tokens"):
        probe(head="knn").train()(VIDEO)


def test_the_encoder_of_a_pre_training_fills_videomae_whole(tmp_path):
    """Its file has no norm for mean pooling: the tokens must not need one."""
    pretrain, arguments = (next(a for n, a, _ in cases if n == name) for name, cases in
                           (("VideoMAEPretrain", OTHERS), ("VideoMAE", SMALL)))  # fmt: skip
    file = tmp_path / "pretrain.pth"
    torch.save({"model": make("VideoMAEPretrain", pretrain).state_dict()}, file)
    own = {"backbone": "VideoMAE", "backbone_arguments": {**arguments, "num_classes": 0}, "head": "linear"}
    model = Probe(**own, num_classes=3, backbone_from=str(file))
    model.load_parts({"backbone": file})
    assert model.frozen_sha256()


def test_the_file_of_an_encoder_alone_gives_tokens(files):
    """V-JEPA 2's pooler stands on the tokens: they do not need it."""
    model, saved = VJEPA2(**TINY["backbone_arguments"]), load_checkpoint(files[1])
    load_trained(model, files[1], saved, output_dir=".", head=False, tokens=True)
    assert sha256_of_backbone(model) == filled(files, 1).frozen_sha256()
    with pytest.raises(CheckpointError, match="lacks pooler"):
        load_trained(model, files[1], saved, output_dir=".", head=False)
