"""torchvision's convolutional video models: R3D, MC3 and R(2+1)D ("A Closer Look at Spatiotemporal Convolutions for
Action Recognition", Tran et al., CVPR 2018, https://arxiv.org/abs/1711.11248) and S3D ("Rethinking Spatiotemporal
Feature Learning", Xie et al., ECCV 2018, https://arxiv.org/abs/1712.04851).

An adapter: the networks are torchvision's, https://github.com/pytorch/vision, BSD-3-Clause.
"""

from typing import Any

import torch
from torch import nn

from dust.models.build import MODEL_REGISTRY
from dust.models.layers.checks import check_arguments
from dust.models.layers.common import window_means
from dust.models.layers.head import Checkpointed, ClassifierHead, run_block
from dust.models.layers.tokens import tokens_of_map
from dust.utils.errors import DustError

ARCHS = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d")


@MODEL_REGISTRY.register()
class TorchvisionVideo(ClassifierHead, Checkpointed):
    """Video (B, 3, T, H, W) -> logits (B, num_classes).

    Args:
        arch: ``r3d_18`` | ``mc3_18`` | ``r2plus1d_18`` | ``s3d``.
        num_classes: 0 makes the head an identity.
        dropout_rate: before the head; torchvision's own is 0 for the first three, 0.2 for S3D.
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.
    """

    def __init__(
        self, *, arch: str = "r3d_18", num_classes: int = 400, dropout_rate: float = 0.0, act_checkpoint: bool = False
    ) -> None:
        super().__init__()
        check_arguments(
            "TorchvisionVideo", above_zero={}, from_zero={"num_classes": num_classes},
            rates={"dropout_rate": dropout_rate}, choices={"arch": (arch, ARCHS)},
        )  # fmt: skip
        from torchvision.models import get_model

        network: Any = get_model(arch, weights=None)
        self.arch, self.num_classes, self.init_std = arch, num_classes, 0.01
        if arch == "s3d":
            self.num_features = network.classifier[1].in_channels
            self.features = network.features
            self.layer_stem, self.layer_blocks = r"^features\.0\.", r"^features\.(\d+)\."
            self.window: tuple[int, ...] = tuple(network.avgpool.kernel_size)
        else:
            self.num_features = network.fc.in_features
            self.features = nn.Sequential()
            for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
                self.features.add_module(name, getattr(network, name))
            self.layer_stem, self.layer_blocks = r"^features\.stem\.", r"^features\.layer(\d)\."
            self.window = ()
        self.head_drop = nn.Dropout(dropout_rate)
        self.set_grad_checkpointing(act_checkpoint)
        self.reset_classifier(num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for. Weights are loaded by the engine, not here."""
        return {
            "arch": "r3d_18" if cfg.MODEL.ARCH == "vit" else cfg.MODEL.ARCH,
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "dropout_rate": cfg.MODEL.DROPOUT_RATE,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
        }

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, T, H, W) float -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(video))

    def forward_features(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, T, H, W) float -> features (B, num_features, T', H', W')."""
        if video.ndim != 5 or video.shape[1] != 3:
            raise DustError(f"{self.arch} got video of shape {tuple(video.shape)}; it takes (B, 3, T, H, W)")
        x = video
        for block in self.features:
            x = run_block(block, self.act_checkpoint, x)
        return x

    def forward_tokens(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, 3, T, H, W) float -> no class token (B, 0, D), and the features as tokens (B, T', H', W', D)."""
        return tokens_of_map(self.forward_features(video))

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map features -> logits (B, num_classes), or with ``pre_logits`` the pooled features (B, num_features)."""
        if self.window:  # S3D's pool slides; the mean over its places weighs the middle more
            window = [min(size, most) for size, most in zip(features.shape[2:], self.window, strict=True)]
            features = window_means(features, window, (1, 1, 1))
        pooled = features.mean(dim=(2, 3, 4))
        return pooled if pre_logits else self.head(self.head_drop(pooled))

    def adapt_state_dict(
        self, state: dict[str, torch.Tensor], notes: list[str], pos_embed_resize: str | None = None
    ) -> dict[str, torch.Tensor]:
        """Return torchvision's own tensors under this model's names."""
        renamed = {}
        for key, tensor in state.items():
            if key.startswith(("stem.", "layer")):
                key = f"features.{key}"
            elif key.startswith(("fc.", "classifier.1.")):
                key = f"head.{key.rsplit('.', 1)[1]}"
                tensor = tensor.flatten(1) if tensor.ndim > 2 else tensor
            renamed[key] = tensor
        return renamed
