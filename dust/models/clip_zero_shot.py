"""CLIP as a classifier of videos that reads the names of the classes: "Learning Transferable Visual Models From Natural
Language Supervision", Radford et al., ICML 2021.

https://arxiv.org/abs/2103.00020. The frames of a clip are images, whose answers are joined as ActionCLIP
(https://arxiv.org/abs/2109.08472) and ViFi-CLIP (https://arxiv.org/abs/2212.03640) do it, and in two ways more. Written
from the papers and from published numbers.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from dust.config.cast import check_prompts
from dust.models.build import MODEL_REGISTRY
from dust.models.clip_text import CLIPText, embed_classes, has_text, in_full
from dust.models.clip_vit import CLIPVisual
from dust.models.layers.checks import check_arguments
from dust.models.videomae_vit import State
from dust.utils.errors import CheckpointError, DustError

PROMPTS = ("a video of {}.",)
AVERAGES = ("logits", "renormalised", "raw", "probs")


@MODEL_REGISTRY.register()
class CLIPZeroShot(nn.Module):
    """Video (B, C, T, H, W) -> logits (B, K) of the K classes that :meth:`set_class_names` named. It learns nothing.

    With f_t the embedding of frame t, n(x) = x / |x|, c the embedding of a class (see
    :func:`dust.models.clip_text.embed_classes`) and s the weights' own scale:

    Args:
        average: ``logits``: s * mean_t n(f_t) @ c, the mean of the frames' logits | ``renormalised``:
            s * n(mean_t n(f_t)) @ c, the same order of classes, sharper probabilities | ``raw``: s * n(mean_t f_t) @ c
            (ViFi-CLIP) | ``probs``: the logarithm of mean_t softmax(s * n(f_t) @ c).
        prompts: texts with {} for the class; a class is the mean of them.
        visual: arguments of :class:`CLIPVisual`, without classes.
        text: arguments of :class:`CLIPText`.

    Raises ConfigError that names every argument that cannot be.
    """

    class_embeddings: torch.Tensor | None

    def __init__(
        self,
        *,
        average: str = "logits",
        prompts: Sequence[str] = PROMPTS,
        visual: dict[str, Any] | None = None,
        text: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.visual, self.text = CLIPVisual(**(visual or {})), CLIPText(**(text or {}))
        width, of_text = self.visual.num_features, self.text.text_projection.shape[1]
        more = check_prompts(prompts)
        if self.visual.proj is None or width != of_text:
            more.append(f"images have embeddings of {width} numbers and texts of {of_text}: both must have as many")
        choices = {"average": (average, AVERAGES)}
        check_arguments("CLIPZeroShot", above_zero={}, choices=choices, more=more)
        self.average, self.prompts, self.num_features = average, tuple(prompts), width
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.register_buffer("class_embeddings", None, persistent=False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for. Weights are loaded by the engine, not here."""
        node = cfg.CLIP
        return {
            "average": node.FRAME_AVERAGE,
            "prompts": node.PROMPTS,
            "visual": {**CLIPVisual.from_config(cfg), "num_classes": 0},
            "text": {
                "context_length": node.CONTEXT_LENGTH,
                "width": node.TEXT_WIDTH,
                "layers": node.TEXT_LAYERS,
                "heads": node.TEXT_HEADS,
                "output_dim": node.OUTPUT_DIM,
                "activation": node.ACTIVATION,
            },
        }

    @property
    def num_classes(self) -> int:
        """How many classes it has been told; 0 before."""
        return 0 if self.class_embeddings is None else len(self.class_embeddings)

    @torch.no_grad()
    def set_class_names(self, names: Sequence[str]) -> None:
        """Answer with these classes from now on. ConfigError where CLIP cannot read them."""
        self.class_embeddings = embed_classes(self.text, names, self.prompts)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> logits (B, K)."""
        return self.forward_head(self.forward_features(video))

    def forward_features(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) float -> embeddings of the frames (B, T, num_features), not normalised."""
        tokens = self.visual.forward_features(video)
        return self.visual.ln_post(tokens[:, :, 0]) @ self.visual.proj

    def forward_head(self, frames: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map frames (B, T, D) -> logits (B, K), or with ``pre_logits`` the clip's embedding (B, D) that is compared
        with the classes; that of ``logits`` where probabilities are averaged. Not computed in 16 bits, which are too
        few for a scale of 100."""
        with torch.autocast(frames.device.type, enabled=False):
            frames = in_full(frames)
            if pre_logits:
                return self.join_frames(frames)
            if self.class_embeddings is None:
                raise DustError("CLIPZeroShot has no classes: name them by set_class_names")
            scale, classes = in_full(self.logit_scale).exp(), self.class_embeddings.to(frames.dtype).T
            if self.average == "probs":
                probabilities = (scale * F.normalize(frames, dim=-1) @ classes).softmax(dim=-1).mean(dim=1)
                return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
            return scale * self.join_frames(frames) @ classes

    def join_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """Map embeddings of frames (B, T, D) -> that of their clip (B, D)."""
        if self.average == "raw":
            return F.normalize(frames.mean(dim=1), dim=-1)
        mean = F.normalize(frames, dim=-1).mean(dim=1)
        return F.normalize(mean, dim=-1) if self.average == "renormalised" else mean

    def constants(self) -> dict[str, Any]:
        return self.visual.constants()

    def adapt_state_dict(self, state: State, notes: list[str], pos_embed_resize: str | None = None) -> State:
        """Return the whole CLIP of OpenAI, OpenCLIP or Hugging Face under this model's names.

        Raises:
            CheckpointError: a file that lacks one of both transformers or the scale, or computes something else.
        """
        if not has_text(state):
            raise CheckpointError(
                "the file has no text transformer (no token_embedding), so it cannot read the names of classes: take "
                "weights of the whole CLIP, such as zoo://clip_vit_b16, or train MODEL.MODEL_NAME CLIPVisual"
            )
        if "logit_scale" not in state:
            raise CheckpointError("the file has no logit_scale, without which its answers have no probabilities")
        images = ("visual.", "vision_model.", "visual_projection.")
        of_images = {key: tensor for key, tensor in state.items() if key.startswith(images)}
        if not of_images:
            raise CheckpointError("the file has no image transformer (visual.*): take weights of the whole CLIP")
        rest = {key: tensor for key, tensor in state.items() if key not in of_images}
        said: list[str] = []  # of what the other transformer takes
        visual = self.visual.adapt_state_dict(of_images, said, pos_embed_resize)
        text = self.text.adapt_state_dict(rest, said)
        notes += [note for note in said if "are not used" not in note]
        if "logit_bias" in state:
            raise CheckpointError("the file has a logit_bias: it is a SigLIP, whose answers are sigmoids, and no CLIP")
        return {
            **{f"visual.{key}": tensor for key, tensor in visual.items()},
            **{f"text.{key}": tensor for key, tensor in text.items()},
            "logit_scale": state["logit_scale"].reshape(()),
        }
