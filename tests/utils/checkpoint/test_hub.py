"""Folders of Hugging Face's: whole or in parts, by the folder's name wherever weights may be named."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dust.cli.zoo import main as zoo
from dust.engine.weights import load_parts, weights_file
from dust.models.clip_vit import CLIPVisual
from dust.models.timesformer import TimeSformer
from dust.models.videomae_vit import VideoMAE
from dust.utils.checkpoint import file_sha256, load_checkpoint, load_weights, read_checkpoint, verify_checkpoint
from dust.utils.checkpoint.hub import folder_constants
from dust.utils.errors import CheckpointError, DustError

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 7}
CLIP = {"input_resolution": 32, "patch_size": 8, "width": 48, "layers": 2, "heads": 4, "output_dim": 20}


def state_of(seed=0):
    torch.manual_seed(seed)
    return {f"body.{number}.weight": torch.randn(3, 4) for number in range(5)}


def write_parts(folder, state, suffix=".safetensors", parts=3, **options):
    """As ``save_pretrained`` does; returns the index."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    table = {}
    for part in range(parts):
        name = f"{stem}-{part + 1:05d}-of-{parts:05d}{suffix}"
        of_it = dict(list(state.items())[part::parts])
        save_file(of_it, folder / name) if suffix == ".safetensors" else torch.save(of_it, folder / name)
        table |= dict.fromkeys(of_it, name)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table, **options}))
    return index


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.ModuleList(nn.Linear(4, 3, bias=False) for _ in range(5))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_folder_of_parts(tmp_path, suffix, parts):
    state, folder = state_of(), tmp_path / "repo"
    write_parts(folder, state, suffix, parts)
    for read in (read_checkpoint, load_checkpoint):
        found = read(folder)
        assert set(found) == set(state) and all(torch.equal(found[key], state[key]) for key in state)
    assert load_weights(Net(), folder, strict=True).complete
    assert verify_checkpoint(folder) == "foreign" and len(file_sha256(folder)) == 64


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin"])
def test_a_folder_of_one_file_and_safetensors_first(tmp_path, name):
    state = state_of()
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(state, tmp_path / name)
    load_weights(Net(), tmp_path, strict=True)
    before = file_sha256(tmp_path)
    save_file(state_of(1), tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert torch.equal(read_checkpoint(tmp_path)["body.0.weight"], state_of(1)["body.0.weight"])
    assert file_sha256(tmp_path) != before


def test_by_name_beside_the_run_or_as_a_path_for_every_key_that_names_weights(tmp_path, monkeypatch):
    write_parts(tmp_path / "runs" / "repo", state_of())
    model = nn.Module()
    model.part, model.init_from = Net(), {"part": ("CAST.SPATIAL_FROM", "repo")}
    load_parts(model, tmp_path / "runs" / "mine")
    assert torch.equal(model.part.body[4].weight, state_of()["body.4.weight"])
    monkeypatch.chdir(tmp_path)
    assert weights_file("runs/repo", tmp_path / "elsewhere" / "mine", "MODEL.PRETRAINED").endswith("runs/repo")
    (tmp_path / "runs" / "repo" / "checkpoints").mkdir()  # a stage that keeps such a folder's files is still a stage
    with pytest.raises(CheckpointError, match="holds no finished epoch"):
        weights_file("runs/repo", tmp_path / "elsewhere" / "mine")


def test_zoo_convert_joins_the_parts(tmp_path, capsys):
    write_parts(tmp_path / "repo", state_of(), ".bin")
    assert zoo(["convert", str(tmp_path / "repo"), "--out", str(tmp_path / "one.safetensors")]) == 0
    assert "5 tensors" in capsys.readouterr().out
    assert load_weights(Net(), tmp_path / "one.safetensors", strict=True).complete


# ------------------------------------------------------------------------------------------------------- damage


def spoil_map(index, change):
    content = json.loads(index.read_text())
    content["weight_map"] |= change
    index.write_text(json.dumps(content))


SPOILED = {
    "a part is gone": (lambda index: next(index.parent.glob("*-00002-*")).unlink(), "00002.*is not there"),
    "outside": (lambda index: spoil_map(index, {"body.0.weight": "../secret.safetensors"}), "not a file beside it"),
    "absolute": (lambda index: spoil_map(index, {"body.0.weight": "/etc/passwd"}), "not a file beside it"),
    "a tensor that no part holds": (
        lambda index: spoil_map(index, {"body.9.weight": "model-00001-of-00003.safetensors"}), "no part holds body.9",
    ),
    "twice": (
        lambda index: save_file(state_of(), index.parent / "model-00003-of-00003.safetensors"), "stands in another",
    ),
    "cut": (lambda index: index.write_text(index.read_text()[:40]), "cannot be read as json"),
    "deep": (lambda index: index.write_text("[" * 100_000), "cannot be read as json"),
    "a list": (lambda index: index.write_text("[1]"), "holds a list"),
    "no map": (lambda index: index.write_text('{"weight_map": {}}'), "no weight_map"),
    "another kind": (lambda index: index.write_text('{"weight_map": {"a": 1}}'), "no weight_map"),
    "a pipe": (lambda index: (index.unlink(), os.mkfifo(index)), "is no file"),
    "a damaged part": (
        lambda index: (index.parent / "model-00001-of-00003.safetensors").write_bytes(b"PK\x03\x04"), "truncated",
    ),
    "a configuration that is none": (lambda index: (index.parent / "config.json").write_text("{"), "config.json"),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILED)
def test_what_is_wrong_with_a_folder_is_named(tmp_path, how):
    change, words = SPOILED[how]
    change(write_parts(tmp_path / "repo", state_of()))
    with pytest.raises(CheckpointError, match=words):
        load_weights(Net(), tmp_path / "repo")


# ---------------------------------------------------------------------------------- what only the configuration shows


@pytest.mark.parametrize(
    ("file", "config", "constants"),
    [
        ("config.json", {"hidden_act": "gelu", "num_attention_heads": 12, "layer_norm_eps": 1e-6, "x": 1},
         {"activation": "gelu", "num_heads": 12, "norm_eps": 1e-6}),
        ("config.json", {"hidden_act": "gelu_new", "use_mean_pooling": False},
         {"activation": "gelu_tanh", "pooling": "token"}),
        ("config.json", {"hidden_act": "gelu", "vision_config": {"hidden_act": "quick_gelu"}},
         {"activation": "quick_gelu"}),
        ("config.json", {"architecture": "vit", "model_args": {"act_layer": "quick_gelu", "global_pool": "avg"}},
         {"activation": "quick_gelu", "pooling": "mean"}),
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {"pool_type": "avg"}}},
         {"activation": "gelu", "pooling": "mean"}),
        ("open_clip_config.json", {"model_cfg": {"quick_gelu": True, "vision_cfg": {}}},
         {"activation": "quick_gelu", "pooling": "token"}),
        ("config.json", {}, {}),
    ],
)  # fmt: skip
def test_constants_of_every_kind_of_configuration(tmp_path, file, config, constants):
    (tmp_path / file).write_text(json.dumps(config))
    assert folder_constants(tmp_path) == constants


MODELS = {
    "TimeSformer": TimeSformer(**VIT, num_frames=4),
    "VideoMAE": VideoMAE(**VIT, all_frames=4),
    "VideoMAE token": VideoMAE(**VIT, all_frames=4, use_mean_pooling=False),
    "CLIPVisual": CLIPVisual(**CLIP),
    "CLIPVisual gelu": CLIPVisual(**CLIP, activation="gelu"),
}
CONFIGS = [
    ("TimeSformer", {"hidden_act": "gelu", "num_attention_heads": 4, "layer_norm_eps": 1e-6}, ""),
    ("TimeSformer", {"hidden_act": "quick_gelu"}, "activation quick_gelu in its configuration, gelu in the model"),
    ("TimeSformer", {"num_attention_heads": 6, "hidden_act": "relu"}, "relu.*; num_heads 6.*, 4 in the model"),
    ("TimeSformer", {"model_args": {"global_pool": "avg"}}, "pooling mean"),
    ("VideoMAE", {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "use_mean_pooling": True}, ""),
    ("VideoMAE", {"use_mean_pooling": False}, "pooling token"),
    ("VideoMAE token", {"use_mean_pooling": True}, "pooling mean"),
    ("CLIPVisual", {"hidden_act": "quick_gelu"}, ""),
    ("CLIPVisual", {"hidden_act": "gelu"}, "activation gelu in its configuration, quick_gelu in the model"),
    ("CLIPVisual gelu", {"hidden_act": "gelu"}, ""),
    ("CLIPVisual gelu", {"vision_config": {"hidden_act": "quick_gelu"}}, "activation quick_gelu"),
]


@pytest.mark.parametrize(("name", "config", "words"), CONFIGS)
def test_a_folders_model_must_compute_what_ours_does(tmp_path, name, config, words):
    model = MODELS[name]
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    if not words:
        assert load_weights(model, tmp_path, strict=True).complete
        return
    with pytest.raises(DustError, match=words):
        load_weights(model, tmp_path)


def test_another_epsilon_is_a_note(tmp_path):
    save_file(MODELS["CLIPVisual"].state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"layer_norm_eps": 1e-6}')
    report = load_weights(MODELS["CLIPVisual"], tmp_path)
    assert "norm_eps 1e-06 in its configuration, 1e-05 in the model" in report.notes
