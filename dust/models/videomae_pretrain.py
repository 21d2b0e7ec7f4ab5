"""VideoMAE's pre-training: see few tubelets of a clip, predict the pixels of the others.

"VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training", Tong, Song, Wang,
Wang, NeurIPS 2022, https://arxiv.org/abs/2203.12602. Written from the paper and from the published parameter names and
numbers, not from the authors' code (https://github.com/MCG-NJU/VideoMAE, CC-BY-NC 4.0). The encoder that comes out is
:class:`dust.models.videomae_vit.VideoMAE`'s, which loads this model's checkpoints as they are.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from einops import rearrange

from dust.models.build import MODEL_REGISTRY
from dust.models.layers.checks import check_arguments, check_video, clip_multiples
from dust.models.layers.common import drop_path_rates
from dust.models.layers.foreign import check_patches
from dust.models.layers.head import Checkpointed, run_block
from dust.models.videomae_vit import (
    SinusoidPositions,
    State,
    TubeletEmbed,
    VideoMAEBlock,
    fill_query_biases,
    to_official_names,
)
from dust.utils.errors import DustError
from dust.utils.rng import torch_generator

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def tube_mask(
    clips: int, tubelets: int, places: int, ratio: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Return (clips, tubelets * places) bool, True = masked: int(ratio * places) places of each clip, at all times the
    same (the paper's section 3.3). Drawn from ``generator`` on its device, or from torch's own stream."""
    device = generator.device if generator is not None else None
    order = torch.rand(clips, places, generator=generator, device=device).argsort(dim=1)
    mask = order < int(ratio * places)  # each row of order is a permutation
    return mask.repeat(1, tubelets)


def tubelet_pixels(video: torch.Tensor, tubelet_size: int, patch_size: int) -> torch.Tensor:
    """Map (B, C, T, H, W) -> (B, N, tubelet * patch * patch, C): the pixels of each token, time first, column last."""
    sides = {"dt": tubelet_size, "dh": patch_size, "dw": patch_size}
    return rearrange(video, "b c (t dt) (h dh) (w dw) -> b (t h w) (dt dh dw) c", **sides)


class Encoder(nn.Module):
    """The ViT over the tokens that are seen: ``patch_embed``, ``blocks`` and ``norm``."""

    def __init__(self, patch_embed: nn.Module, blocks: nn.ModuleList, norm: nn.Module) -> None:
        super().__init__()
        self.patch_embed, self.blocks, self.norm = patch_embed, blocks, norm


class Decoder(nn.Module):
    """Blocks, ``norm`` and ``head``: tokens to pixels."""

    def __init__(self, blocks: nn.ModuleList, norm: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.blocks, self.norm, self.head = blocks, norm, head


@MODEL_REGISTRY.register()
class VideoMAEPretrain(Checkpointed):
    """Video (B, C, T, H, W) -> the prediction of its masked tubelets, what it should have been, and the loss.

    Decoders as published: width 192, 384, 512, 640 and heads 3, 6, 8, 10 for ViT-S, B, L, H; depth 4 for S and B, else
    12.

    Args:
        encoder_embed_dim, encoder_depth, encoder_num_heads, decoder_embed_dim, decoder_depth, decoder_num_heads,
        mlp_ratio, qkv_bias, ln_eps: sizes of the two transformers; ViT-B by default.
        img_size: pixels, an int or (H, W), and ``num_frames``: the clips that it is made for; others work too.
        patch_size, tubelet_size: a token's side in pixels and length in frames; they divide the video.
        in_chans: channels of the video.
        mask_ratio: share of the places that are masked, in (0, 1); int(mask_ratio * places) of them.
        normalize_target: bring each tubelet's pixels, per channel, to mean 0 and standard deviation 1.
        mean, std: what the video was normalised with, one number per channel: targets are pixels in 0..1.
        drop_path_rate: stochastic depth of the encoder's last block, in [0, 1).
        act_checkpoint: compute each block a second time in the backward pass instead of keeping its activations.

    Raises ConfigError that names every argument that cannot be.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        *,
        encoder_embed_dim: int = 768,
        encoder_depth: int = 12,
        encoder_num_heads: int = 12,
        decoder_embed_dim: int = 384,
        decoder_depth: int = 4,
        decoder_num_heads: int = 6,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_frames: int = 16,
        tubelet_size: int = 2,
        mask_ratio: float = 0.9,
        normalize_target: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        drop_path_rate: float = 0.0,
        ln_eps: float = 1e-6,
        act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        depths = {"encoder_depth": encoder_depth, "decoder_depth": decoder_depth}
        check_arguments(
            "VideoMAEPretrain",
            above_zero={"in_chans": in_chans, "mlp_ratio": mlp_ratio, "mask_ratio": mask_ratio, **depths},
            rates={"mask_ratio": mask_ratio, "drop_path_rate": drop_path_rate},
            multiples=[
                *clip_multiples(height, width, patch_size, num_frames, tubelet_size),
                ("encoder_embed_dim", encoder_embed_dim, "encoder_num_heads", encoder_num_heads),
                ("decoder_embed_dim", decoder_embed_dim, "decoder_num_heads", decoder_num_heads),
            ],
            more=[
                f"{name} has {len(values)} values for in_chans {in_chans}"
                for name, values in {"mean": mean, "std": std}.items()
                if len(values) != in_chans
            ],
        )
        self.patch_size, self.tubelet_size, self.in_chans = patch_size, tubelet_size, in_chans
        self.embed_dim = self.num_features = encoder_embed_dim
        self.encoder_num_heads, self.decoder_embed_dim = encoder_num_heads, decoder_embed_dim
        self.num_classes = 0
        self.mask_ratio, self.normalize_target = mask_ratio, normalize_target
        self.set_grad_checkpointing(act_checkpoint)
        for name, values in {"mean": mean, "std": std}.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1), persistent=False)

        def blocks(dim: int, heads: int, rates: list[float]) -> nn.ModuleList:
            sizes: dict[str, Any] = {"mlp_ratio": mlp_ratio, "qkv_bias": qkv_bias, "norm_eps": ln_eps}
            return nn.ModuleList(VideoMAEBlock(dim, heads, drop_path=rate, **sizes) for rate in rates)

        tokens = (num_frames // tubelet_size) * (height // patch_size) * (width // patch_size)
        self.positions = SinusoidPositions(tokens, encoder_embed_dim)
        self.decoder_positions = SinusoidPositions(tokens, decoder_embed_dim)
        self.encoder = Encoder(
            TubeletEmbed(patch_size, tubelet_size, in_chans, encoder_embed_dim),
            blocks(encoder_embed_dim, encoder_num_heads, drop_path_rates(drop_path_rate, encoder_depth)),
            nn.LayerNorm(encoder_embed_dim, eps=ln_eps),
        )
        self.encoder_to_decoder = nn.Linear(encoder_embed_dim, decoder_embed_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder = Decoder(
            blocks(decoder_embed_dim, decoder_num_heads, [0.0] * decoder_depth),
            nn.LayerNorm(decoder_embed_dim, eps=ln_eps),
            nn.Linear(decoder_embed_dim, in_chans * tubelet_size * patch_size**2),
        )
        self._init_weights()

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for."""
        node = cfg.VIDEOMAE
        return {
            "encoder_embed_dim": node.EMBED_DIM,
            "encoder_depth": node.DEPTH,
            "encoder_num_heads": node.NUM_HEADS,
            "decoder_embed_dim": node.DECODER_EMBED_DIM,
            "decoder_depth": node.DECODER_DEPTH,
            "decoder_num_heads": node.DECODER_NUM_HEADS,
            "mlp_ratio": node.MLP_RATIO,
            "qkv_bias": node.QKV_BIAS,
            "img_size": cfg.DATA.TRAIN_CROP_SIZE,
            "patch_size": node.PATCH_SIZE,
            "in_chans": cfg.DATA.INPUT_CHANNEL_NUM[0],
            "num_frames": cfg.DATA.NUM_FRAMES,
            "tubelet_size": node.TUBELET_SIZE,
            "mask_ratio": node.MASK_RATIO,
            "normalize_target": node.NORMALIZE_TARGET,
            "mean": cfg.DATA.MEAN,
            "std": cfg.DATA.STD,
            "drop_path_rate": node.DROP_PATH_RATE,
            "act_checkpoint": cfg.MODEL.ACT_CHECKPOINT,
        }

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self, video: torch.Tensor, mask: torch.Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """Map (B, C, T, H, W) normalised float -> what is named below, M tokens of each clip being masked.

        ``mask`` is (B, N) bool, True = masked, tokens by time, row, column, equally many in each clip. Without it
        :func:`tube_mask` draws one from ``generator``; without that either, in training from torch's own stream, as
        dropout does, and in evaluation always the same one for every clip.

        Returns ``prediction`` and ``target`` (B, M, tubelet * patch * patch * C), channels fastest; ``mask``; and
        ``loss``, the mean squared error, float32. Raises DustError for a mask that does not fit.
        """
        tokens, mask, order = self._encode(video, mask, generator)
        seen = tokens.shape[1]
        positions = (
            self.decoder_positions(mask.shape[1])
            .expand(len(video), -1, -1)
            .gather(1, _expand(order, self.decoder_embed_dim))
        )
        x = self.encoder_to_decoder(tokens)
        hidden = self.mask_token.expand(len(video), mask.shape[1] - seen, -1)
        x = torch.cat([x, hidden], dim=1) + positions  # first what is seen, then what is masked
        for block in self.decoder.blocks:
            x = run_block(block, self.act_checkpoint, x)
        prediction = self.decoder.head(self.decoder.norm(x[:, seen:]))
        target = self.targets(video).gather(1, _expand(order[:, seen:], prediction.shape[2]))
        loss = nn.functional.mse_loss(prediction.float(), target.float())
        return {"prediction": prediction, "target": target, "mask": mask, "loss": loss}

    def forward_features(
        self, video: torch.Tensor, mask: torch.Tensor | None = None, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Map (B, C, T, H, W) -> the encoder's tokens (B, N - M, D) of what is seen; ``mask`` as in ``forward``."""
        return self._encode(video, mask, generator)[0]

    def _encode(
        self, video: torch.Tensor, mask: torch.Tensor | None, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return tokens (B, N - M, D), the mask, and the order (B, N): numbers of the seen tokens, then of the
        masked."""
        check_video(
            "VideoMAEPretrain",
            video,
            in_chans=self.in_chans,
            patch_size=self.patch_size,
            tubelet_size=self.tubelet_size,
        )
        mask, seen = self._mask_of(video, mask, generator)
        order = mask.int().argsort(dim=1, stable=True)
        x = self.encoder.patch_embed(video)  # (B, N, D)
        x = x + self.positions(x.shape[1])
        x = x.gather(1, _expand(order[:, :seen], self.embed_dim))
        for block in self.encoder.blocks:
            x = run_block(block, self.act_checkpoint, x)
        return self.encoder.norm(x), mask, order

    def _mask_of(
        self, video: torch.Tensor, mask: torch.Tensor | None, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, int]:
        """Return the mask on the video's device, and how many tokens of each clip are seen."""
        B, _, T, H, W = video.shape
        tubelets, places = T // self.tubelet_size, (H // self.patch_size) * (W // self.patch_size)
        if mask is None:
            if generator is None and not self.training:
                fixed = tube_mask(1, tubelets, places, self.mask_ratio, torch_generator("tube mask of evaluation"))
                mask = fixed.expand(B, -1)
            else:
                mask = tube_mask(B, tubelets, places, self.mask_ratio, generator)
            masked = tubelets * int(self.mask_ratio * places)
            counts = {masked}
        else:
            if mask.dtype != torch.bool or mask.shape != (B, tubelets * places):
                raise DustError(
                    f"VideoMAEPretrain got a mask of {mask.dtype} and shape {tuple(mask.shape)}; for this video it "
                    f"must be bool and {(B, tubelets * places)}: clips, tokens"
                )
            counts = set(mask.sum(dim=1).tolist())
            masked = max(counts, default=1)
        if len(counts) > 1 or not 0 < masked < tubelets * places:
            raise DustError(
                f"VideoMAEPretrain: {sorted(counts)} of {tubelets * places} tokens are masked; it must be equally many "
                "in each clip, neither none nor all: change the mask or mask_ratio"
            )
        if video.is_cuda and not mask.is_cuda:
            mask = mask.contiguous().pin_memory()  # else the copy would wait for what the device has to do
        return mask.to(video.device, non_blocking=True), tubelets * places - masked

    @torch.no_grad()
    def targets(self, video: torch.Tensor) -> torch.Tensor:
        """Map (B, C, T, H, W) normalised -> (B, N, tubelet * patch * patch * C), channels fastest: pixels in 0..1, or
        with ``normalize_target`` those less their mean, over their standard deviation (unbiased) + 1e-6."""
        pixels = tubelet_pixels(video.float() * self.std + self.mean, self.tubelet_size, self.patch_size)
        if self.normalize_target:
            std, mean = torch.std_mean(pixels, dim=2, keepdim=True)
            pixels = (pixels - mean) / (std + 1e-6)
        return pixels.flatten(2)

    def no_weight_decay(self) -> set[str]:
        biases = {name for name, _ in self.named_parameters() if name.endswith(("q_bias", "v_bias"))}
        return {"mask_token", *biases}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's description of the layers: embeddings 0, block i of the encoder i + 1, norm and decoder
        last."""
        return {"stem": r"^encoder\.patch_embed", "blocks": [(r"^encoder\.blocks\.(\d+)", None)]}

    def adapt_state_dict(self, state: State, notes: list[str], pos_embed_resize: str | None = None) -> State:
        """Return the published pre-trainings' tensors, in the authors' or Hugging Face's layout, under this model's
        names; of a classifier the encoder. ``notes`` gets a line for all that was changed."""
        state = to_official_names(state, notes, self.encoder_num_heads)
        state = {re.sub(r"^(patch_embed|blocks|norm)\.", r"encoder.\1.", key): tensor for key, tensor in state.items()}
        fill_query_biases(state, dict(self.named_parameters()), notes)
        kernel = "encoder.patch_embed.proj.weight"
        check_patches(state, kernel, self.get_parameter(kernel).shape, "VIDEOMAE.PATCH_SIZE and TUBELET_SIZE")
        if "fc_norm.weight" in state:
            notes.append("a classifier's encoder: its norm behind the mean (fc_norm) is not used")
        return {key: tensor for key, tensor in state.items() if not key.startswith("fc_norm.")}


def _expand(order: torch.Tensor, width: int) -> torch.Tensor:
    """Map (B, L) token numbers -> (B, L, width), as ``gather`` takes them."""
    return order.unsqueeze(2).expand(-1, -1, width)
