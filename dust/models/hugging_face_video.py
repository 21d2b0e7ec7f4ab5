"""Video classifiers of Hugging Face's transformers: ViViT (Arnab et al., ICCV 2021, https://arxiv.org/abs/2103.15691),
VideoPrism (Zhao et al., ICML 2024, https://arxiv.org/abs/2402.13217), TimeSformer, VideoMAE, V-JEPA 2:
whatever the installed version calls a model for video classification.

An adapter: the networks are those of https://github.com/huggingface/transformers, Apache-2.0; their weights have
licences of their own. Needs the extra ``huggingface``.
"""

import copy
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dust.models.build import MODEL_REGISTRY
from dust.models.layers.checks import check_arguments
from dust.models.layers.head import ClassifierHead
from dust.utils.errors import ConfigError, DustError
from dust.utils.structured import read_json

#: How the configurations of transformers call the side of a picture and the number of frames.
SIDES, FRAMES = ("image_size", "crop_size"), ("num_frames", "frames_per_clip")


@MODEL_REGISTRY.register()
class HuggingFaceVideo(ClassifierHead):
    """Video (B, 3, T, H, W) -> logits (B, num_classes).

    Args:
        arch: a folder with a config.json, or the name of a model of transformers (vivit, videoprism_vision_model,
            timesformer, videomae, vjepa2) at its default sizes.
        num_classes: 0 makes the head an identity, and the output what the classifier would see.
        img_size: side of a picture, pixels. A folder's configuration must have the same.
        num_frames: of a clip; likewise.
        dropout_rate: before the classifier, in [0, 1).
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.
        options: other values of its configuration, such as ``{"num_hidden_layers": 2}``.

    Raises ConfigError where transformers is missing or knows no such model, and where the sizes are not the folder's.
    """

    network: Any
    layer_stem = r"^network\.\w+\.(?:encoder\.)?embeddings\."
    layer_blocks = r"^network\.\w+\.(?:\w+_)?encoder\.layers?\.(\d+)\."

    def __init__(
        self,
        *,
        arch: str,
        num_classes: int = 400,
        img_size: int = 224,
        num_frames: int = 16,
        dropout_rate: float = 0.0,
        act_checkpoint: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_arguments(
            "HuggingFaceVideo", above_zero={"img_size": img_size, "num_frames": num_frames},
            from_zero={"num_classes": num_classes}, rates={"dropout_rate": dropout_rate},
        )  # fmt: skip
        self.arch, self.num_frames, self.img_size = arch, num_frames, img_size
        self.num_classes, self.init_std = num_classes, 0.01
        self.network = build_network(arch, img_size, num_frames, dict(options or {}))
        self.num_features = self.network.classifier.in_features
        self.network.classifier = nn.Identity()
        self.head_drop = nn.Dropout(dropout_rate)
        self.set_grad_checkpointing(act_checkpoint)
        self.reset_classifier(num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for. Weights are loaded by the engine, not here."""
        return {
            "arch": cfg.MODEL.ARCH,
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "img_size": cfg.DATA.TRAIN_CROP_SIZE,
            "num_frames": cfg.DATA.NUM_FRAMES,
            "dropout_rate": cfg.MODEL.DROPOUT_RATE,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
        }

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, T, H, W) float -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(video))

    def forward_features(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, T, H, W) float -> what the network's classifier sees, (B, num_features): it pools by itself."""
        wanted = (3, self.num_frames, self.img_size, self.img_size)
        if video.ndim != 5 or tuple(video.shape[1:]) != wanted:
            built = ", ".join(map(str, wanted))
            raise DustError(f"{self.arch} got video of shape {tuple(video.shape)}; it was built for (B, {built})")
        features = self.network(**{self.network.main_input_name: video.transpose(1, 2)}).logits
        return features.flatten(1)  # VideoPrism's are (B, 1, D)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map features (B, num_features) -> logits (B, num_classes), or with ``pre_logits`` the features themselves."""
        return features if pre_logits else self.head(self.head_drop(features))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch the recomputing of activations on or off. ConfigError where the network has none."""
        if enable and not self.network.supports_gradient_checkpointing:
            raise ConfigError(f"MODEL.ACT_CHECKPOINT True: {type(self.network).__name__} cannot; set it False")
        if enable:
            self.network.gradient_checkpointing_enable()
        elif self.network.supports_gradient_checkpointing:
            self.network.gradient_checkpointing_disable()

    def adapt_state_dict(
        self, state: dict[str, torch.Tensor], notes: list[str], pos_embed_resize: str | None = None
    ) -> dict[str, torch.Tensor]:
        """Return transformers' files, with or without a classifier, under this model's names: its own loader translates
        them, since its names in files are not those in memory."""
        if all(key.startswith(("network.", "head.")) for key in state):
            return dict(state)
        config, classifier = copy.deepcopy(self.network.config), state.get("classifier.weight")
        config.num_labels = 2 if classifier is None else len(classifier)
        loaded, found = type(self.network).from_pretrained(
            None, config=config, state_dict=dict(state), output_loading_info=True
        )
        notes.append("names translated by transformers")
        tensors = {key: tensor for key, tensor in loaded.state_dict().items() if key not in found["missing_keys"]}
        tensors |= {key: state[key] for key in found["unexpected_keys"] if key in state}
        return {
            f"head.{key[11:]}" if key.startswith("classifier.") else f"network.{key}": tensor
            for key, tensor in tensors.items()
        }


def build_network(arch: str, img_size: int, num_frames: int, options: dict[str, Any]) -> Any:
    """Return a classifier of transformers with fresh weights.

    Raises:
        ConfigError: transformers is missing or knows no such classifier of videos, or the sizes are others.
    """
    if find_spec("transformers") is None:
        raise ConfigError(
            "MODEL.MODEL_NAME HuggingFaceVideo needs transformers, which is not installed: "
            "pip install dust-video[huggingface]"
        )
    from transformers import AutoConfig, AutoModelForVideoClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES as KNOWN

    file = Path(os.path.expanduser(arch)) / "config.json"
    stored = read_json(file) if file.is_file() else {"model_type": arch}
    kind = stored.pop("model_type", "an unknown kind")
    if kind not in KNOWN:
        found = (
            f"its config.json is of {kind}"
            if file.is_file()
            else "neither a folder with a config.json nor a video classifier"
        )
        raise ConfigError(f"MODEL.ARCH {arch}: {found}; this version of transformers has {', '.join(sorted(KNOWN))}")
    config = AutoConfig.for_model(kind, **{**stored, **options})
    for names, value, key in ((SIDES, img_size, "DATA.TRAIN_CROP_SIZE"), (FRAMES, num_frames, "DATA.NUM_FRAMES")):
        name = next(name for name in names if hasattr(config, name))
        if file.is_file() and getattr(config, name) not in (value, [value, value], (value, value)):
            raise ConfigError(f"{file}: {name} {getattr(config, name)}, and {key} is {value}: set it to that")
        setattr(config, name, value)
    network = AutoModelForVideoClassification.from_config(config)
    if not isinstance(network.classifier, nn.Linear):
        raise ConfigError(f"MODEL.ARCH {arch}: the head of {type(network).__name__} is no linear classifier")
    return network
