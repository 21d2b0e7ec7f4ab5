"""CAST against the authors' numbers (cast_*), against its experts alone, and by laws."""

import copy
from types import SimpleNamespace

import pytest
import torch
from timm.models import group_parameters

from dust.models import cast_weights
from dust.models.cast import CAST, S2TCross, T2SCross
from dust.models.cast_weights import frozen_sha256, load_experts, load_trained, trained_names, trained_state_dict
from dust.models.clip_vit import CLIPVisual
from dust.models.optimizer import parameter_groups
from dust.models.videomae_vit import VideoMAE
from dust.utils.checkpoint import load_weights, read_checkpoint, save_checkpoint
from dust.utils.errors import CheckpointError, ConfigError, DustError
from tests.helpers import golden_json, golden_tensors, noise_of, part, randomised

TINY = {
    "img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "all_frames": 8, "num_classes": 7,
}  # fmt: skip


def fresh(**arguments):
    torch.manual_seed(0)
    return CAST(**{**TINY, **arguments}).eval()


def tiny(**arguments):
    return randomised(fresh(**arguments))


VIDEO = noise_of(2, 3, 8, 32, 32)


# ---------------------------------------------------------------------------------------------- golden numbers


@pytest.mark.parametrize("case", ["cast_a", "cast_b_composition"])
def test_golden(case):
    facts, tensors = golden_tensors(case)
    model = CAST(**facts["args"]).eval()
    model.load_state_dict(part(tensors, "weight"), strict=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["n_params"]
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == set(facts["trainable"]) == set(trained_names(model))
    assert {name for name, _ in model.named_parameters()} - trainable == set(facts["frozen"])

    features = model.forward_features(tensors["input"])
    for stream in ("spatial", "temporal"):
        torch.testing.assert_close(features[stream], tensors[f"features_{stream}"], atol=2e-4, rtol=0)
    outputs = model(tensors["input"])
    expected = {"": tensors["logits"]} if "logits" in tensors else {k: tensors[f"logits_{k}"] for k in ("verb", "noun")}
    for key, logits in expected.items():
        torch.testing.assert_close(outputs[key] if key else outputs, logits, atol=2e-4, rtol=0)


def test_golden_parameter_groups():
    facts = golden_json("videomae_cast_param_groups")
    model = fresh(depth=facts["depth"])
    groups = parameter_groups(
        model, weight_decay=facts["weight_decay"], zero_wd_1d=True, layer_decay=facts["layer_decay"]
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ours = {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert ours == {name: (group["lr_scale"], group["weight_decay"]) for name, group in facts["cast"].items()}


def test_size_of_the_published_model():
    with torch.device("meta"):
        model = CAST(num_classes=174)
    assert sum(parameter.numel() for parameter in model.parameters()) == 217_228_590
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == 45_205_038


# ------------------------------------------------------------------------------------------------------------ laws


def slow_cross(query, context, q, q_bias, kv, kv_bias, proj, heads):
    """Attention of (Lq, d) over (Lk, d), one head after the other."""
    q = query @ q.weight.T + q_bias
    k, v = (context @ kv.weight.T + kv_bias).chunk(2, dim=-1)
    d = q.shape[-1] // heads
    out = []
    for i in range(heads):
        part = slice(i * d, (i + 1) * d)
        out.append(((q[:, part] @ k[:, part].T) * d**-0.5).softmax(-1) @ v[:, part])
    return proj(torch.cat(out, dim=-1))


def test_cross_attention_stays_in_its_window():
    s, t = noise_of(2, 4, 6, 8), torch.randn(2, 4, 6, 8)  # (B, frames, N, d)
    t2s, s2t = randomised(T2SCross(8, 2, frames=4)), randomised(S2TCross(8, 2, places=6))
    in_time, in_space = t2s(s, t), s2t(s, t)
    for b in range(2):
        for n in range(6):
            query, context = s[b, :, n] + t2s.clip_time_pos, t[b, :, n] + t2s.vmae_time_pos
            names = (t2s.t2s_q, t2s.t2s_q_bias, t2s.t2s_kv, t2s.t2s_kv_bias, t2s.t2s_proj)
            torch.testing.assert_close(in_time[b, :, n], slow_cross(query, context, *names, 2))
        for frame in range(4):
            query, context = t[b, frame] + s2t.vmae_space_pos, s[b, frame] + s2t.clip_space_pos
            names = (s2t.s2t_q, s2t.s2t_q_bias, s2t.s2t_kv, s2t.s2t_kv_bias, s2t.t2s_proj)
            torch.testing.assert_close(in_space[b, frame], slow_cross(query, context, *names, 2))


def experts(seed=5, **arguments):
    torch.manual_seed(seed)
    sizes = {**TINY, **arguments}
    clip = CLIPVisual(
        input_resolution=sizes["img_size"], patch_size=sizes["patch_size"], width=sizes["embed_dim"],
        layers=sizes["depth"], heads=sizes["num_heads"], output_dim=20,
    )  # fmt: skip
    return randomised(clip), randomised(VideoMAE(**sizes))


def test_a_new_model_is_its_two_experts_side_by_side():
    clip, videomae = experts()
    model = fresh()
    spatial, temporal = load_experts(model, spatial=clip.state_dict(), temporal=videomae.state_dict())
    assert spatial.complete and temporal.complete
    features = model.forward_features(VIDEO)
    every_second = VIDEO[:, :, 1::2]
    torch.testing.assert_close(features["spatial"], clip.pool(clip.forward_features(every_second)))
    pooled = videomae.forward_features(VIDEO).mean(dim=1)
    torch.testing.assert_close(features["temporal"], model.vmae_fc_norm(pooled))
    assert torch.equal(model.head.weight, videomae.head.weight)  # as many classes
    torch.testing.assert_close(model(VIDEO), videomae.head.bias.expand(2, -1))
    assert torch.equal(model.vmae_fc_norm.weight, torch.ones(48))  # the temporal expert's last norm is not taken


def test_what_is_trained_starts_without_effect():
    model = fresh(init_scale=0.5)
    for name, parameter in model.named_parameters():
        if name.endswith(("Adapter.D_fc2.weight", "Adapter.D_fc2.bias", "s_up.weight", "t_up.bias", "head.bias")):
            assert not parameter.any(), name
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.15)
    assert model.blocks[0].t2s_cross.clip_time_pos.std().item() == pytest.approx(6**-0.5, rel=0.2)
    assert not model(VIDEO).any()


def test_frozen_parts_get_no_gradient_and_keep_nothing_they_need_not():
    def kept(model):
        sizes = {}  # bytes that the backward pass holds, each storage once, parameters aside
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(VIDEO).square().sum()
        loss.backward()
        return sum(sizes.values())

    frozen, everything = tiny().train(), tiny().train().requires_grad_(True)
    assert kept(frozen) < 0.7 * kept(everything)
    for (name, parameter), (_, other) in zip(frozen.named_parameters(), everything.named_parameters(), strict=True):
        if name in trained_names(frozen):
            # the last block's patches of the spatial stream reach nothing: only its class tokens are classified
            assert parameter.grad.any() != name.startswith("blocks.1.t2s_cross"), name
            torch.testing.assert_close(parameter.grad, other.grad, atol=1e-4, rtol=1e-3, msg=name)
        else:
            assert parameter.grad is None and other.grad is not None, name


def test_drop_path_drops_whole_clips_of_the_trained_branches_only():
    model = tiny(drop_path_rate=0.5, depth=3)
    assert [block.drop_path.rate for block in model.blocks] == [0, 0.25, 0.5]
    block = model.blocks[2].train()
    block.drop_path.rate = 1 - 1e-9  # everything that can be dropped is
    s, t = noise_of(2, 4, 17, 48), noise_of(2, 4, 16, 48)
    s_out, t_out = block(s, t)
    s = s + block.S_Adapter(block.clip_attn(block.clip_ln_1(s).flatten(0, 1))).view(s.shape)
    t = t + block.T_Adapter(block.attn(block.norm1(t).flatten(1, 2))).view(t.shape)
    torch.testing.assert_close(s_out, s + block.clip_mlp(block.clip_ln_2(s)))
    torch.testing.assert_close(t_out, t + block.mlp(block.norm2(t)))


def test_clips_do_not_see_each_other():
    model = tiny()
    torch.testing.assert_close(model(VIDEO), torch.cat([model(VIDEO[:1]), model(VIDEO[1:])]), atol=1e-4, rtol=1e-4)
    assert model(VIDEO[:0]).shape == (0, 7)


# ----------------------------------------------------------------------------------------------- what it offers


def test_heads():
    model = tiny()
    features = model.forward_features(VIDEO)
    fused = model.forward_head(features, pre_logits=True)
    assert fused.shape == (2, 48) == (2, model.num_features)
    assert torch.equal(model.forward_head(features), model(VIDEO))
    model.reset_classifier(0)
    assert torch.equal(model(VIDEO), fused)
    model.reset_classifier(9)
    assert model(VIDEO).shape == (2, 9) and model.head.weight.requires_grad
    with pytest.raises(ConfigError, match=r"\(3, 4\), not one number"):
        model.reset_classifier((3, 4))

    both = tiny(composition=True, num_verbs=3, num_nouns=5)
    outputs = both(VIDEO)
    assert {key: value.shape for key, value in outputs.items()} == {"verb": (2, 3), "noun": (2, 5)}
    features = both.forward_features(VIDEO)
    assert torch.equal(outputs["verb"], both.head_verb(features["temporal"]))
    assert torch.equal(outputs["noun"], both.head_noun(features["spatial"]))
    both.reset_classifier((4, 6))
    assert both(VIDEO)["noun"].shape == (2, 6) and not hasattr(both, "head")
    with pytest.raises(ConfigError, match="are 4, not two numbers"):
        both.reset_classifier(4)


def test_layers_for_layer_decay():
    model = tiny()
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    for name, layer in layers.items():
        if name.startswith("blocks."):
            assert layer == int(name.split(".")[1]) + 1, name
        else:
            last = name.startswith(("head", "clip_ln_post", "vmae_fc_norm", "noun_last", "verb_last"))
            assert layer == (3 if last else 0), name
    assert len(model.no_weight_decay()) == 2 * 4 and model.no_weight_decay() <= set(layers)


# ----------------------------------------------------------------------------------------------------------- weights


def test_trained_part_restores_exactly(tmp_path):
    model, other = tiny(), fresh()
    state = trained_state_dict(model)
    assert set(state) == set(trained_names(model)) and len(state) < len(model.state_dict())
    save_checkpoint(tmp_path / "trained.pyth", {"model_state": state, "frozen": frozen_sha256(model)})
    experts_of = {name: value for name, value in model.state_dict().items() if name not in state}
    other.load_state_dict(experts_of, strict=False)
    stored = read_checkpoint(tmp_path / "trained.pyth")
    assert frozen_sha256(other) == stored["frozen"]
    assert not torch.equal(other(VIDEO), model(VIDEO))
    load_trained(other, stored["model_state"])
    assert torch.equal(other(VIDEO), model(VIDEO))


def test_the_hash_is_of_the_experts_alone():
    model = tiny()
    before = frozen_sha256(model)
    with torch.no_grad():
        model.head.weight += 1
        assert frozen_sha256(model) == before
        model.blocks[1].clip_attn.in_proj_bias[3] += 1e-3
    assert frozen_sha256(model) != before


def test_the_hash_is_computed_again_only_after_a_write(monkeypatch):
    counted = []
    compute = cast_weights.sha256_of_tensors
    monkeypatch.setattr(cast_weights, "sha256_of_tensors", lambda tensors: counted.append(1) or compute(tensors))
    model = tiny()
    hashes = [frozen_sha256(model) for _ in range(3)]
    assert len(counted) == 1 and len(set(hashes)) == 1
    other = copy.deepcopy(model)
    assert frozen_sha256(other) == hashes[0] and len(counted) == 2  # its tensors are its own
    frozen = next(name for name in model.state_dict() if name not in trained_names(model))
    model.load_state_dict({frozen: model.state_dict()[frozen] + 1}, strict=False)
    changed = frozen_sha256(model)
    assert changed != hashes[0] and len(counted) == 3
    model.to(torch.float64)  # a parameter gets other data, and stays the same object
    assert frozen_sha256(model) != changed and len(counted) == 4
    model.requires_grad_(True)
    torch.optim.AdamW(model.parameters(), fused=True)  # would not count what it writes
    assert [frozen_sha256(model) for _ in range(2)] and len(counted) == 6


def test_a_trained_part_that_does_not_fit_is_listed_and_not_loaded():
    model = tiny()
    state = trained_state_dict(tiny(num_classes=9))
    state["patch_embed.proj.bias"] = torch.zeros(48)
    del state["blocks.1.ln_s_cross.bias"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    words = (
        r"(?s)x.pyth.*ln_s_cross.bias is missing.*head.weight is \(9, 48\), in the model \(7, .*patch_embed.*not a part"
    )
    with pytest.raises(CheckpointError, match=words):
        load_trained(model, state, "x.pyth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_experts_that_do_not_fit_are_both_named_and_nothing_is_loaded():
    model = fresh()
    before = frozen_sha256(model)
    clip, videomae = experts(embed_dim=96)
    with pytest.raises(CheckpointError, match=r"(?s)spatial expert: .*\(96, 3, 8, 8\).*temporal expert: .*VideoMAE"):
        load_experts(model, spatial=clip.state_dict(), temporal=videomae.state_dict())
    clip, videomae = experts()
    lacking = videomae.state_dict()
    del lacking["blocks.1.mlp.fc1.bias"]
    with pytest.raises(CheckpointError, match=r"temporal expert: .*no fitting blocks\.1\.mlp\.fc1\.bias$"):
        load_experts(model, spatial=clip.state_dict(), temporal=lacking)
    assert frozen_sha256(model) == before


def test_other_classes_of_the_temporal_expert_leave_the_head(tmp_path):
    clip, videomae = experts(num_classes=9)
    torch.save({"module": videomae.state_dict()}, tmp_path / "videomae.pth")
    model = fresh()
    head = model.head.weight.clone()
    load_experts(model, spatial=clip.state_dict(), temporal=tmp_path / "videomae.pth")
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.blocks[1].attn.qkv.weight, videomae.blocks[1].attn.qkv.weight)
    both = fresh(composition=True)
    load_experts(both, spatial=clip.state_dict(), temporal=tmp_path / "videomae.pth")
    assert torch.equal(both.blocks[0].clip_mlp.c_fc.bias, clip.blocks[0].mlp.c_fc.bias)


def test_the_authors_whole_checkpoint_loads():
    facts, tensors = golden_tensors("cast_a")
    model = CAST(**facts["args"]).eval()
    load_weights(model, {"module": {f"module.{k}": v for k, v in part(tensors, "weight").items()}}, strict=True)
    torch.testing.assert_close(model(tensors["input"]), tensors["logits"], atol=2e-4, rtol=0)


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"down_ratio": 5}, "embed_dim 48 is not a multiple of down_ratio x num_heads 20"),
        ({"all_frames": 7, "drop_path_rate": 1.0}, "drop_path_rate is 1.0.*number of frames 7"),
        ({"down_ratio": 0, "num_verbs": -1}, "num_heads is 0.*num_verbs is -1"),
    ],
)
def test_impossible_arguments_are_named_all_at_once(arguments, words):
    with pytest.raises(ConfigError, match=words):
        fresh(**arguments)


@pytest.mark.parametrize(
    ("video", "words"),
    [
        (torch.zeros(1, 3, 6, 32, 32), r"\(1, 3, 6, 32, 32\).*built for all_frames=8 of 32x32"),
        (torch.zeros(1, 3, 8, 40, 32), "built for all_frames=8 of 32x32"),
        (torch.zeros(3, 8, 32, 32), "five dimensions"),
        (torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8), "uint8.*normalise"),
    ],
)
def test_impossible_video_is_named(video, words):
    with pytest.raises(DustError, match=words):
        tiny()(video)


def test_from_config_takes_everything_from_where_people_write_it():
    node = SimpleNamespace(
        PATCH_SIZE=8, TUBELET_SIZE=2, EMBED_DIM=48, DEPTH=2, NUM_HEADS=3, MLP_RATIO=2.0, QKV_BIAS=False, DOWN_RATIO=4,
        COMPOSITION=True, NUM_VERBS=3, NUM_NOUNS=5, HEAD_DROP_RATE=0.1, DROP_PATH_RATE=0.2, INIT_SCALE=0.0,
        SPATIAL_FROM="a", TEMPORAL_FROM="b.pth", TRUNK_FROM="", FREEZE=False, INIT_STD=0.1,
    )  # fmt: skip
    cfg = SimpleNamespace(
        CAST=node,
        DATA=SimpleNamespace(TRAIN_CROP_SIZE=40, NUM_FRAMES=12, INPUT_CHANNEL_NUM=[3]),
        MODEL=SimpleNamespace(NUM_CLASSES=5, ACT_CHECKPOINT=True),
        TSTL=SimpleNamespace(TRIPLET_WEIGHT=0.0),
    )
    model = CAST(**CAST.from_config(cfg))
    assert model.init_from == {"spatial": ("CAST.SPATIAL_FROM", "a"), "temporal": ("CAST.TEMPORAL_FROM", "b.pth")}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.1, rel=0.1)
    assert model.clip_shape == (3, 12, 40, 40) and model.act_checkpoint
    block = model.blocks[1]
    assert block.t2s_cross.clip_time_pos.shape == (6, 12) and block.s2t_cross.clip_space_pos.shape == (25, 12)
    assert block.attn.num_heads == 3 and block.attn.q_bias is None and block.mlp.fc1.out_features == 96
    assert (model.head_verb.out_features, model.head_noun.out_features) == (3, 5) and not model.head_verb.weight.any()
    assert (model.head_dropout.p, block.drop_path.rate) == (0.1, 0.2)
