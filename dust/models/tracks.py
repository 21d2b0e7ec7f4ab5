"""Actions from points that a tracker follows in several cameras: a light transformer and an LSTM baseline.

The idea is that of the "light weight model" of
https://github.com/baturalpguven/AI-Driven-Furniture-Assembly-Tracking-System (MIT): efficient channel attention (ECA,
https://arxiv.org/abs/1910.03151) weighs the cameras, a small network reduces each camera's points to one vector per
frame, and a transformer or an LSTM reads the frames. Written from a description alone; tests compare with numbers that
the published code gave. ``compat=True`` repeats that model exactly. Without it, invisible points, missing cameras and
padded frames are masked, frames know their time, and the order of the points means nothing (reducer ``set``).

Shapes: B clips, V cameras, T frames, P points, F features of one camera in one frame, D width of a token,
K classes.
"""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from dust.models.build import MODEL_REGISTRY
from dust.models.layers.checks import check_arguments
from dust.models.track_front_end import ECA, PointTrackModel, keep_scale, sincos
from dust.utils.errors import DustError

__all__ = ["ECA", "PointTrackLSTM", "PointTrackTransformer"]

FUSIONS = ("concat", "tokens", "mean")
POOLS = ("mean", "last")
State = tuple[Tensor, Tensor]


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Map (B, L, D) and (B, L) bool -> (B, D), zeros where the mask is empty."""
    total = torch.where(mask.unsqueeze(-1), x, 0.0).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)


@MODEL_REGISTRY.register()
class PointTrackTransformer(PointTrackModel):
    """Point tracks of several cameras -> logits (B, num_classes).

    Args:
        num_views: V cameras; the order of the cameras is theirs for ever.
        num_points: P that a clip usually has; any number works.
        view_dim: F features of a camera in a frame.
        embed_dim: D of a token; with compat it is V * F.
        heads, layers, mlp_dim: sizes of the transformer; D must be a multiple of heads. The published mlp_dim is 2048.
        num_classes: 0 makes the head an identity, so that ``forward`` returns features (B, D).
        reducer: set (order-free) | cnn (published; depends on the order of the points).
        fusion: concat (one token per frame, of all cameras) | mean (of the cameras there) | tokens (one token per
            camera and frame).
        pool: mean over the frames that are there | last frame.
        use_eca: weigh the cameras.
        drop_rate: dropout in the reducer, the transformer and before the head, in [0, 1).
        compat: exactly the published model: cnn, concat, last; coordinates in pixels, ECA's kernel for 8 cameras, no
            masks, sines and cosines over the cameras, no time, post-norm.

    Raises ConfigError that names every argument that cannot be.
    """

    layer_stem = r"^(?:eca|reducer|view_embed|fuse)\b"

    def __init__(
        self,
        *,
        num_views: int = 4,
        num_points: int = 500,
        view_dim: int = 64,
        embed_dim: int = 256,
        heads: int = 4,
        layers: int = 2,
        mlp_dim: int | None = None,
        num_classes: int = 6,
        reducer: str = "set",
        fusion: str = "concat",
        pool: str = "mean",
        use_eca: bool = True,
        drop_rate: float = 0.1,
        compat: bool = False,
    ) -> None:
        if compat:
            reducer, fusion, pool, use_eca = "cnn", "concat", "last", True
            embed_dim = num_views * view_dim
        mlp_dim = mlp_dim or (2048 if compat else 2 * embed_dim)
        sizes = {"num_views": num_views, "num_points": num_points, "view_dim": view_dim}
        check_arguments(
            "PointTrackTransformer",
            above_zero={**sizes, "layers": layers, "mlp_dim": mlp_dim},
            from_zero={"num_classes": num_classes},
            rates={"drop_rate": drop_rate},
            choices={"reducer": (reducer, ("set", "cnn")), "fusion": (fusion, FUSIONS), "pool": (pool, POOLS)},
            multiples=[("embed_dim", embed_dim, "heads", heads)],
        )
        sizes["num_classes"] = num_classes
        super().__init__(reducer=reducer, use_eca=use_eca, drop_rate=drop_rate, compat=compat, **sizes)
        self.embed_dim = self.num_features = embed_dim
        self.fusion = fusion
        self.pool = pool
        if not compat:
            self.view_embed = nn.Parameter(torch.zeros(self.num_views, self.view_dim))
            nn.init.trunc_normal_(self.view_embed, std=0.02)
            self.time_scale = nn.Parameter(torch.full((1,), 0.1))
            width = self.num_views * self.view_dim if fusion == "concat" else self.view_dim
            self.fuse = nn.Conv1d(width, embed_dim, 3, padding=1)
            keep_scale(self.fuse)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                embed_dim,
                heads,
                mlp_dim,
                dropout=drop_rate,
                activation="relu" if compat else "gelu",
                batch_first=True,
                norm_first=not compat,
            )
            for _ in range(layers)
        )
        self.norm: nn.Module = nn.Identity() if compat else nn.LayerNorm(embed_dim)
        self.reset_classifier(self.num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for."""
        node = cfg.TRACKS
        return {
            "num_views": len(node.VIEWS),
            "num_points": node.NUM_POINTS,
            "view_dim": node.VIEW_DIM,
            "embed_dim": node.EMBED_DIM,
            "heads": node.NUM_HEADS,
            "layers": node.DEPTH,
            "mlp_dim": node.MLP_DIM,
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "reducer": node.REDUCER,
            "fusion": node.FUSION,
            "pool": node.POOL,
            "use_eca": node.ECA,
            "drop_rate": node.DROP_RATE,
            "compat": node.COMPAT,
        }

    def forward(
        self,
        tracks: Tensor,
        visible: Tensor | None = None,
        view_mask: Tensor | None = None,
        time_mask: Tensor | None = None,
    ) -> Tensor:
        """Map (B, V, T, P, 2), (B, V, T, P), (B, V), (B, T) -> (B, K). A mask that is not given is all true."""
        return self.forward_head(self.forward_features(tracks, visible, view_mask, time_mask))

    def forward_features(
        self,
        tracks: Tensor,
        visible: Tensor | None = None,
        view_mask: Tensor | None = None,
        time_mask: Tensor | None = None,
    ) -> Tensor:
        """Return features (B, D), pooled over the frames that are there."""
        return self.forward_frames(self.frame_features(tracks, visible, view_mask), view_mask, time_mask)

    def forward_frames(
        self, frames: Tensor, view_mask: Tensor | None = None, time_mask: Tensor | None = None
    ) -> Tensor:
        """Turn what :meth:`frame_features` gave, (B, T, V, F), into features (B, D)."""
        B, T, V, _ = frames.shape
        if self.compat:
            x = (frames + sincos(V, self.view_dim, frames)).flatten(2)
            for block in self.blocks:
                x = block(x)
            return x[:, -1]
        views = frames.new_ones((B, V), dtype=torch.bool) if view_mask is None else view_mask
        times = frames.new_ones((B, T), dtype=torch.bool) if time_mask is None else time_mask
        if times.shape != (B, T):
            raise DustError(f"PointTrackTransformer got time_mask {tuple(times.shape)} for {B} clips of {T} frames")
        # behind GELU, so that a mean over cameras still tells which camera saw what
        there = (times[:, :, None] & views[:, None]).unsqueeze(-1)  # (B, T, V, 1)
        x = torch.where(there, F.gelu(frames + self.view_embed), 0.0)
        mask, steps = times, torch.arange(T, device=frames.device)
        clock = self.time_scale * sincos(T, self.embed_dim, frames)
        if self.fusion == "concat":
            x = self._fuse(x.flatten(2)) + clock  # (B, T, D)
        elif self.fusion == "mean":
            x = self._fuse(x.sum(dim=2) / views.sum(dim=1).clamp(min=1)[:, None, None]) + clock
        else:
            x = self._fuse(x.transpose(1, 2).flatten(0, 1)).view(B, V, T, -1) + clock
            x = x.flatten(1, 2)  # (B, V * T, D)
            mask, steps = there[..., 0].transpose(1, 2).flatten(1), steps.repeat(V)
        if time_mask is not None or self.fusion == "tokens":
            # a clip without any frame attends to all of its empty tokens, instead of giving NaN
            hidden = ~(mask | ~mask.any(dim=1, keepdim=True))
        else:
            hidden = None
        for block in self.blocks:
            x = block(x, src_key_padding_mask=hidden)
        if self.pool == "last":
            mask = mask & (steps == torch.where(mask, steps, 0).amax(dim=1, keepdim=True))
        return masked_mean(self.norm(x), mask)

    def _fuse(self, x: Tensor) -> Tensor:
        """Map (M, T, width) -> (M, T, D), each frame with its two neighbours: what moves is seen without attention."""
        return self.fuse(x.transpose(1, 2)).transpose(1, 2)

    def no_weight_decay(self) -> set[str]:
        return set() if self.compat else {"view_embed"}


# ------------------------------------------------------------------------------------------------------------ LSTM


@MODEL_REGISTRY.register()
class PointTrackLSTM(PointTrackModel):
    """The baseline: point tracks of several cameras -> an LSTM over frames -> logits (B, num_classes).

    It is stateful: given the ``state`` that it returned for one window, it reads the next window of the same sequence
    as if the two were one. A new sequence begins with :meth:`initial_state`.

    Args:
        num_views, num_points, view_dim: as in PointTrackTransformer; view_dim is not used by ``flat``.
        hidden_dim, layers: sizes of the LSTM.
        num_classes: 0 makes the head an identity.
        reducer: set | cnn | flat (published: all points' coordinates side by side).
        pool: what the logits are made from: mean of the LSTM's outputs over the frames that are there | last frame.
        use_eca: weigh the cameras.
        drop_rate: dropout between the LSTM's layers and before the head, in [0, 1).
        per_frame: logits of every frame, (B, T, K), as the published model gives, instead of one for the window.
        detach_every: in training, frames after which the state is carried on without its gradient; 0: never. A clip
            then learns as its consecutive windows of so many frames would, one after the other, and begins from zeros.
        compat: exactly the published flat model: coordinates in pixels, ECA's kernel for 8 cameras, no masks.

    Raises ConfigError that names every argument that cannot be.
    """

    layer_stem = r"^(?:eca|reducer)\b"
    layer_blocks = r"^lstm\.\w+_l(\d+)"

    def __init__(
        self,
        *,
        num_views: int = 4,
        num_points: int = 500,
        view_dim: int = 64,
        hidden_dim: int = 256,
        layers: int = 2,
        num_classes: int = 6,
        reducer: str = "set",
        pool: str = "mean",
        use_eca: bool = True,
        drop_rate: float = 0.1,
        per_frame: bool = False,
        detach_every: int = 0,
        compat: bool = False,
    ) -> None:
        if compat:
            reducer, pool, use_eca = "flat", "last", True
        sizes = {"num_views": num_views, "num_points": num_points, "view_dim": view_dim}
        check_arguments(
            "PointTrackLSTM",
            above_zero={**sizes, "hidden_dim": hidden_dim, "layers": layers},
            from_zero={"num_classes": num_classes, "detach_every": detach_every},
            rates={"drop_rate": drop_rate},
            choices={"reducer": (reducer, ("set", "cnn", "flat")), "pool": (pool, POOLS)},
        )
        sizes["num_classes"] = num_classes
        super().__init__(reducer=reducer, use_eca=use_eca, drop_rate=drop_rate, compat=compat, **sizes)
        self.hidden_dim = self.num_features = hidden_dim
        self.layers = layers
        self.pool = pool
        self.per_frame = per_frame
        self.detach_every = detach_every
        width = self.num_views * self.view_dim
        self.lstm = nn.LSTM(width, hidden_dim, layers, batch_first=True, dropout=drop_rate if layers > 1 else 0.0)
        self.reset_classifier(self.num_classes)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that a configuration asks for."""
        node = cfg.TRACKS
        return {
            "num_views": len(node.VIEWS),
            "num_points": node.NUM_POINTS,
            "view_dim": node.VIEW_DIM,
            "hidden_dim": node.HIDDEN_DIM,
            "layers": node.DEPTH,
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "reducer": node.REDUCER,
            "pool": node.POOL,
            "use_eca": node.ECA,
            "drop_rate": node.DROP_RATE,
            "detach_every": node.DETACH_EVERY,
            "compat": node.COMPAT,
        }

    def initial_state(self, batch_size: int) -> State:
        """Return the state at the begin of a sequence: zeros, twice (layers, B, hidden_dim)."""
        zeros = next(self.lstm.parameters()).new_zeros((self.layers, batch_size, self.hidden_dim))
        return zeros, zeros.clone()

    def forward(
        self,
        tracks: Tensor,
        visible: Tensor | None = None,
        view_mask: Tensor | None = None,
        time_mask: Tensor | None = None,
        state: State | None = None,
    ) -> Tensor | dict[str, Any]:
        """Map (B, V, T, P, 2), (B, V, T, P), (B, V), (B, T) -> (B, K), from zeros. A mask that is not given is all
        true.

        With ``state``: ``{"logits": (B, K), "state": after the last frame, detached}``. Padding stands behind the
        frames; it changes no logits, but the state has read it, so a padded window ends its sequence.
        """
        frames = self.frame_features(tracks, visible, view_mask)
        out, after = self.read_frames(frames, state)
        logits = self.forward_head(out if self.per_frame else self._pool(out, time_mask))
        if state is None:
            return logits
        return {"logits": logits, "state": after}

    def forward_features(
        self,
        tracks: Tensor,
        visible: Tensor | None = None,
        view_mask: Tensor | None = None,
        time_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the LSTM's pooled output (B, hidden_dim); that of every frame (B, T, hidden_dim) with per_frame."""
        out, _ = self.read_frames(self.frame_features(tracks, visible, view_mask))
        return out if self.per_frame else self._pool(out, time_mask)

    def forward_frames(
        self, frames: Tensor, view_mask: Tensor | None = None, time_mask: Tensor | None = None
    ) -> Tensor:
        """Turn what :meth:`frame_features` gave, (B, T, V, F), into features (B, hidden_dim)."""
        return self._pool(self.read_frames(frames)[0], time_mask)

    def read_frames(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Map (B, T, V, F) -> the LSTM's output (B, T, hidden_dim), and its state after the last frame, detached."""
        x = frames.flatten(2)
        outputs = []
        for part in x.split(self.detach_every, dim=1) if self.training and self.detach_every else (x,):
            out, (h, c) = self.lstm(part, state)
            outputs.append(out)
            state = h.detach(), c.detach()
        assert state is not None
        return torch.cat(outputs, dim=1), state

    def _pool(self, out: Tensor, time_mask: Tensor | None) -> Tensor:
        if time_mask is None:
            return out[:, -1] if self.pool == "last" else out.mean(dim=1)
        if time_mask.shape != out.shape[:2]:
            raise DustError(f"PointTrackLSTM got time_mask {tuple(time_mask.shape)} for {tuple(out.shape[:2])} frames")
        if self.pool == "mean":
            return masked_mean(out, time_mask)
        steps = torch.arange(out.shape[1], device=out.device)
        last = torch.where(time_mask, steps, 0).amax(dim=1)
        return out[torch.arange(out.shape[0], device=out.device), last]

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.startswith("lstm.bias")}
