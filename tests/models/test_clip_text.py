"""CLIP's text transformer and its tokens against open_clip's and transformers' numbers (clip_text_*), and by laws."""

import logging

import pytest
import torch

from dust.models import clip_text
from dust.models.clip_text import CLIPText, class_text, embed_classes, tokenize
from dust.utils.checkpoint import load_weights
from dust.utils.errors import CheckpointError, ConfigError, DustError
from tests.helpers import ALL_GOLDEN, DATA, golden_json, golden_tensors, part, randomised

CASES = sorted({path.stem for folder in (DATA, ALL_GOLDEN) for path in folder.glob("clip_text_*.safetensors")})
TINY = {"vocab_size": 20, "context_length": 8, "width": 16, "layers": 2, "heads": 2, "output_dim": 6}


def text_arguments(facts):
    """CLIPText's arguments for those of a reference."""
    args = facts["args"]
    if "text_cfg" in args:  # open_clip's
        text = args["text_cfg"]
        return {
            "vocab_size": text.get("vocab_size", 49408), "context_length": text.get("context_length", 77),
            "width": text.get("width", 512), "layers": text.get("layers", 12), "heads": text.get("heads", 8),
            "mlp_width": int(text.get("width", 512) * text.get("mlp_ratio", 4.0)), "output_dim": args["embed_dim"],
            "activation": "quick_gelu" if args.get("quick_gelu") else "gelu",
        }  # fmt: skip
    return {  # transformers': the old configurations say 2 where they mean the largest id
        "vocab_size": args["vocab_size"], "context_length": args["max_position_embeddings"],
        "width": args["hidden_size"], "layers": args["num_hidden_layers"], "heads": args["num_attention_heads"],
        "mlp_width": args["intermediate_size"], "output_dim": args["projection_dim"],
        "activation": args["hidden_act"], "norm_eps": args["layer_norm_eps"],
        "end_token": None if args["eos_token_id"] == 2 else args["eos_token_id"],
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    facts, tensors = golden_tensors(case)
    model = CLIPText(**text_arguments(facts)).eval()
    report = load_weights(model, part(tensors, "weight"))
    assert report.complete and not report.unexpected
    ids, name = tensors["input_ids"], "text_embeds" if "output.text_embeds" in tensors else "text"
    near = {"atol": facts["suggested_atol"], "rtol": facts["suggested_rtol"]}
    embedding = model(ids)
    torch.testing.assert_close(embedding, tensors[f"output.{name}"], **near)
    if "output.tokens" in tensors:
        torch.testing.assert_close(model.forward_features(ids), tensors["output.tokens"], **near)
    if "loss_weight" in tensors:
        (embedding * tensors["loss_weight"]).sum().backward()
        for key, expected in part(tensors, "grad").items():
            found = gradient(model, key)
            assert (found - expected).abs().max() <= 1e-4 * expected.abs().max(), key
    double = model.double()(ids)
    largest = facts["output_max_abs"][name]
    assert (double - tensors[f"output64.{name}"]).abs().max() <= facts["suggested_atol_fp64"] * largest


def gradient(model, key):
    """The gradient of a tensor by transformers' or OpenAI's name."""
    own = dict(model.named_parameters())
    if key in own:
        return own[key].grad
    if key == "text_projection.weight":
        return own["text_projection"].grad.T
    if ".embeddings." in key:
        return own["token_embedding.weight" if "token" in key else "positional_embedding"].grad
    number, letter, end = key.split(".")[3], key.split(".")[-2], key.rsplit(".", 1)[1]
    if letter[0] in "qkv" and letter.endswith("_proj"):
        joint = own[f"transformer.resblocks.{number}.attn.in_proj_{end}"].grad
        return joint.chunk(3)["qkv".index(letter[0])]
    names = {"out_proj": "attn.out_proj", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}
    names |= {f"layer_norm{place}": f"ln_{place}" for place in (1, 2)}
    return own[f"transformer.resblocks.{number}.{names[letter]}.{end}"].grad


@pytest.mark.parametrize(("width", "heads", "count"), [(512, 8, 63_428_096), (768, 12, 123_650_304)])
def test_sizes_of_the_published_towers(width, heads, count):
    with torch.device("meta"):
        model = CLIPText(width=width, heads=heads, output_dim=width)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


# ------------------------------------------------------------------------------------------------------ the tower


def test_which_token_is_the_texts():
    torch.manual_seed(0)
    largest = randomised(CLIPText(**TINY))
    first = CLIPText(**TINY, end_token=7).eval()
    first.load_state_dict(largest.state_dict())
    ids = torch.tensor([[1, 3, 7, 9, 7, 0], [1, 4, 7, 7, 7, 7], [1, 2, 3, 4, 5, 6]])
    tokens = largest.forward_features(ids)
    torch.testing.assert_close(largest(ids), tokens[[0, 1, 2], [3, 2, 5]] @ largest.text_projection)
    torch.testing.assert_close(first(ids), tokens[[0, 1, 2], [2, 2, 0]] @ largest.text_projection)


def test_a_token_does_not_see_what_comes_behind_it():
    torch.manual_seed(0)
    model = randomised(CLIPText(**TINY))
    long, short = torch.tensor([[1, 3, 19, 4, 5]]), torch.tensor([[1, 3, 19]])
    torch.testing.assert_close(model.forward_features(long)[:, :3], model.forward_features(short))
    torch.testing.assert_close(model(long), model(short))


def test_what_is_no_text_is_refused():
    model = CLIPText(**TINY)
    with pytest.raises(DustError, match=r"\(1, 9\).*at most 8"):
        model(torch.zeros(1, 9, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"layers is 0.*activation is 'relu'.*width 16 is not a multiple of heads 3"):
        CLIPText(**{**TINY, "layers": 0, "activation": "relu", "heads": 3})


def test_files_without_the_whole_tower_are_refused():
    model = CLIPText(**TINY)
    with pytest.raises(CheckpointError, match="no text transformer"):
        load_weights(model, {"visual.conv1.weight": torch.zeros(4, 3, 2, 2)})
    state = {key: tensor for key, tensor in model.state_dict().items() if key != "text_projection"}
    with pytest.raises(CheckpointError, match="no projection to the image's space"):
        load_weights(model, state)
    state = {key: tensor for key, tensor in model.state_dict().items() if "resblocks.1.mlp" not in key}
    with pytest.raises(CheckpointError, match="does not give the blocks"):
        load_weights(model, state)


# ------------------------------------------------------------------------------------------------------ tokens


@pytest.fixture
def with_tokenizer():
    pytest.importorskip("open_clip", reason="needs the extra: pip install dust-video[clip]")


def test_golden_ids(with_tokenizer):
    examples = golden_json("clip_text_tokens")["examples"]
    assert len(examples) >= 5
    rows = tokenize([example["text"] for example in examples])
    for row, example in zip(rows, examples, strict=True):
        assert len(row) == example["row77_length"]
        assert row[row != 0].tolist() == example["row77_nonzero"], example["text"]


def test_a_text_that_is_too_long_is_cut_and_said(with_tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        short, long = tokenize(["a b", "a b c d e f g"], context_length=6)
    assert short[-1] == 0 and long[-1] == 49407 and long[0] == 49406
    (record,) = caplog.records
    assert "'a b c d e f g' has 9 tokens, and CLIP reads 6" in record.message


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(clip_text, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install dust-video\[clip\]"):
        tokenize(["a"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cutting_bread", "cutting bread"), ("ApplyEyeMakeup", "Apply Eye Makeup"), ("an iPhone", "an iPhone"),
        ("YoYo", "Yo Yo"), ("TV", "TV"), ("Archery", "Archery"), ("push-ups", "push-ups"),
    ],
)  # fmt: skip
def test_what_a_class_is_called(name, text):
    assert class_text(name) == text


def test_a_class_is_the_mean_of_its_prompts(monkeypatch):
    torch.manual_seed(0)
    model = randomised(CLIPText(**{**TINY, "vocab_size": clip_text.VOCABULARY}))

    def letters(texts, length):
        rows = [[49406, *(ord(letter) for letter in text[-4:]), 49407] for text in texts]
        return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])

    monkeypatch.setattr(clip_text, "tokenize", letters)
    found = embed_classes(model, ["cut_it", "stir"], ["do {}", "{} it"], batch_size=3)
    for row, name in zip(found, ["cut it", "stir"], strict=True):
        each = [model(letters([text.replace("{}", name)], 8))[0] for text in ("do {}", "{} it")]
        mean = sum(one / one.norm() for one in each) / 2
        torch.testing.assert_close(row, mean / mean.norm())


@pytest.mark.parametrize("names", [[], ["0", "1"]])
def test_numbers_are_no_names(names):
    with pytest.raises(ConfigError, match="say nothing to CLIP"):
        embed_classes(CLIPText(**TINY), names, ["{}"])
    with pytest.raises(ConfigError, match="has 20 tokens"):
        embed_classes(CLIPText(**TINY), ["cut"], ["{}"])
