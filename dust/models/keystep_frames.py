"""Frame encoder of KeyStep (STORM-PSR), trained contrastively: a picture becomes an embedding of unit length.

https://arxiv.org/abs/2510.12385. Encoders are timm's (https://github.com/huggingface/pytorch-image-models, Apache-2.0).
Written from the paper: encoder, Linear + BatchNorm + ReLU to the embedding, and a projection that only the loss sees.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from dust.models.build import MODEL_REGISTRY
from dust.models.layers.checks import check_arguments
from dust.models.protocol import ChecksActivations, no_weight_decay
from dust.utils.errors import ConfigError, DataError

State = dict[str, Tensor]


@MODEL_REGISTRY.register()
class KeyStepFrameEncoder(nn.Module):
    """Single frames (B, C, 1, H, W) -> ``{"embedding": (B, D), "projection": (B, P)[, "logits": (B, classes)]}``.

    Embedding and projection have unit length.

    Args:
        arch: timm's name, such as vit_small_patch16_224, resnet18 or, for a CPU, resnet10t.
        img_size: side of the square that vision transformers are built for, pixels. Convolutions take any.
        embed_dim: channels D of the embedding.
        proj_dim: channels P of the projection; 0 for none.
        num_classes: outputs of a linear head on the embedding before it is normalised; 0 for none.
        init_from: ``{"body": (configuration key, file)}``, the weights that the encoder begins with.

    ``forward_features`` gives what timm's encoder does, ``forward_head(..., pre_logits=True)`` the embedding.

    Raises:
        ConfigError: an encoder that timm lacks, or sizes that cannot be.
    """

    def __init__(
        self,
        *,
        arch: str = "vit_small_patch16_224",
        img_size: int = 224,
        embed_dim: int = 128,
        proj_dim: int = 128,
        num_classes: int = 0,
        act_checkpoint: bool = False,
        init_from: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        super().__init__()
        above_zero = {"img_size": img_size, "embed_dim": embed_dim}
        check_arguments("KeyStepFrameEncoder", above_zero=above_zero, from_zero={"proj_dim": proj_dim})
        self.img_size, self.init_from = img_size, dict(init_from or {})
        self.body = _timm_encoder(arch, img_size)
        if act_checkpoint:
            self.set_grad_checkpointing()
        self.num_features = embed_dim
        self.neck = nn.Sequential(_linear(_width(self.body), embed_dim), nn.BatchNorm1d(embed_dim), nn.ReLU())
        self.projection = None
        if proj_dim:
            layers = (_linear(embed_dim, embed_dim), nn.BatchNorm1d(embed_dim), nn.ReLU(), _linear(embed_dim, proj_dim))
            self.projection = nn.Sequential(*layers)
        self.reset_classifier(num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments: with loss ce there are logits and no projection, otherwise the reverse."""
        node, classify = cfg.KEYSTEP, cfg.KEYSTEP.CONTRAST.LOSS == "ce"
        pretrained = node.SPATIAL.PRETRAINED
        return {
            "arch": node.SPATIAL.ARCH,
            "img_size": cfg.DATA.TRAIN_CROP_SIZE,
            "embed_dim": node.EMBED_DIM,
            "proj_dim": 0 if classify else node.EMBED_DIM,
            "num_classes": cfg.MODEL.NUM_CLASSES if classify else 0,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
            "init_from": {"body": ("KEYSTEP.SPATIAL.PRETRAINED", pretrained)} if pretrained else {},
        }

    def forward_features(self, video: Tensor) -> Tensor:
        """Map (B, C, 1, H, W) -> timm's tokens (B, N, F) or map (B, F, h, w)."""
        if video.ndim != 5 or video.shape[2] != 1 or not video.is_floating_point():
            raise DataError(
                f"KeyStepFrameEncoder got video of {video.dtype} and shape {tuple(video.shape)}; it takes single "
                "frames of floating-point numbers, (B, C, 1, H, W)"
            )
        body: Any = self.body
        return body.forward_features(video[:, :, 0])

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Any:
        """Turn what ``forward_features`` gave into the dict, or with ``pre_logits`` the embedding (B, D) alone."""
        body: Any = self.body
        hidden = self.neck(body.forward_head(features, pre_logits=True))
        embedding = F.normalize(hidden, dim=1)
        if pre_logits:
            return embedding
        outputs = {"embedding": embedding}
        if self.projection is not None:
            outputs["projection"] = F.normalize(self.projection(hidden), dim=1)
        if self.num_classes:
            outputs["logits"] = self.head(hidden)
        return outputs

    def embed(self, video: Tensor) -> Tensor:
        """Map (B, C, 1, H, W) -> embeddings (B, D) of unit length."""
        return self.forward_head(self.forward_features(video), pre_logits=True)

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        return self.forward_head(self.forward_features(video))

    def reset_classifier(self, num_classes: int) -> None:
        """Put in another head on the embedding; 0 for none, so that there are no logits."""
        self.num_classes = num_classes
        self.head = _linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        body = self.body
        if not isinstance(body, ChecksActivations):
            raise ConfigError(f"MODEL.ACT_CHECKPOINT: timm's {type(body).__name__} cannot")
        body.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        return {f"body.{name}" for name in no_weight_decay(self.body)} & set(dict(self.named_parameters()))

    def adapt_state_dict(self, state: State, notes: list[str], pos_embed_resize: str | None = None) -> State:
        """Translate STORM-PSR's names (``encoder.*``, ``first_head.*``, ``second_head.*``, in stage 3 under
        ``spatial_enc.``; of ResNets its layers have no names) or timm's own to ours; a new dict."""
        if any(key.startswith("spatial_enc.") for key in state):  # without the file's other part
            state = {k.removeprefix("spatial_enc."): t for k, t in state.items() if k.startswith("spatial_enc.")}
        if any(key.startswith("first_head.") for key in state):
            theirs = {"encoder.": "body.", "first_head.": "neck.", "second_head.": "projection."}
            notes.append("names translated from STORM-PSR's layout")
            return {_renamed(key, theirs): tensor for key, tensor in state.items()}
        own = set(self.body.state_dict())
        if not any(key.startswith("body.") for key in state) and own & set(state):
            notes.append("an encoder of timm's: the layers behind it keep the model's own values")
            return {f"body.{key}" if key in own else key: tensor for key, tensor in state.items()}
        return state


def _timm_encoder(arch: str, img_size: int) -> nn.Module:
    import timm

    if not timm.is_model(arch):
        near = ", ".join(timm.list_models(f"*{arch.split('_')[0]}*")[:6])
        raise ConfigError(f"KEYSTEP.SPATIAL.ARCH {arch!r} is no model of timm's{': near ' + near if near else ''}")
    config = timm.get_pretrained_cfg(arch)
    fixed: dict[str, Any] = {"img_size": img_size} if config is not None and config.fixed_input_size else {}
    device = torch.get_default_device()
    try:
        with torch.device("cpu"):  # where it is meta: ViTs of timm 1.0.15 read numbers from tensors as they are made
            model = timm.create_model(arch, pretrained=False, num_classes=0, **fixed)
        return model.to(device)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"KEYSTEP.SPATIAL.ARCH {arch} for pictures of {img_size} pixels: {error}") from error


def _width(body: nn.Module) -> int:
    """Return the channels that come out of ``forward_head(..., pre_logits=True)``."""
    return int(getattr(body, "head_hidden_size", None) or body.num_features)  # type: ignore[arg-type]


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def _renamed(key: str, names: Mapping[str, str]) -> str:
    for theirs, ours in names.items():
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    return key
