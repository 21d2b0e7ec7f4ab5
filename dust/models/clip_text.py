"""CLIP's text transformer and its tokens: "Learning Transferable Visual Models From Natural Language Supervision",
Radford et al., ICML 2021.

https://arxiv.org/abs/2103.00020. Written from the paper and from the published parameter names and numbers; the
authors' code and weights (https://github.com/openai/CLIP) are under the MIT licence. Tests compare with numbers of
open_clip and of transformers.
"""

import functools
import logging
import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from dust.models.clip_vit import LN_EPS, CLIPBlock, Transformer, join_query_key_value
from dust.models.layers.checks import check_arguments
from dust.models.layers.foreign import require
from dust.models.layers.frozen import ACTIVATIONS
from dust.models.videomae_vit import State
from dust.utils.errors import CheckpointError, ConfigError, DustError

logger = logging.getLogger(__name__)

#: Of OpenAI's byte-pair encoding: 512 symbols, 48,894 merges, start and end. A text is at most so many tokens long.
VOCABULARY, CONTEXT = 49_408, 77


class CLIPText(nn.Module):
    """Token ids (M, L) int64 -> embeddings (M, output_dim), not normalised.

    A token sees itself and those before it. The embedding is that of the text's end token, so padding needs no mask.

    Args:
        vocab_size: number of tokens.
        context_length: longest text in tokens, its start and end included.
        width, layers, heads: sizes of the transformer.
        output_dim: width of the embedding.
        activation: of the MLPs: quick_gelu (OpenAI's weights) or gelu (most of OpenCLIP's). No tensor shows it.
        mlp_width: hidden width of the MLPs; 0 = four times ``width``.
        norm_eps: of all norms.
        end_token: the embedding is that of its first place in the text (of place 0 where it has none), as transformers
            does it; None: that of the largest id, as OpenAI and OpenCLIP do it. With OpenAI's vocabulary both are one.

    Raises ConfigError that names every argument that cannot be.
    """

    def __init__(
        self,
        *,
        vocab_size: int = VOCABULARY,
        context_length: int = CONTEXT,
        width: int = 512,
        layers: int = 12,
        heads: int = 8,
        output_dim: int = 512,
        activation: str = "quick_gelu",
        mlp_width: int = 0,
        norm_eps: float = LN_EPS,
        end_token: int | None = None,
    ) -> None:
        super().__init__()
        check_arguments(
            "CLIPText",
            above_zero={"vocab_size": vocab_size, "context_length": context_length, "layers": layers,
                        "output_dim": output_dim, "norm_eps": norm_eps},
            from_zero={"mlp_width": mlp_width},
            choices={"activation": (activation, ACTIVATIONS)},
            multiples=[("width", width, "heads", heads)],
        )  # fmt: skip
        self.vocab_size, self.context_length, self.end_token = vocab_size, context_length, end_token
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context_length, width))
        options: dict[str, Any] = {"causal": True, "hidden": mlp_width, "norm_eps": norm_eps}
        self.transformer = Transformer([CLIPBlock(width, heads, 0.0, activation, **options) for _ in range(layers)])
        self.ln_final = nn.LayerNorm(width, eps=norm_eps)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, output_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map (M, L) int64 -> (M, output_dim)."""
        tokens = self.forward_features(ids)
        is_end = ids == (ids.amax(dim=1, keepdim=True) if self.end_token is None else self.end_token)
        end = is_end.int().argmax(dim=1)  # the first of several
        return tokens[torch.arange(len(ids), device=ids.device), end] @ self.text_projection

    def forward_features(self, ids: torch.Tensor) -> torch.Tensor:
        """Map (M, L) int64 -> (M, L, width), behind the last norm."""
        if ids.ndim != 2 or ids.dtype != torch.int64 or not 0 < ids.shape[1] <= self.context_length:
            raise DustError(
                f"CLIPText got ids of {ids.dtype} and shape {tuple(ids.shape)}; it takes int64 (M, L) with L at most "
                f"{self.context_length}"
            )
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        for block in self.transformer.resblocks:
            x = block(x)
        return self.ln_final(x)

    def adapt_state_dict(self, state: State, notes: list[str], pos_embed_resize: str | None = None) -> State:
        """Return OpenAI's, OpenCLIP's and Hugging Face's tensors under this model's names; ``notes`` gets a line for
        all that was changed. Raises CheckpointError where a file has no text transformer, or part of one."""
        state = to_text_names(state, notes)
        require(
            state,
            {
                "token_embedding.weight": "no tokens",
                "positional_embedding": "no learnt positions",
                "ln_final.weight": "no last norm",
                "text_projection": "no projection to the image's space",
            },
            sign="transformer.resblocks",
        )
        return state


# -------------------------------------------------------------------------------------------- other files' weights

_HUGGING_FACE = [
    (r"^text_model\.", ""),
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.(\d+)\.", r"transformer.resblocks.\1."),
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
]
#: What is no tensor of the text transformer, in any layout. Numbers are sizes that OpenAI's programs hold.
_NOT_TEXT = re.compile(
    r"(visual|vision_model|visual_projection)\.|logit_(scale|bias)$|input_resolution$|context_length$|vocab_size$"
    r"|(text\.)?attn_mask$|(text_model\.)?embeddings\.position_ids$"
)
_OF_TEXT = re.compile(r"(text\.)?token_embedding\.|(text_model\.)?embeddings\.token_embedding\.")


def has_text(state: State) -> bool:
    """Tell whether a file holds a text transformer, in any known layout."""
    return any(_OF_TEXT.match(key) for key in state)


def to_text_names(state: State, notes: list[str]) -> State:
    """Return the text transformer of any known layout of CLIP under OpenAI's names; a new dict.

    Raises:
        CheckpointError: there is none.
    """
    if not has_text(state):
        raise CheckpointError(
            "the file has no text transformer (no token_embedding), so it cannot read: take weights of the whole CLIP, "
            "such as zoo://clip_vit_b16"
        )
    text = {key.removeprefix("text."): tensor for key, tensor in state.items() if not _NOT_TEXT.match(key)}
    if len(text) < len(state):
        notes.append(f"{len(state) - len(text)} tensors that are not the text transformer's are not used by it")
    if any("embeddings.token_embedding." in key for key in text):
        for pattern, ours in _HUGGING_FACE:
            text = {re.sub(pattern, ours, key): tensor for key, tensor in text.items()}
        join_query_key_value(text)
        if "text_projection.weight" in text:
            text["text_projection"] = text.pop("text_projection.weight").T.contiguous()
        notes.append("names of the text transformer translated from Hugging Face's layout")
    return text


# -------------------------------------------------------------------------------------------- tokens


def require_tokenizer() -> None:
    """Raise ConfigError where the library that makes tokens is not installed."""
    if find_spec("open_clip") is None:
        raise ConfigError(
            "CLIP's tokenizer is not installed, which texts need: pip install dust-video[clip] (open_clip_torch)"
        )


@functools.cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def tokenize(texts: Sequence[str], context_length: int = CONTEXT) -> torch.Tensor:
    """Map texts -> ids (len(texts), context_length) int64 of OpenAI's vocabulary: start, ids, end, zeros behind.

    A longer text is cut, its end token stays, and a warning says so. open_clip's tokenizer, whose package brings the
    vocabulary. ConfigError where that is not installed.
    """
    require_tokenizer()
    tokenizer = _tokenizer()
    for text in texts:
        count = len(tokenizer.encode(text)) + 2
        if count > context_length:
            logger.warning("%r has %d tokens, and CLIP reads %d: the rest is cut off", text, count, context_length)
    return tokenizer(list(texts), context_length=context_length).long()


def class_text(name: str) -> str:
    """Return what a class is called in a sentence: ``cutting_bread`` and ``CuttingBread`` are "cutting bread"'s two
    other spellings, in folders and in UCF101. Case does not matter to CLIP's tokens."""
    text = name.replace("_", " ").strip()
    if " " not in text and re.fullmatch(r"(?:[A-Z][a-z0-9]+){2,}", text):
        text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return text


def in_full(x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` in 32 bits, if it has fewer."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def embed_texts(tower: CLIPText, texts: Sequence[str], batch_size: int = 128) -> torch.Tensor:
    """Map texts -> embeddings (len(texts), output_dim), not normalised.

    Raises:
        ConfigError: a tower of another vocabulary; no tokenizer.
    """
    if tower.vocab_size != VOCABULARY:
        raise ConfigError(
            f"the text transformer has {tower.vocab_size} tokens, and OpenAI's vocabulary {VOCABULARY}: its texts "
            "cannot be read here"
        )
    ids = tokenize(texts, tower.context_length).to(tower.positional_embedding.device)
    return torch.cat([in_full(tower(part)) for part in ids.split(batch_size)])


def embed_classes(tower: CLIPText, names: Sequence[str], prompts: Sequence[str], batch_size: int = 128) -> torch.Tensor:
    """Map names of K classes -> (K, output_dim), each of length 1: the mean of its prompts' normalised embeddings.

    Raises:
        ConfigError: names that are numbers, or none; a tower of another vocabulary; no tokenizer.
    """
    if not names or all(name.strip().lstrip("+-").isdigit() for name in names):
        shown = ", ".join(names[:3])
        raise ConfigError(
            f"classes called {shown or '(none)'} say nothing to CLIP, which reads their names: name them in words, in "
            "the lists, in DATA.CLASS_LIST, or behind --classes"
        )
    texts = [prompt.replace("{}", class_text(name)) for name in names for prompt in prompts]
    embedded = F.normalize(embed_texts(tower, texts, batch_size), dim=-1)
    return F.normalize(embedded.unflatten(0, (len(names), len(prompts))).mean(dim=1), dim=-1)
