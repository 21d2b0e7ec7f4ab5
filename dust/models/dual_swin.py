"""DUST's fusion of a video and a sensor series: a 1-D Swin on the series beside features of the video.

Source: DUST (https://github.com/datadrivenwheels/DUST, MIT), stage 4: ``head(cat[series features, video features])``.
``gated`` is the gated multimodal unit of Arevalo et al. (https://arxiv.org/abs/1702.01992, eq. 3); ``cross_attention``
lets the tokens of each modality look at the other's, as in Lu et al. (https://arxiv.org/abs/1908.02265, sec. 3.1).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dust.models.build import MODEL_REGISTRY
from dust.models.layers.head import ClassifierHead, new_head
from dust.models.series_swin import SeriesSwin
from dust.models.video_swin import VideoSwin
from dust.utils.errors import ConfigError, DataError
from dust.utils.features import FeatureStore
from dust.utils.stages import stage_features

MODES = ("concat", "gated", "cross_attention")


@MODEL_REGISTRY.register()
class DualSwinFusion(ClassifierHead):
    """A series (B, C, L) and the features of a video, or the video itself, -> logits (B, num_classes).

    Args:
        video_feature_dim: channels of the video features; not used where ``video`` is given.
        mode: ``concat`` (DUST) | ``gated`` | ``cross_attention`` (of tokens, so it needs features that are a map).
        video: arguments of a :class:`VideoSwin` that is trained along, on raw video, instead of stored features.
        unimodal_heads: the output is then a dict ``{"logits", "series", "video"}``, each (B, num_classes): what the
            fused head, and a linear head on each modality alone, say. Their gradients stop before the backbones.
        fusion_dim, fusion_heads: channels that gated and cross_attention fuse in, and the heads of the latter.
        head_drop_rate: dropout before the fused head, 0..1.
        drop_modality: in training, the chance that one of the two, either as likely, is missing in a sample: its tokens
            are zeros. Above 0 the output of an evaluation also has ``no_series`` and ``no_video``, what the fused head
            says without the one and without the other.
        init_from: ``{"series_backbone" | "video_backbone": (configuration key, stage)}`` to begin from.
        **series: arguments of the :class:`SeriesSwin` (``in_chans``, ``seq_len``, ``embed_dim``, ...).
    """

    def __init__(
        self,
        *,
        video_feature_dim: int = 1024,
        num_classes: int = 4,
        mode: str = "concat",
        video: Mapping[str, Any] | None = None,
        unimodal_heads: bool = False,
        fusion_dim: int = 256,
        fusion_heads: int = 4,
        head_drop_rate: float = 0.0,
        drop_modality: float = 0.0,
        act_checkpoint: bool = False,
        init_from: Mapping[str, tuple[str, str]] | None = None,
        **series: Any,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ConfigError(f"fusion mode {mode!r}: choose {', '.join(MODES)}")
        if not 0 <= drop_modality < 1:
            raise ConfigError(f"drop_modality {drop_modality}: must be in [0, 1)")
        self.drop_modality = drop_modality
        self.num_classes, self.mode, self.init_from = num_classes, mode, dict(init_from or {})
        self.series_backbone = SeriesSwin(**series, num_classes=0, act_checkpoint=act_checkpoint)
        self.video_backbone = None
        if video is not None:
            self.video_backbone = VideoSwin(**video, num_classes=0, act_checkpoint=act_checkpoint)
            video_feature_dim = self.video_backbone.num_features
        self.series_dim, self.video_dim = self.series_backbone.num_features, video_feature_dim
        if mode == "concat":
            self.num_features = self.series_dim + self.video_dim
            self.fusion: nn.Module = nn.Identity()
        elif mode == "gated":
            self.num_features = fusion_dim
            self.fusion = GatedFusion(self.series_dim, self.video_dim, fusion_dim)
        else:
            self.num_features = 2 * fusion_dim
            self.fusion = CrossAttentionFusion(self.series_dim, self.video_dim, fusion_dim, fusion_heads)
        self.head_drop = nn.Dropout(head_drop_rate)
        self.unimodal_heads = unimodal_heads
        self.reset_classifier(num_classes)

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        fusion = cfg.FUSION
        series = SeriesSwin.from_config(cfg)
        video = VideoSwin.from_config(cfg) if fusion.END_TO_END else None
        for backbone in (series, video or {}):
            for own in ("num_classes", "act_checkpoint"):
                backbone.pop(own, None)
        parts = {}
        if fusion.SERIES_FROM:
            parts["series_backbone"] = ("FUSION.SERIES_FROM", fusion.SERIES_FROM)
        if fusion.VIDEO_FROM and fusion.END_TO_END:
            parts["video_backbone"] = ("FUSION.VIDEO_FROM", fusion.VIDEO_FROM)
        return {
            **series,
            "video": video,
            "video_feature_dim": fusion.FEATURE_DIM or (0 if fusion.END_TO_END else _stored_dim(cfg)),
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "mode": fusion.MODE,
            "unimodal_heads": fusion.UNIMODAL_HEADS,
            "fusion_dim": fusion.EMBED_DIM,
            "fusion_heads": fusion.NUM_HEADS,
            "head_drop_rate": fusion.DROP_RATE,
            "drop_modality": fusion.DROP_MODALITY,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
            "init_from": parts,
        }

    def reset_classifier(self, num_classes: int) -> None:
        """Put in new heads for other classes; 0 for none, so that the fused features come out."""
        super().reset_classifier(num_classes)
        with_heads = self.unimodal_heads and num_classes > 0
        like = next(self.parameters())
        self.series_head = new_head(self.series_dim, num_classes).to(like) if with_heads else None
        self.video_head = new_head(self.video_dim, num_classes).to(like) if with_heads else None

    def forward_features(
        self, series: Tensor, video_features: Tensor | None = None, video: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return tokens of both modalities: (B, L', series_dim) and (B, N, video_dim); N is 1 for pooled features.

        Args:
            series: (B, C, L).
            video_features: pooled (B, D), tokens (B, N, D), or a map (B, D, ...).
            video: (B, C, T, H, W), where the model has a video backbone.
        """
        if self.video_backbone is not None:
            if video is None:
                raise ConfigError("this model has a video backbone (FUSION.END_TO_END): give it video")
            video_features = self.video_backbone.forward_features(video)  # (B, D, T', H', W')
        if video_features is None:
            raise ConfigError("this model fuses stored features: give it video_features")
        tokens = _tokens(video_features)  # (B, N, D)
        if tokens.shape[-1] != self.video_dim:
            raise ConfigError(
                f"video features of {tokens.shape[-1]} channels, shape {tuple(video_features.shape)}; the model is "
                f"made for {self.video_dim} (FUSION.FEATURE_DIM)"
            )
        if self.mode == "cross_attention" and tokens.shape[1] == 1 and self.video_backbone is None:
            raise ConfigError(
                "FUSION.MODE cross_attention fuses tokens, and these features are pooled: extract them with "
                "FEATURES.LAYER map, or choose concat or gated"
            )
        return self.series_backbone.forward_features(series).transpose(1, 2), tokens

    def forward_head(self, features: tuple[Tensor, Tensor], pre_logits: bool = False) -> Any:
        """Fuse what :meth:`forward_features` gave: (B, num_features), or logits as :meth:`forward` gives them."""
        series, video = features
        fused = self._fuse(*(self._drop(series, video) if self.drop_modality and self.training else features))
        if pre_logits:
            return fused
        outputs = {"logits": self.head(self.head_drop(fused))}
        if self.series_head is not None and self.video_head is not None:
            outputs["series"] = self.series_head(series.mean(dim=1).detach())
            outputs["video"] = self.video_head(video.mean(dim=1).detach())
        if self.drop_modality and not self.training and self.num_classes:
            outputs["no_series"] = self.head(self._fuse(torch.zeros_like(series), video))
            outputs["no_video"] = self.head(self._fuse(series, torch.zeros_like(video)))
        return outputs if len(outputs) > 1 else outputs["logits"]

    def _fuse(self, series: Tensor, video: Tensor) -> Tensor:
        """Map tokens (B, L', S) and (B, N, V) -> (B, num_features)."""
        if self.mode == "cross_attention":
            return self.fusion(series, video)
        if self.mode == "gated":
            return self.fusion(series.mean(dim=1), video.mean(dim=1))
        return torch.cat([series.mean(dim=1), video.mean(dim=1)], dim=1)

    def _drop(self, series: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """Return zeros in place of one modality's tokens, in some of the samples."""
        draw = torch.rand(len(series), 1, 1, device=series.device)
        half = self.drop_modality / 2
        no_series, no_video = draw < half, (draw >= half) & (draw < 2 * half)
        return torch.where(no_series, 0.0, series), torch.where(no_video, 0.0, video)

    def forward(self, series: Tensor, video_features: Tensor | None = None, video: Tensor | None = None) -> Any:
        """Map (B, C, L) and (B, D) | (B, N, D) | (B, D, ...) | video (B, C, T, H, W) -> (B, num_classes), or the
        dict."""
        return self.forward_head(self.forward_features(series, video_features, video))

    def _backbones(self) -> dict[str, SeriesSwin | VideoSwin]:
        backbones: dict[str, SeriesSwin | VideoSwin] = {"series_backbone": self.series_backbone}
        return backbones if self.video_backbone is None else {**backbones, "video_backbone": self.video_backbone}

    def no_weight_decay(self) -> set[str]:
        return {f"{part}.{name}" for part, model in self._backbones().items() for name in model.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's description of the layers: those of the backbones, blocks of equal number side by side; heads
        last."""
        stems: list[str] = []
        blocks: list[Any] = []
        for part, model in self._backbones().items():
            matcher = model.group_matcher(coarse)
            stems.append(matcher["stem"].replace("^", rf"{part}\.", 1))
            blocks += [(pattern.replace("^", rf"^{part}\.", 1), suffix) for pattern, suffix in matcher["blocks"]]
        return {"stem": "^(?:" + "|".join(stems) + ")", "blocks": blocks}

    def adapt_state_dict(
        self, state: dict[str, Tensor], notes: list[str], pos_embed_resize: str | None = None
    ) -> dict[str, Tensor]:
        """Translate DUST's final_fusion.pth, which has the series backbone's names at the top, and the fused head as
        ``head``."""
        if any(key.startswith(("series_backbone.", "video_backbone.")) for key in state):
            return state
        head = {key: value for key, value in state.items() if key.startswith("head.")}
        body = {key: value for key, value in state.items() if key not in head}
        body = self.series_backbone.adapt_state_dict(body, notes, pos_embed_resize)
        notes.append("DUST's layout: the series backbone at the top")
        return {**{f"series_backbone.{key}": value for key, value in body.items()}, **head}


class GatedFusion(nn.Module):
    """z = g * tanh(W_s s) + (1 - g) * tanh(W_v v) with g = sigmoid(W_g [s, v]): (B, S), (B, V) -> (B, dim)."""

    def __init__(self, series_dim: int, video_dim: int, dim: int) -> None:
        super().__init__()
        self.series = nn.Linear(series_dim, dim)
        self.video = nn.Linear(video_dim, dim)
        self.gate = nn.Linear(series_dim + video_dim, dim)

    def forward(self, series: Tensor, video: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(torch.cat([series, video], dim=1)))
        return gate * torch.tanh(self.series(series)) + (1 - gate) * torch.tanh(self.video(video))


class CrossAttentionFusion(nn.Module):
    """Tokens (B, L, S) and (B, N, V) -> (B, 2 * dim): each modality's tokens, plus what they see in the other's."""

    def __init__(self, series_dim: int, video_dim: int, dim: int, num_heads: int) -> None:
        super().__init__()
        self.series = nn.Sequential(nn.Linear(series_dim, dim), nn.LayerNorm(dim))
        self.video = nn.Sequential(nn.Linear(video_dim, dim), nn.LayerNorm(dim))
        self.series_to_video = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.video_to_series = nn.MultiheadAttention(dim, num_heads, batch_first=True)

    def forward(self, series: Tensor, video: Tensor) -> Tensor:
        series, video = self.series(series), self.video(video)
        of_series = series + self.series_to_video(series, video, video, need_weights=False)[0]
        of_video = video + self.video_to_series(video, series, series, need_weights=False)[0]
        return torch.cat([of_series.mean(dim=1), of_video.mean(dim=1)], dim=1)


def _tokens(features: Tensor) -> Tensor:
    """Map (B, D) -> (B, 1, D); (B, N, D) as it is; a map (B, D, ...) -> (B, N, D)."""
    if features.ndim == 2:
        return features[:, None]
    return features if features.ndim == 3 else features.flatten(2).transpose(1, 2)


def _stored_dim(cfg) -> int:
    """Return the channels of the features that FUSION.FEATURES_FROM holds."""
    folder = stage_features(cfg.FUSION.FEATURES_FROM, cfg.OUTPUT_DIR, "FUSION.FEATURES_FROM")
    for split in ("train", "test", "val"):
        try:
            shape = FeatureStore.open(folder, split).shape
        except DataError:
            if split == "val":
                raise
            continue
        return shape[-1] if len(shape) == 2 else shape[0]
    raise AssertionError("unreachable")
