"""The front end of the point track models: attention over cameras, and each camera's points as one vector per frame.

Shapes: B clips, V cameras, T frames, P points, F features of one camera in one frame, K classes.
"""

import math

import torch
import torch.nn as nn
from torch import Tensor

from dust.models.layers.head import ClassifierHead
from dust.utils.errors import ConfigError, DustError

FRAMES_AT_ONCE = 32
COMPAT_ECA_CHANNELS = 8  # the published code sizes ECA's kernel for eight cameras, however many there are


def eca_kernel(channels: int) -> int:
    """Return ECA's kernel for a number of channels (equation 12 of the paper, gamma 2, b 1): odd, 1 below eight
    channels."""
    t = int(abs((math.log2(channels) + 1) / 2))
    return t if t % 2 else t + 1


class ECA(nn.Module):
    """Efficient channel attention: each channel times a weight in (0, 1) from its own mean and its neighbours'.

    Args:
        channels: C; cameras, in the models below.
        k_size: odd width of the convolution over channels; None takes :func:`eca_kernel`.
    """

    def __init__(self, channels: int, k_size: int | None = None) -> None:
        super().__init__()
        k_size = eca_kernel(channels) if k_size is None else k_size
        if k_size < 1 or k_size % 2 == 0:
            raise ConfigError(f"ECA: k_size is {k_size}, it must be odd and above 0")
        self.conv = nn.Conv1d(1, 1, k_size, padding=k_size // 2, bias=False)

    def weights(self, means: Tensor) -> Tensor:
        """Map means (..., C) -> weights (..., C)."""
        return self.conv(means.reshape(-1, 1, means.shape[-1])).sigmoid().view_as(means)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) -> the same shape."""
        return x * self.weights(x.mean(dim=(2, 3)))[:, :, None, None]


# ----------------------------------------------------------- reducers: (N, P, 3) points of N frames -> (N, F) features
#
# A point is (x, y, 1), and (0, 0, 0) where it is not visible. With compat only (x, y), visible or not.


class SetReducer(nn.Module):
    """A shared MLP on every point, then mean and maximum over the visible ones: the order of the points is lost.

    The MLP has no biases (the constant 1 of a visible point serves as one), so an invisible point gives zeros, which
    change neither the sum nor, behind a ReLU, the maximum. No mask has to be applied to the many values between.
    """

    def __init__(self, columns: int, out_features: int, hidden: tuple[int, int] = (32, 40)) -> None:
        super().__init__()
        self.fc1 = nn.Linear(columns, hidden[0], bias=False)
        self.fc2 = nn.Linear(hidden[0], hidden[1], bias=False)
        self.proj = nn.Linear(2 * hidden[1], out_features)
        # weights that keep the size of the signal: torch's own ones let the motion drown in the biases of later layers
        # (three times as much on x and y lets most ReLUs bend within the frame)
        nn.init.normal_(self.fc1.weight)
        with torch.no_grad():
            self.fc1.weight[:, :2] *= 3
        nn.init.kaiming_normal_(self.fc2.weight, nonlinearity="relu")
        keep_scale(self.proj)

    def forward(self, points: Tensor) -> Tensor:
        if torch.compiler.is_exporting() or in_one_go(points):  # exported, the batch would say how many parts there are
            return self.proj(self._pool(points))
        # a few frames at a time stay in the processor's cache; all at once take about twice as long
        return self.proj(torch.cat([self._pool(frames) for frames in points.split(FRAMES_AT_ONCE)]))

    def _pool(self, points: Tensor) -> Tensor:
        """Map (N, P, 3) -> (N, 2 * hidden[1])."""
        count = points[..., 2].sum(dim=1, keepdim=True).clamp(min=1)  # (N, 1)
        x = self.fc2(self.fc1(points).relu_()).relu_()  # (N, P, hidden[1])
        return torch.cat([x.sum(dim=1) / count, x.amax(dim=1)], dim=1)


def in_one_go(points: Tensor) -> bool:
    """Tell whether all frames are reduced together. CUDA has no cache to stay in, and each part costs 25 launches."""
    return points.is_cuda


def keep_scale(layer: nn.Linear | nn.Conv1d) -> None:
    """Set first weights whose outputs are as large as the inputs; no bias."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


class CnnReducer(nn.Module):
    """The published reducer: two convolutions over the list of points, then a global mean.

    It compares neighbours in the list, so it depends on the order of the points and on how many the list is padded to.
    """

    def __init__(self, columns: int, out_features: int, drop: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, (3, columns), padding=1)
        self.conv2 = nn.Conv2d(16, 32, (3, 1), padding=1)
        self.pool = nn.MaxPool2d((2, 1), stride=2)
        self.drop = nn.Dropout(drop)
        self.fc1 = nn.Linear(32, out_features)

    def forward(self, points: Tensor) -> Tensor:
        x = points.unsqueeze(1)  # (N, 1, P, columns): a picture of one channel
        x = self.drop(self.pool(self.conv1(x).relu_()))
        x = self.drop(self.pool(self.conv2(x).relu_()))
        return self.fc1(x.mean(dim=(2, 3)))


class FlatReducer(nn.Module):
    """No reduction: F = P * columns."""

    def forward(self, points: Tensor) -> Tensor:
        return points.flatten(1)


# ------------------------------------------------------------------------------------------ what both models share


class PointTrackModel(ClassifierHead):
    """The front end of both models, and what a classifier offers. The front end sees one frame at a time, so that
    windows that overlap can share its work (:class:`dust.streaming.tracks.TrackStream`)."""

    pool: str

    def __init__(
        self,
        *,
        num_points: int,
        num_views: int,
        view_dim: int,
        num_classes: int,
        reducer: str,
        use_eca: bool,
        drop_rate: float,
        compat: bool,
    ) -> None:
        super().__init__()
        self.num_points = num_points
        self.num_views = num_views
        self.num_classes = num_classes
        self.compat = compat
        columns = 2 if compat else 3
        self.eca = ECA(num_views, eca_kernel(COMPAT_ECA_CHANNELS) if compat else None) if use_eca else None
        self.reducer: nn.Module
        if reducer == "set":
            self.reducer = SetReducer(columns, view_dim)
        elif reducer == "cnn":
            self.reducer = CnnReducer(columns, view_dim, drop_rate)
        else:
            self.reducer = FlatReducer()
        self.flat = reducer == "flat"
        self.view_dim = num_points * columns if self.flat else view_dim
        self.head_drop = nn.Dropout(drop_rate)

    def frame_features(self, tracks: Tensor, visible: Tensor | None = None, view_mask: Tensor | None = None) -> Tensor:
        """Return the features of every camera in every frame, each frame by itself.

        Args:
            tracks: (B, V, T, P, 2) x and y in [-1, 1] (with compat in pixels).
            visible: (B, V, T, P) bool; None: every point.
            view_mask: (B, V) bool, the cameras that are there; None: all.

        Returns:
            (B, T, V, F); zeros for a camera that is not there.
        """
        self._check(tracks, visible, view_mask)
        B, V, T = tracks.shape[:3]
        points = self._points(tracks, visible, view_mask)
        frames = self.reducer(points.flatten(0, 2)).view(B, V, T, self.view_dim)
        if view_mask is not None and not self.compat:
            frames = frames * view_mask[:, :, None, None]
        return frames.transpose(1, 2)

    def forward_frames(
        self, frames: Tensor, view_mask: Tensor | None = None, time_mask: Tensor | None = None
    ) -> Tensor:
        """Turn what :meth:`frame_features` gave, (B, T, V, F), and masks (B, V), (B, T) into features (B,
        num_features)."""
        raise NotImplementedError

    def _points(self, tracks: Tensor, visible: Tensor | None, view_mask: Tensor | None) -> Tensor:
        """Return the reducer's input (B, V, T, P, columns), the cameras weighed."""
        if self.compat:
            assert self.eca is not None
            return tracks * self.eca.weights(tracks.mean(dim=(3, 4)).transpose(1, 2)).transpose(1, 2)[..., None, None]
        seen = tracks.new_ones(tracks.shape[:-1], dtype=torch.bool) if visible is None else visible
        if view_mask is not None:
            seen = seen & view_mask[:, :, None, None]
        xy = hide(tracks, seen)
        if self.eca is not None:
            means = xy.flatten(3).sum(dim=3) / (2 * seen.sum(dim=3)).clamp(min=1)  # (B, V, T)
            xy = xy * self.eca.weights(means.transpose(1, 2)).transpose(1, 2)[..., None, None]
        return torch.cat([xy, seen.unsqueeze(-1).to(xy.dtype)], dim=-1)

    def _check(self, tracks: Tensor, visible: Tensor | None, view_mask: Tensor | None) -> None:
        name, problems = type(self).__name__, []
        if tracks.ndim != 5 or tracks.shape[-1] != 2 or 0 in tracks.shape:
            raise DustError(f"{name} got tracks of shape {tuple(tracks.shape)}; it takes (B, V, T, P, 2), x and y last")
        if tracks.shape[1] != self.num_views:
            problems.append(f"tracks of {tracks.shape[1]} cameras, it was built for num_views={self.num_views}")
        if self.flat and tracks.shape[3] != self.num_points:
            problems.append(f"{tracks.shape[3]} points, reducer flat was built for num_points={self.num_points}")
        if visible is not None and (visible.shape != tracks.shape[:-1] or visible.dtype != torch.bool):
            problems.append(f"visible {visible.dtype} {tuple(visible.shape)}, not bool {tuple(tracks.shape[:-1])}")
        if view_mask is not None and (view_mask.shape != tracks.shape[:2] or view_mask.dtype != torch.bool):
            problems.append(f"view_mask {view_mask.dtype} {tuple(view_mask.shape)}, not bool {tuple(tracks.shape[:2])}")
        if problems:
            raise DustError(f"{name} got " + "; ".join(problems))

    # ------------------------------------------------------------------------------ what a classifier offers

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map pooled features (..., num_features) -> logits (..., K); with ``pre_logits`` as they are."""
        return x if pre_logits else self.head(self.head_drop(x))

    def adapt_state_dict(
        self, state: dict[str, Tensor], notes: list[str], pos_embed_resize: str | None = None
    ) -> dict[str, Tensor]:
        """Translate the published code's parameter names to ours. There are no position embeddings to resize."""
        renamed = {}
        for key, value in state.items():
            for theirs, ours in _PUBLISHED_NAMES.items():
                if key.startswith(theirs):
                    key = ours + key.removeprefix(theirs)
                    break
            renamed[key] = value
        if renamed.keys() != state.keys():
            notes.append("names translated from those of the published light weight model")
        return renamed


_PUBLISHED_NAMES = {
    "channel_attention.": "eca.",
    "spatial_conv.dimensionality_reduction_cnn.": "reducer.",
    "transformer_encoder.layers.": "blocks.",
    "fc_out.": "head.",
}


def hide(tracks: Tensor, seen: Tensor) -> Tensor:
    """Return (..., 2) points, zeros where ``seen`` (...) is False. The coordinates there may be anything, NaN too."""
    if tracks.dtype not in (torch.float32, torch.float64) or torch.compiler.is_exporting():  # ONNX is real
        return torch.where(seen.unsqueeze(-1), tracks, 0.0)
    # the same, an x and y at a time, which takes an eighth of the time
    return torch.view_as_real(torch.where(seen, torch.view_as_complex(tracks.contiguous()), 0.0))


def sincos(length: int, dim: int, like: Tensor) -> Tensor:
    """Return the transformer's sine and cosine table (length, dim): even columns are sines. An odd ``dim`` ends in a
    sine."""
    position = torch.arange(length, device=like.device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2, device=like.device, dtype=torch.float32) * (-math.log(10000.0) / dim))
    table = torch.stack([(position * rate).sin(), (position * rate).cos()], dim=-1)  # (length, ceil(dim / 2), 2)
    return table.flatten(1)[:, :dim].to(like.dtype)
