"""V-JEPA 2 and 2.1 against the authors' and Hugging Face's numbers (vjepa2_*), and by laws."""

import json

import pytest
import torch
from safetensors.torch import save_file

from dust.config import get_cfg, with_values
from dust.models import build_model
from dust.models.vjepa2 import HIERARCHY, VJEPA2, rotary_tables, rotate
from dust.models.vjepa2_weights import check_probe
from dust.utils.checkpoint import load_weights
from dust.utils.errors import CheckpointError, ConfigError, DustError
from tests.helpers import golden_tensors, part, randomised

TINY = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "probe_heads": 4, "num_classes": 7}


def tiny(**arguments):
    torch.manual_seed(0)
    return randomised(VJEPA2(**{**TINY, **arguments})).eval()


# ------------------------------------------------------------------------------------------- golden numbers


def of_hugging_face(args):
    """The arguments of its configuration, as ours."""
    heads = args["num_attention_heads"]
    sizes = {"embed_dim": args["hidden_size"], "depth": args["num_hidden_layers"], "num_heads": heads}
    probe = {"probe_depth": args["num_pooler_layers"] + 1, "probe_heads": heads, "probe_eps": args["layer_norm_eps"]}
    more = {name: args[name] for name in ("patch_size", "tubelet_size", "mlp_ratio")}
    return {**sizes, **probe, **more, "norm_eps": args["layer_norm_eps"], "num_classes": args["num_labels"]}


def of_authors(encoder, probe=None):
    """The arguments of the authors' encoder (2.0 or 2.1) and probe, as ours."""
    names = ("patch_size", "tubelet_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "norm_eps")
    ours = {name: encoder[name] for name in names if name in encoder}
    version = "2.1" if encoder.get("modality_embedding") else "2.0"
    if probe is None:
        return {**ours, "version": version, "probe_heads": encoder["num_heads"], "num_classes": 0}
    return {
        **ours, "version": version, "probe_depth": probe["depth"], "probe_heads": probe["num_heads"],
        "num_classes": probe["num_classes"],
    }  # fmt: skip


def check_outputs(model, video, tensors):
    tokens = model.forward_features(video)
    found = {"encoder": tokens, "pooled": model.forward_head(tokens, pre_logits=True), "logits": model(video)}
    for name, value in found.items():
        torch.testing.assert_close(value, tensors[f"output.{name}"], atol=1e-4, rtol=1e-4)
    model, video = model.double(), video.double()
    torch.testing.assert_close(model.forward_features(video), tensors["output64.encoder"], atol=1e-9, rtol=1e-9)


def cross_entropy_gradients(model, video, facts):
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(video), torch.tensor(facts["gradient"]["labels"]))
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("case", ["vjepa2_hf_a", "vjepa2_hf_b"])
def test_golden_of_hugging_face(case):
    facts, tensors = golden_tensors(case)
    model = VJEPA2(**of_hugging_face(facts["args"])).eval()
    report = load_weights(model, part(tensors, "weight"))
    assert report.complete and not report.unexpected
    check_outputs(model, tensors["input"].transpose(1, 2), tensors)


def test_golden_of_the_authors_with_an_oblong_picture():
    facts, tensors = golden_tensors("vjepa2_orig_rect")
    model = VJEPA2(**of_authors(facts["args"]["encoder"], facts["args"]["probe"])).eval()
    report = load_weights(model, part(tensors, "weight"))
    assert report.complete and not report.unexpected
    check_outputs(model, tensors["input"], tensors)


@pytest.mark.parametrize("case", ["vjepa2_orig_rect", "vjepa2_hf_a"])
def test_golden_gradients(case):
    facts, tensors = golden_tensors(case)
    ours = (
        of_hugging_face(facts["args"]) if "hf" in case else of_authors(facts["args"]["encoder"], facts["args"]["probe"])
    )
    model = VJEPA2(**ours).eval()
    load_weights(model, part(tensors, "weight"))
    video = tensors["input"].transpose(1, 2) if "hf" in case else tensors["input"]
    found = cross_entropy_gradients(model, video, facts)
    wanted = model.adapt_state_dict(part(tensors, "grad"), [])
    for name in [name for name in wanted if name.endswith("attn.key.weight")]:  # a third of a tensor of ours
        found[name] = found[name.replace("key", "qkv")].chunk(3)[1]
    assert wanted.keys() <= found.keys() and wanted
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-4 * float(value.abs().max()), rtol=1e-4)


def test_golden_of_2_1():
    facts, tensors = golden_tensors("vjepa2_v21_a")
    model = VJEPA2(**of_authors(facts["args"])).eval()
    report = load_weights(model.encoder, part(tensors, "weight"))
    assert report.complete and not report.unexpected
    for given, wanted in (("input", "video"), ("input_image", "image"), ("input_small", "small")):
        torch.testing.assert_close(model.encoder(tensors[given]), tensors[f"output.{wanted}"], atol=1e-4, rtol=1e-4)
    layers = model.encoder.layers(tensors["input"], HIERARCHY[12])
    torch.testing.assert_close(torch.stack(layers), tensors["output.video_out_layers"], atol=1e-4, rtol=1e-4)
    joined = torch.cat(layers, dim=-1)
    torch.testing.assert_close(joined, tensors["output.video_hierarchical"], atol=1e-4, rtol=1e-4)
    side_by_side = VJEPA2(**of_authors(facts["args"]), out_layers=[2, 11]).eval()
    load_weights(side_by_side.encoder, part(tensors, "weight"))
    assert torch.equal(side_by_side.encoder(tensors["input"]), torch.cat([layers[0], layers[3]], dim=1))
    exact = model.double().encoder(tensors["input"].double())
    torch.testing.assert_close(exact, tensors["output64.video"], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("sizes", "encoder"),
    [
        ({}, 303_885_312),
        ({"embed_dim": 1280, "depth": 32}, 631_648_000),
        ({"embed_dim": 1408, "depth": 40, "num_heads": 22, "mlp_ratio": 48 / 11}, 1_012_173_952),
        ({"version": "2.1", "embed_dim": 768, "depth": 12, "num_heads": 12}, 86_833_152),
        ({"version": "2.1"}, 304_680_960),
        ({"version": "2.1", "embed_dim": 1664, "depth": 48, "num_heads": 26, "mlp_ratio": 64 / 13}, 1_845_216_768),
    ],
)
def test_published_sizes(sizes, encoder):
    with torch.device("meta"):
        model = VJEPA2(**sizes, num_classes=174)
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == encoder
    if not sizes:
        probe = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("encoder."))
        assert probe == pytest.approx(49.5e6, rel=2e-3)


# --------------------------------------------------------------------------------------------------- laws


def test_tables_by_a_slow_loop():
    """Channel by channel, as the published formulas have it."""
    for version in ("2.0", "2.1"):
        cosine, _ = rotary_tables((2, 3, 4), 22, version)
        for number in range(24):
            t, h, w = number // 12, number % 12 // 4, number % 4
            places = [t, h, w] if version == "2.0" else [t, h * 15 / 2, w * 15 / 3]
            for channel in range(22):
                axis, j = divmod(channel, 6)
                wanted = 1.0
                if axis < 3:
                    speed = 10000 ** (-(j % 3 if version == "2.0" else j // 2) / 3)
                    wanted = torch.tensor(places[axis] * speed, dtype=torch.float64).cos().item()
                assert cosine[number, channel].item() == pytest.approx(wanted, abs=1e-12)


def test_2_1_turns_pairs_and_so_sees_distances_only():
    x, y = torch.randn(2, 1, 1, 1, 24, dtype=torch.float64)
    cosine, sine = rotary_tables((6, 1, 1), 24, "2.1")

    def product(first, second):
        tables = [(cosine[i : i + 1], sine[i : i + 1]) for i in (first, second)]
        return (rotate(x, tables[0]) * rotate(y, tables[1])).sum()

    torch.testing.assert_close(product(1, 3), product(3, 5))
    assert not torch.isclose(product(1, 3), product(1, 4))


def test_a_grid_of_one_row_has_positions():
    assert all(table.isfinite().all() for table in rotary_tables((1, 1, 1), 24, "2.1"))


def test_an_image_is_a_video_that_stands_still_in_2_0():
    model, image = tiny(), torch.randn(2, 3, 1, 16, 16)
    assert torch.equal(model(image), model(image.expand(-1, -1, 2, -1, -1)))


def test_clips_are_joined_before_the_pooler():
    model, clips = tiny(num_clips=2), torch.randn(2, 3, 8, 16, 16)
    tokens = [model.encoder(half) for half in clips.chunk(2, dim=2)]
    torch.testing.assert_close(model(clips), model.forward_head(torch.cat(tokens, dim=1)))
    with pytest.raises(DustError, match="S = 2"):
        model(clips[:, :, :7])


def test_several_questions_have_a_query_and_a_classifier_each():
    model = tiny(num_classes={"verb": 5, "noun": 3})
    tokens = model.forward_features(torch.randn(2, 3, 4, 16, 16))
    features = model.forward_head(tokens, pre_logits=True)
    assert {name: tuple(value.shape) for name, value in features.items()} == {"verb": (2, 32), "noun": (2, 32)}
    logits = model.forward_head(tokens)
    for number, name in enumerate(("verb", "noun")):
        alone = tiny(num_classes=len(logits[name][0]))
        alone.load_state_dict({
            **{key: value for key, value in model.state_dict().items() if not key.startswith("head.")},
            "pooler.query_tokens": model.pooler.query_tokens[:, number : number + 1],
            **{f"head.{key}": value for key, value in model.head[name].state_dict().items()},
        })  # fmt: skip
        torch.testing.assert_close(alone.forward_head(tokens), logits[name])
    model.reset_classifier({"verb": 2, "noun": 2})
    assert model.get_classifier()["noun"].out_features == 2 and model.num_classes == {"verb": 2, "noun": 2}
    with pytest.raises(ConfigError, match="built for 2 questions, num_classes 7 is of 1"):
        model.reset_classifier(7)


def test_epic_kitchens_by_a_configuration():
    sizes = {"PATCH_SIZE": 8, "EMBED_DIM": 32, "DEPTH": 1, "NUM_HEADS": 2, "PROBE_HEADS": 4, "PROBE_DEPTH": 1}
    values = {f"VJEPA2.{key}": value for key, value in sizes.items()} | {
        "MODEL.MODEL_NAME": "VJEPA2",
        "TASK": "VerbNoun",
    }
    model = build_model(with_values(get_cfg(), {**values, "CAST.NUM_VERBS": 4, "CAST.NUM_NOUNS": 6}))
    assert {name: value.shape[1] for name, value in model(torch.randn(1, 3, 4, 16, 16)).items()} == {
        "verb": 4,
        "noun": 6,
    }


def test_frozen_blocks_get_no_gradient_and_keep_their_numbers():
    for blocks, learns in ((0, "pooler"), (1, r"encoder.blocks.2"), (-1, "encoder.patch_embed")):
        torch.manual_seed(0)
        model = VJEPA2(**TINY, train_blocks=blocks, drop_path_rate=0.5).train()
        assert [block.training for block in model.encoder.blocks] == [i >= 3 - blocks or blocks < 0 for i in range(3)]
        model(torch.randn(2, 3, 4, 16, 16)).sum().backward()
        with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
        assert with_gradient == {name for name, p in model.named_parameters() if p.requires_grad}
        assert any(name.startswith(learns) for name in with_gradient)
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        assert bool(frozen) == (blocks >= 0) and not any(name.startswith(("pooler", "head")) for name in frozen)


# ------------------------------------------------------------------------------------------------- weights


def test_encoder_and_probe_from_two_files(tmp_path):
    """The authors' encoder has module.backbone. before its names, their probe module.; both have their own file."""
    source = tiny()
    encoder = {f"module.backbone.{key}": value for key, value in source.encoder.state_dict().items()}
    encoder["module.backbone.pos_embed"] = torch.zeros(1, 4, 32)
    probe = {f"module.pooler.{key}": value for key, value in source.pooler.state_dict().items()}
    probe |= {f"module.linear.{key}": value for key, value in source.head.state_dict().items()}
    save_file(encoder, tmp_path / "encoder.safetensors")
    save_file(probe, tmp_path / "probe.safetensors")
    files = {"encoder_from": str(tmp_path / "encoder.safetensors"), "probe_from": str(tmp_path / "probe.safetensors")}
    model = VJEPA2(**TINY, **files).eval()
    assert set(model.init_from) == {"encoder", "probe"}
    model.load_parts({name: path for name, (_, path) in model.init_from.items()})
    video = torch.randn(1, 3, 4, 16, 16)
    assert torch.equal(model(video), source(video))


def authors_files(folder, source, averages="target_encoder"):
    """An encoder's and a probe's file as the authors' training and evaluation write them."""
    average = {f"module.backbone.{key}": value for key, value in source.encoder.state_dict().items()}
    raw = {key: value + 1 for key, value in average.items()}
    rest = {"predictor": {"module.backbone.x": torch.ones(3)}, "opt": {"state": {}, "param_groups": []}, "scaler": None}
    torch.save({"encoder": raw, averages: average, **rest, "epoch": 7, "lr": 1e-3}, folder / "vitl.pt")
    probe = {f"module.pooler.{key}": value for key, value in source.pooler.state_dict().items()}
    probe |= {f"module.linear.{key}": value for key, value in source.head.state_dict().items()}
    worse = {key: value + 1 for key, value in probe.items()}
    torch.save({"classifiers": [probe, worse], "opt": None, "epoch": 20, "batch_size": 4}, folder / "ssv2-vitl.pt")
    return {"encoder": folder / "vitl.pt", "probe": folder / "ssv2-vitl.pt"}


@pytest.mark.parametrize("averages", ["target_encoder", "ema_encoder"])
def test_files_as_the_authors_write_them(tmp_path, averages, caplog):
    source, video = tiny(), torch.randn(1, 3, 4, 16, 16)
    files = authors_files(tmp_path, source, averages)
    model = VJEPA2(**TINY, encoder_from="e", probe_from="p").eval()
    with caplog.at_level("INFO", logger="dust"):
        model.load_parts(files)
    assert torch.equal(model(video), source(video))
    tensors, of_probe = len(source.encoder.state_dict()), len(source.pooler.state_dict()) + 2
    assert f"{tensors} of the model's {tensors} tensors fit" in caplog.text
    assert f"{of_probe} of the model's {of_probe} tensors fit" in caplog.text and "the first of 2" in caplog.text
    raw = VJEPA2(**TINY).eval()
    report = load_weights(raw.encoder, files["encoder"], weights="raw", strict=True)
    assert torch.equal(raw.encoder.norm.weight, source.encoder.norm.weight + 1)
    assert any("1 tensors of the predictor" in note for note in report.notes)
    whole = load_weights(raw, files["encoder"])  # MODEL.PRETRAINED
    assert whole.absent_from_body and all(key.startswith("pooler.") for key in whole.absent_from_body)
    assert torch.equal(raw.encoder(video), source.encoder(video))


def test_another_classifier_of_a_published_probe(tmp_path):
    files = authors_files(tmp_path, tiny())
    first, second = (VJEPA2(**TINY, probe_from="p", probe_number=number) for number in (0, 1))
    for model in (first, second):
        model.load_parts({"probe": files["probe"]})
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        if name.startswith(("pooler.", "head.")):
            assert torch.equal(one + 1, other), name
    with pytest.raises(CheckpointError, match=r"ssv2-vitl\.pt: holds no classifier 2: it lists 2, 0 to 1"):
        VJEPA2(**TINY, probe_from="p", probe_number=2).load_parts({"probe": files["probe"]})
    with pytest.raises(CheckpointError, match="no classifier 1: it has no list of them"):
        VJEPA2(**TINY, probe_from="p", probe_number=1).load_parts({"probe": files["encoder"]})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"probe_heads": 1}, r"Hugging Face's layout, which has as many heads as the encoder: set VJEPA2.PROBE_HEADS"),
        ({"probe_eps": 1e-5}, r"norms with an epsilon of 1e-06: set VJEPA2.PROBE_EPS 1e-06, it is 1e-05"),
        ({"probe_heads": 1, "probe_eps": 1e-5}, r"PROBE_HEADS \d+, it is 1 and norms .* VJEPA2.PROBE_EPS 1e-06"),
    ],
)
def test_probes_of_hugging_face_have_their_heads_and_epsilon(tmp_path, change, says):
    facts, tensors = golden_tensors("vjepa2_hf_a")
    arguments = of_hugging_face(facts["args"])
    save_file(part(tensors, "weight"), tmp_path / "probe.safetensors")
    for model in (VJEPA2(**{**arguments, **change}), VJEPA2(**{**arguments, **change}, probe_from="p")):
        with pytest.raises(CheckpointError, match=says):
            if model.init_from:
                model.load_parts({"probe": tmp_path / "probe.safetensors"})
            else:
                load_weights(model, tmp_path / "probe.safetensors")
    load_weights(VJEPA2(**{**arguments, **change}).encoder, tmp_path / "probe.safetensors")  # is the same for all


def test_the_authors_probes_have_torchs_epsilon(tmp_path):
    files = authors_files(tmp_path, tiny())
    with pytest.raises(CheckpointError, match="the authors' layout, .*set VJEPA2.PROBE_EPS 1e-05, it is 1e-06"):
        VJEPA2(**TINY, probe_eps=1e-6, probe_from="p").load_parts({"probe": files["probe"]})


def test_the_published_probes_of_g_keep_the_authors_heads():
    model = VJEPA2(**{**TINY, "embed_dim": 352, "num_heads": 22, "probe_heads": 16, "depth": 1}, probe_depth=1)
    notes = []
    check_probe(
        {"pooler.cross_attention_layer.layer_norm1.weight": torch.ones(352)}, notes, model.encoder, model.pooler
    )
    assert "pooler with 16 heads, as the authors trained" in notes[0]


def test_a_folder_whose_configuration_has_other_heads(tmp_path):
    facts, tensors = golden_tensors("vjepa2_hf_a")
    arguments = of_hugging_face(facts["args"])
    save_file(part(tensors, "weight"), tmp_path / "model.safetensors")
    config = {"num_attention_heads": arguments["num_heads"], "hidden_act": "gelu", "layer_norm_eps": 1e-6}
    for heads, act in ((arguments["num_heads"], "gelu"), (1, "gelu"), (arguments["num_heads"], "gelu_new")):
        (tmp_path / "config.json").write_text(json.dumps({**config, "num_attention_heads": heads, "hidden_act": act}))
        for model in (VJEPA2(**arguments), VJEPA2(**arguments).encoder):
            if (heads, act) == (arguments["num_heads"], "gelu"):
                assert load_weights(model, tmp_path).complete
                continue
            with pytest.raises(CheckpointError, match="num_heads 1 in its|activation gelu_tanh in its configuration"):
                load_weights(model, tmp_path)


@pytest.mark.parametrize(
    ("part_of", "lost", "key"),
    [
        ("probe", "module.pooler.query_tokens", "VJEPA2.PROBE_FROM"),
        ("probe", "module.pooler.cross_attention_block.norm1.weight", "VJEPA2.PROBE_FROM"),
        ("encoder", "module.backbone.norm.weight", "VJEPA2.ENCODER_FROM"),
        ("encoder", "module.backbone.patch_embed.proj.bias", "VJEPA2.ENCODER_FROM"),
    ],
)
def test_a_part_that_is_not_whole_is_an_error(tmp_path, part_of, lost, key):
    files = authors_files(tmp_path, tiny())
    saved = torch.load(files[part_of], weights_only=True)
    del (saved["classifiers"][0] if part_of == "probe" else saved["target_encoder"])[lost]
    torch.save(saved, files[part_of])
    model = VJEPA2(**TINY, encoder_from="e", probe_from="p")
    with pytest.raises(CheckpointError, match=f"{key} .*: it does not fit the model's {part_of} whole"):
        model.load_parts(files)


def test_a_probe_for_other_classes_leaves_a_head_to_be_trained(tmp_path):
    files = authors_files(tmp_path, tiny())
    model = VJEPA2(**{**TINY, "num_classes": 3}, encoder_from="e", probe_from="p")
    assert model.assembled_from_parts
    model.load_parts(files)
    assert not model.assembled_from_parts


def test_the_authors_encoder_and_probe_make_up_a_model_that_can_be_tested():
    assert not VJEPA2(**TINY, encoder_from="e").assembled_from_parts
    assert VJEPA2(**TINY, encoder_from="e", probe_from="p").assembled_from_parts


def test_the_other_version_is_refused_by_name():
    old = {"patch_size": 16, "embed_dim": 24, "depth": 12, "num_heads": 2, "probe_heads": 2, "mlp_ratio": 1.0}
    first, second = VJEPA2(**old, num_classes=2), VJEPA2(**old, num_classes=2, version="2.1")
    with pytest.raises(CheckpointError, match=r"of V-JEPA 2\.0, the model is of 2\.1.*VJEPA2\.VERSION 2\.0"):
        load_weights(second, first.state_dict())
    with pytest.raises(CheckpointError, match=r"of V-JEPA 2\.1, the model is of 2\.0"):
        load_weights(first.encoder, second.encoder.state_dict())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"depth": 4}, r"than the model's, DEPTH 3: set VJEPA2\.DEPTH 4, or"),
        ({"embed_dim": 64}, r"set VJEPA2\.EMBED_DIM 64, or"),
        ({"patch_size": 4, "tubelet_size": 1}, r"set VJEPA2\.TUBELET_SIZE 1 VJEPA2\.PATCH_SIZE 4, or"),
        ({"mlp_ratio": 3.0}, r"MLP_RATIO 4\.0: set VJEPA2\.MLP_RATIO 3\.0, or"),
        ({"embed_dim": 768, "depth": 1}, r"set VJEPA2\.DEPTH 1 VJEPA2\.EMBED_DIM 768 VJEPA2\.NUM_HEADS 12, or"),
    ],
)
def test_an_encoder_of_another_size_says_which_keys_it_needs(arguments, says):
    file, model = VJEPA2(**{**TINY, **arguments}), VJEPA2(**TINY)
    for own, its in ((model, file), (model.encoder, file.encoder)):
        with pytest.raises(CheckpointError, match=says):
            load_weights(own, its.state_dict())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"version": "3"}, "version is '3'"),
        ({"version": "2.1", "depth": 3}, "depth is 3, V-JEPA 2.1 has 12, 24"),
        ({"version": "2.1", "depth": 12, "patch_size": 8}, "patch_size is 8"),
        ({"version": "2.1", "depth": 12, "patch_size": 16, "out_layers": [3]}, "others have no norm"),
        ({"out_layers": [3]}, "block 3, there are 3"),
        ({"num_heads": 32}, "it must be even"),
        ({"num_heads": 3}, "not a multiple of num_heads 3"),
        ({"probe_heads": 5}, "not a multiple of probe_heads 5"),
        ({"train_blocks": 4}, "train_blocks is 4"),
        ({"num_clips": 0}, "num_clips is 0"),
    ],
)
def test_arguments_that_cannot_be(arguments, says):
    with pytest.raises(ConfigError, match=says):
        VJEPA2(**{**TINY, **arguments})


def test_videos_that_cannot_be():
    model = tiny()
    for shape, says in (
        ((1, 3, 3, 16, 16), "tubelet_size=2"),
        ((1, 3, 4, 12, 16), "patch_size=8"),
        ((1, 1, 4, 16, 16), "in_chans"),
    ):
        with pytest.raises(DustError, match=says):
            model(torch.randn(shape))


def test_built_by_a_configuration():
    sizes = {"PATCH_SIZE": 8, "EMBED_DIM": 32, "DEPTH": 2, "NUM_HEADS": 2, "PROBE_HEADS": 4, "PROBE_DEPTH": 2}
    values = {f"VJEPA2.{key}": value for key, value in sizes.items()}
    model = build_model(with_values(get_cfg(), {**values, "MODEL.MODEL_NAME": "VJEPA2", "MODEL.NUM_CLASSES": 5}))
    assert model(torch.randn(1, 3, 4, 16, 24)).shape == (1, 5) and len(model.pooler.blocks) == 1
