"""CLIP that reads the names of classes: open_clip's numbers (clip_text_openclip_*), a test, a prediction."""

import dataclasses
import json
import shutil

import pytest
import torch

import dust
from dust import zoo
from dust.cli.main import main
from dust.models import clip_text
from dust.models.clip_zero_shot import CLIPZeroShot
from dust.utils.checkpoint import load_weights
from dust.utils.errors import CheckpointError, ConfigError, DustError
from tests.datasets.clip_files import write_clip
from tests.helpers import ALL_GOLDEN, DATA, csv_dicts, golden_tensors, part
from tests.models.small_models import ZERO_SHOT, make
from tests.models.test_clip_text import text_arguments

CASES = {path.stem for folder in (DATA, ALL_GOLDEN) for path in folder.glob("clip_text_openclip_*.safetensors")}
RULES = {
    "logits": "logits_mean_of_normalised",
    "renormalised": "logits_renormalised_mean",
    "raw": "logits_normalised_raw_mean",
    "probs": "probs_mean_of_frame_softmax",
}


def whole_clip(facts, average):
    """The model of a reference's arguments."""
    args, vision = facts["args"], facts["args"]["vision_cfg"]
    text = text_arguments(facts)
    visual = {
        "input_resolution": vision["image_size"], "patch_size": vision["patch_size"], "width": vision["width"],
        "layers": vision["layers"], "heads": vision["width"] // vision.get("head_width", 64),
        "output_dim": args["embed_dim"], "activation": text["activation"],
    }  # fmt: skip
    return CLIPZeroShot(average=average, visual=visual, text=text).eval()


@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize("average", RULES)
def test_golden(case, average):
    facts, tensors = golden_tensors(case)
    near = {"atol": facts["suggested_atol"], "rtol": facts["suggested_rtol"]}
    model = whole_clip(facts, average)
    report = load_weights(model, part(tensors, "weight"), strict=True)
    assert report.complete and len(report.loaded) == facts["n_tensors"]
    video = tensors["input_frames"].transpose(1, 2)
    torch.testing.assert_close(model.forward_features(video), tensors["output.frames"], **near)
    text = model.text(tensors["input_ids"])
    torch.testing.assert_close(text, tensors["output.text"], **near)
    model.class_embeddings = torch.nn.functional.normalize(text, dim=-1).detach()
    logits = model(video)
    torch.testing.assert_close(
        logits.exp() if average == "probs" else logits, tensors[f"output.{RULES[average]}"], **near
    )

    model = model.double()
    model.class_embeddings = torch.nn.functional.normalize(model.text(tensors["input_ids"]), dim=-1)
    logits = model(video.double())
    found = logits.exp() if average == "probs" else logits
    largest = facts["output_max_abs"][RULES[average]]
    assert (found - tensors[f"output64.{RULES[average]}"]).abs().max() <= facts["suggested_atol_fp64"] * largest


# ------------------------------------------------------------------------------------------------ other files' weights


def hugging_face(state):
    """OpenAI's whole CLIP as transformers' CLIPModel has it."""
    renamed = {}
    for key, tensor in state.items():
        tower, rest = ("vision_model", key[7:]) if key.startswith("visual.") else ("text_model", key)
        if key == "logit_scale":
            renamed[key] = tensor
        elif rest in ("proj", "text_projection"):
            renamed["visual_projection.weight" if rest == "proj" else "text_projection.weight"] = tensor.T
        elif ".in_proj_" in rest:
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{tower}.{_hf(rest.replace('in_proj_', f'{letter}_proj.'))}"] = third
        else:
            renamed[f"{tower}.{_hf(rest)}"] = tensor
    renamed["text_model.embeddings.position_ids"] = torch.arange(4)[None]
    return renamed


def _hf(name):
    for ours, theirs in (
        ("transformer.resblocks.", "encoder.layers."), (".attn.", ".self_attn."), (".ln_", ".layer_norm"),
        ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"), ("ln_final", "final_layer_norm"),
        ("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm"), ("token_embedding", "embeddings.token_embedding"),
        ("positional_embedding", "embeddings.position_embedding.weight"),
        ("class_embedding", "embeddings.class_embedding"), ("conv1", "embeddings.patch_embedding"),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return name


def openai(model):
    """A model's tensors as OpenAI's file has them."""
    state = {key.removeprefix("text."): tensor for key, tensor in model.state_dict().items()}
    return {**state, "input_resolution": torch.tensor(32), "context_length": torch.tensor(12),
            "vocab_size": torch.tensor(49408)}  # fmt: skip


@pytest.mark.parametrize("layout", ["openai", "half", "hugging face", "text tower apart"])
def test_every_layout_gives_the_same_model(layout):
    model, other = make("CLIPZeroShot", ZERO_SHOT).eval(), CLIPZeroShot(**ZERO_SHOT).eval()
    state = openai(model)
    if layout == "half":
        state = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    elif layout == "hugging face":
        state = hugging_face({key: tensor for key, tensor in state.items() if tensor.is_floating_point()})
    elif layout == "text tower apart":
        state = model.state_dict()
    report = load_weights(other, state, strict=True)
    assert report.complete
    other.class_embeddings = model.class_embeddings
    video = torch.randn(2, 3, 4, 32, 32)
    exact = {} if layout != "half" else {"atol": 0.05, "rtol": 0.05}
    torch.testing.assert_close(other(video), model(video), **exact)


@pytest.mark.parametrize(
    ("without", "words"),
    [("text", "no text transformer"), ("visual", "no image transformer"), ("logit_scale", "no logit_scale")],
)
def test_half_a_clip_is_refused_by_what_it_lacks(without, words):
    state = {key: tensor for key, tensor in make("CLIPZeroShot", ZERO_SHOT).state_dict().items()
             if not key.startswith(without)}  # fmt: skip
    with pytest.raises(CheckpointError, match=words):
        load_weights(CLIPZeroShot(**ZERO_SHOT), state)


def test_a_siglip_is_refused():
    state = make("CLIPZeroShot", ZERO_SHOT).state_dict()
    with pytest.raises(CheckpointError, match="SigLIP"):
        load_weights(CLIPZeroShot(**ZERO_SHOT), {**state, "logit_bias": torch.zeros(())})


def test_what_cannot_be_is_said_at_once():
    wrong = {"average": "sum", "prompts": ["a video"], "text": {**ZERO_SHOT["text"], "output_dim": 8}}
    with pytest.raises(ConfigError, match=r"average is 'sum'.*'a video': must hold.*of 20 numbers and texts of 8"):
        CLIPZeroShot(**{**ZERO_SHOT, **wrong})
    model = CLIPZeroShot(**ZERO_SHOT)
    with pytest.raises(DustError, match="has no classes"):
        model(torch.zeros(1, 3, 1, 32, 32))


# ------------------------------------------------------------------------------------------------ a test, a prediction

SMALL_CLIP = {
    "MODEL.MODEL_NAME": "CLIPZeroShot", "MODEL.NUM_CLASSES": -1, "CLIP.PATCH_SIZE": 8, "CLIP.WIDTH": 48,
    "CLIP.LAYERS": 2,
    "CLIP.HEADS": 4, "CLIP.OUTPUT_DIM": 20, "CLIP.TEXT_WIDTH": 16, "CLIP.TEXT_LAYERS": 2, "CLIP.TEXT_HEADS": 2,
    "CLIP.CONTEXT_LENGTH": 12, "DATA.NUM_FRAMES": 2, "DATA.SAMPLING": "segments", "DATA.TRAIN_JITTER_SCALES": [32, 32],
    "DATA.TRAIN_CROP_SIZE": 32, "DATA.TEST_CROP_SIZE": 32, "TRAIN.ENABLE": False, "TEST.NUM_ENSEMBLE_VIEWS": 1,
    "TEST.NUM_SPATIAL_CROPS": 1, "DATA_LOADER.NUM_WORKERS": 0, "NUM_GPUS": 0,
}  # fmt: skip


@pytest.fixture
def letters(monkeypatch):
    """A tokenizer of letters in place of the extra's, so that these tests need none."""

    def tokenize(texts, length):
        rows = [[49406, *(ord(letter) for letter in text[: length - 2]), 49407] for text in texts]
        return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])

    monkeypatch.setattr(clip_text, "tokenize", tokenize)
    monkeypatch.setattr(clip_text, "find_spec", lambda name: True)


@pytest.fixture
def project(tmp_path, letters):
    """A YAML, weights and four clips of two named classes; the folder."""
    for number in range(4):
        write_clip(tmp_path / f"{number}.mp4", 8 + number, size=(40 + 2 * number, 48))
    rows = "".join(f"{number}.mp4,{'cut_it' if number % 2 else 'stir'}\n" for number in range(4))
    (tmp_path / "test.csv").write_text(rows)
    torch.save(openai(make("CLIPZeroShot", ZERO_SHOT)), tmp_path / "clip.pt")
    settings = {**SMALL_CLIP, "DATA.PATH_TO_DATA_DIR": str(tmp_path), "OUTPUT_DIR": str(tmp_path / "run"),
                "TEST.CHECKPOINT_FILE_PATH": str(tmp_path / "clip.pt"),
                "CLIP.PROMPTS": ZERO_SHOT["prompts"]}  # fmt: skip
    nested = {}
    for key, value in settings.items():
        section, _, leaf = key.rpartition(".")
        nested.setdefault(section, {})[leaf] = value
    text = json.dumps({**nested.pop("", {}), **nested})
    (tmp_path / "clip.yaml").write_text(text)
    return tmp_path


def test_a_test_has_results_like_any_other_and_a_prediction_is_it(project):
    assert main(["--cfg", str(project / "clip.yaml")]) == 0
    report = json.loads((project / "run" / "results" / "test.json").read_text())
    assert report["counts"]["samples"] == 4 and "top1_acc" in report["metrics"]
    tested = csv_dicts(project / "run" / "results" / "predictions.csv")
    assert set(tested[0]) == {"id", "path", "label", "prediction", "prob_cut_it", "prob_stir"}

    clips = [str(project / f"{number}.mp4") for number in range(4)]
    model = dust.load(project / "clip.pt", config=project / "clip.yaml", class_names=["cut_it", "stir"], device="cpu")
    for row, answer in zip(tested, model(clips), strict=True):
        assert answer.label == row["prediction"]
        for name, probability in answer.probabilities.items():
            assert probability == pytest.approx(float(row[f"prob_{name}"]), abs=1e-5)


def test_predict_takes_classes_from_words_and_from_a_file(project, capsys):
    (project / "names.txt").write_text("cutting bread\nstirring\n")
    words = ["predict", str(project / "clip.pt"), str(project / "0.mp4"), "--cfg", str(project / "clip.yaml")]
    tables = []
    for number, classes in enumerate((["cutting bread", "stirring"], [str(project / "names.txt")])):
        out = project / f"out{number}"
        assert main([*words, "-o", str(out), "--device", "cpu", "--classes", *classes]) == 0
        tables.append(csv_dicts(out / "predictions.csv"))
    assert tables[0] == tables[1] and {"prob_cutting bread", "prob_stirring"} < set(tables[0][0])
    capsys.readouterr()
    assert main(words) == 2
    assert "answers with the classes that it is given, and none are named" in capsys.readouterr().err
    assert main([*words, "--classes", "a b", "a b"]) == 2
    assert "named twice: a b" in capsys.readouterr().err


def test_weights_that_cannot_read_are_refused_by_name(project, capsys):
    words = [str(project / "0.mp4"), "--cfg", str(project / "clip.yaml"), "--classes", "cut", "stir", "jump"]
    state = torch.load(project / "clip.pt", weights_only=True)
    torch.save({key: tensor for key, tensor in state.items() if key.startswith("visual.")}, project / "images.pt")
    assert main(["predict", str(project / "images.pt"), *words]) == 2
    said = capsys.readouterr().err
    assert "images.pt" in said and "no text transformer" in said and "zoo://clip_vit_b16" in said


def test_it_learns_nothing(project, capsys):
    assert main(["--cfg", str(project / "clip.yaml"), "TRAIN.ENABLE", "True", "CLIP.PROMPTS", "['a', '{} {}']"]) == 2
    said = capsys.readouterr().err
    assert (
        "model CLIPZeroShot learns nothing" in said
        and "CLIP.PROMPTS 'a': must hold" in said
        and "CLIP.PROMPTS '{} {}': must hold" in said
    )


def test_numbered_classes_and_a_missing_tokenizer_are_said_before_the_run_begins(project, monkeypatch, capsys):
    rows = (project / "test.csv").read_text()
    (project / "test.csv").write_text("0.mp4,0\n1.mp4,1\n")
    assert main(["--cfg", str(project / "clip.yaml")]) == 2
    assert "say nothing to CLIP" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(clip_text, "find_spec", lambda name: None)
    (project / "test.csv").write_text(rows)
    assert main(["--cfg", str(project / "clip.yaml")]) == 2
    assert "dust-video[clip]" in capsys.readouterr().err
    assert not (project / "run").exists()


def test_the_zoos_name_is_enough(project, capsys, monkeypatch):
    monkeypatch.setenv("DUST_HOME", str(project / "home"))
    known = zoo.get("clip_vit_b16")
    facts = {
        "key_map": "clip",
        "sha256": "",
        "config": str(project / "clip.yaml"),
        "urls": ("https://example.org/tiny.pt",),
    }
    monkeypatch.setitem(zoo.ENTRIES, "clip_vit_b16", dataclasses.replace(known, **facts))
    (project / "home" / "zoo").mkdir(parents=True)
    shutil.copy(project / "clip.pt", project / "home" / "zoo" / "tiny.pt")
    words = ["predict", "zoo://clip_vit_b16", str(project / "0.mp4"), "--device", "cpu"]
    assert main([*words, "-o", str(project / "a"), "--classes", "cutting bread", "stirring"]) == 0
    assert "stirring" in capsys.readouterr().out
    assert main([*words, "-o", str(project / "b"), "--opts", "CLIP.CLASSES", "[cutting bread, stirring]"]) == 0
    first, second = (csv_dicts(project / name / "predictions.csv") for name in "ab")
    assert first == second and {"prob_cutting bread", "prob_stirring"} < set(first[0])
