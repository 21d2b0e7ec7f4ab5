"""KeyStep (STORM-PSR) end to end: a frame encoder on every frame of a window, and the temporal encoder behind it.

https://arxiv.org/abs/2510.12385. The frame encoder learns at a fraction of the rate, or not at all. Its batch norms
keep the statistics that they came with: then a frame has one embedding, whatever window it is seen in, in training as
in a stream that encodes each frame once. (The published program updates them.)
"""

from collections.abc import Mapping
from typing import Any

import torch.nn as nn
from einops import rearrange
from torch import Tensor

from dust.models.build import MODEL_REGISTRY
from dust.models.keystep import TemporalEncoder
from dust.models.keystep_frames import KeyStepFrameEncoder
from dust.models.optimizer import BATCH_NORMS
from dust.utils.errors import ConfigError, DataError

State = dict[str, Tensor]


@MODEL_REGISTRY.register()
class KeyStepVideo(nn.Module):
    """Windows of frames (B, C, N, H, W) -> logits (B, num_classes), one per component, of "it changed".

    Args:
        frames: arguments of the :class:`KeyStepFrameEncoder`; it has neither projection nor classifier here.
        temporal: arguments of the :class:`TemporalEncoder`.
        spatial_lr_mult: the frame encoder's learning rate over that of all else.
        spatial_frozen: do not train it.
        init_from: ``{"frame_encoder" | "temporal_encoder": (configuration key, stage)}`` to begin from.
    """

    def __init__(
        self,
        *,
        frames: Mapping[str, Any],
        temporal: Mapping[str, Any],
        num_classes: int = 11,
        spatial_lr_mult: float = 0.01,
        spatial_frozen: bool = False,
        act_checkpoint: bool = False,
        init_from: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        super().__init__()
        if spatial_lr_mult < 0:
            raise ConfigError(f"KEYSTEP.SPATIAL.LR_MULT {spatial_lr_mult}: must be 0 or more")
        own = {"proj_dim": 0, "num_classes": 0, "act_checkpoint": act_checkpoint, "init_from": None}
        self.frame_encoder = KeyStepFrameEncoder(**{**frames, **own})
        own = {"num_classes": num_classes, "dim": self.frame_encoder.num_features, "act_checkpoint": act_checkpoint}
        self.temporal_encoder = TemporalEncoder(**{**temporal, **own})
        self.num_features = self.temporal_encoder.num_features
        self.spatial_lr_mult, self.spatial_frozen = spatial_lr_mult, spatial_frozen
        self.init_from = dict(init_from or {})
        self.frame_encoder.requires_grad_(not spatial_frozen)
        self.train()

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        node = cfg.KEYSTEP
        parts = {"frame_encoder": "SPATIAL_FROM", "temporal_encoder": "TEMPORAL_FROM"}
        return {
            "frames": KeyStepFrameEncoder.from_config(cfg),
            "temporal": TemporalEncoder.from_config(cfg),
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "spatial_lr_mult": node.SPATIAL.LR_MULT,
            "spatial_frozen": node.SPATIAL.FROZEN,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
            "init_from": {part: (f"KEYSTEP.{key}", node[key]) for part, key in parts.items() if node[key]},
        }

    @property
    def num_classes(self) -> int:
        return self.temporal_encoder.num_classes

    def embed(self, video: Tensor) -> Tensor:
        """Map single frames (F, C, 1, H, W) -> embeddings (F, D)."""
        return self.frame_encoder.embed(video)

    def forward_embeddings(self, embeddings: Tensor) -> Tensor:
        """Map windows of embeddings (W, N, D) -> (W, num_classes)."""
        logits: Tensor = self.temporal_encoder(embeddings)
        return logits

    def forward_features(self, video: Tensor) -> Tensor:
        """Map (B, C, N, H, W) -> the temporal encoder's tokens."""
        if video.ndim != 5:
            raise DataError(f"KeyStepVideo got video of shape {tuple(video.shape)}; it takes windows (B, C, N, H, W)")
        batch, _, count = video.shape[:3]
        frames = rearrange(video, "b c n h w -> (b n) c 1 h w")
        return self.temporal_encoder.forward_features(self.embed(frames).view(batch, count, -1))

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        return self.temporal_encoder.forward_head(tokens, pre_logits)

    def forward(self, video: Tensor) -> Tensor:
        """Map (B, C, N, H, W) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(video))

    def train(self, mode: bool = True) -> "KeyStepVideo":
        super().train(mode)
        for module in self.frame_encoder.modules():
            if self.spatial_frozen or isinstance(module, BATCH_NORMS):
                module.training = False
        return self

    def reset_classifier(self, num_classes: int) -> None:
        self.temporal_encoder.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module | dict[str, nn.Module]:
        return self.temporal_encoder.get_classifier()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.frame_encoder.set_grad_checkpointing(enable)
        self.temporal_encoder.set_grad_checkpointing(enable)

    def lr_scales(self) -> dict[str, float]:
        """Map parameter name -> its learning rate over the others'."""
        return {f"frame_encoder.{name}": self.spatial_lr_mult for name, _ in self.frame_encoder.named_parameters()}

    def no_weight_decay(self) -> set[str]:
        """Return the whole frame encoder, as published, and the temporal encoder's positions and class token."""
        temporal = {f"temporal_encoder.{name}" for name in self.temporal_encoder.no_weight_decay()}
        return temporal | {f"frame_encoder.{name}" for name, _ in self.frame_encoder.named_parameters()}

    def adapt_state_dict(self, state: State, notes: list[str], pos_embed_resize: str | None = None) -> State:
        """Translate STORM-PSR's fine-tuned model (``spatial_enc.*``, ``temporal_enc.*``, ``mlp_head.*``) to ours; a new
        dict."""
        if not any(key.startswith("spatial_enc.") for key in state):
            return dict(state)
        spatial = {key: tensor for key, tensor in state.items() if key.startswith("spatial_enc.")}
        rest = {key: tensor for key, tensor in state.items() if key not in spatial}
        adapted = {
            "frame_encoder": self.frame_encoder.adapt_state_dict(spatial, notes),
            "temporal_encoder": self.temporal_encoder.adapt_state_dict(rest, notes),
        }
        return {f"{part}.{key}": tensor for part, one in adapted.items() for key, tensor in one.items()}
