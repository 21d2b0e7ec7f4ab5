"""What a window of point tracks costs against the published model, and what a stream saves."""

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from dust.benchmark.cost import cpu_of
from dust.benchmark.device import with_classes
from dust.benchmark.report import Report
from dust.config import with_values
from dust.engine.setup import build_for
from dust.models.track_front_end import PointTrackModel
from dust.streaming.tracks import TrackStream
from dust.utils.errors import ConfigError, DustError

METHOD = (
    "CPU time of the forward pass in eval mode on random points, all threads together. The cases run in turns within "
    "each round, after one round that does not count; cpu_ms is the median over the rounds, a ratio the median of the "
    "rounds' ratios. A stream: the windows behind the first one, whole or with each frame's front end kept; passes are "
    "frames of one camera through the reducer."
)
PUBLISHED = {"COMPAT": True, "VIEW_DIM": 500, "NUM_HEADS": 8, "COORDINATES": "pixels"}


def benchmark_tracks(cfg, *, rounds: int = 10, windows: int = 20, stride: int = 5) -> Report:
    """Return the configured model against the published one (one window), and a stream of it and of its ``cnn``
    variant.

    Args:
        windows: of a stream, in each round.
        stride: frames from one window of a stream to the next.
    """
    if rounds < 1 or windows < 1:
        raise DustError(f"--rounds {rounds}, --windows {windows}: at least 1")
    if cfg.MODEL.MODEL_NAME != "PointTrackTransformer":
        raise ConfigError(f"MODEL.MODEL_NAME {cfg.MODEL.MODEL_NAME}: the benchmark is of PointTrackTransformer")
    node = cfg.TRACKS
    generator = torch.Generator().manual_seed(0)
    shape = (len(node.VIEWS), node.WINDOW + windows * stride, node.NUM_POINTS)
    tracks = torch.rand((1, *shape, 2), generator=generator) * 2 - 1
    visible = torch.rand((1, *shape), generator=generator) < 0.9
    models = {"as configured": _build(cfg, {}), "published": _build(cfg, PUBLISHED)}
    reducers = {"set": _build(cfg, {"REDUCER": "set"}), "cnn": _build(cfg, {"REDUCER": "cnn"})}
    actions: dict[str, Callable[[], Any]] = {}
    for name, model in models.items():
        points = (tracks + 1) * 320 if model.compat else tracks
        actions[name] = _window(model, points[:, :, : node.WINDOW], visible[:, :, : node.WINDOW])
    streams = {}
    for name, model in reducers.items():
        streams[name] = _Stream(model, tracks, visible, node.WINDOW, stride)
        actions[f"{name}, whole windows"] = streams[name].whole
        actions[f"{name}, stream"] = streams[name].cached
    taken: dict[str, list[float]] = {name: [] for name in actions}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for stream in streams.values():
                stream.begin()
            for name, action in actions.items():
                seconds = cpu_of(action)
                if number:
                    taken[name].append(seconds)
    rows = [_row(name, taken[name], taken["published"]) | {"params_m": _millions(models[name])} for name in models]
    for name, stream in streams.items():
        whole = taken[f"{name}, whole windows"]
        rows += [
            _row(f"{name}, {kind}", taken[f"{name}, {kind}"], whole) | {"passes": stream.passes(kind == "stream")}
            for kind in ("whole windows", "stream")
        ]
    size = f"{shape[0]} cameras, {node.WINDOW} frames, {shape[2]} points"
    settings = {"window": size, "stride": stride, "windows": windows, "rounds": rounds}
    return Report("tracks", METHOD, rows, [], settings | {"threads": torch.get_num_threads()})


def _build(cfg, values: dict[str, Any]) -> PointTrackModel:
    variant = with_values(with_classes(cfg), {f"TRACKS.{key}": value for key, value in values.items()})
    model = build_for(variant, torch.device("cpu")).eval()
    assert isinstance(model, PointTrackModel)
    return model


def _window(model: PointTrackModel, tracks: Tensor, visible: Tensor) -> Callable[[], Any]:
    return lambda: model(tracks, visible)


class _Stream:
    """The same windows twice: whole, and with the front end's features kept."""

    def __init__(self, model: PointTrackModel, tracks: Tensor, visible: Tensor, window: int, stride: int) -> None:
        self.model, self.tracks, self.visible = model, tracks, visible
        self.window, self.stride = window, stride
        self.frames = tracks.shape[2]
        self.stream = TrackStream(model, window=window, stride=stride)

    def begin(self) -> None:
        """Play the first window, which costs the same either way."""
        self.stream.reset()
        self._push(0, self.window)

    def _push(self, start: int, stop: int) -> None:
        for frame in range(start, stop):
            self.stream.push(self.tracks[0, :, frame], self.visible[0, :, frame])

    def cached(self) -> None:
        self._push(self.window, self.frames)

    def whole(self) -> None:
        for stop in range(self.window + self.stride, self.frames + 1, self.stride):
            window = slice(stop - self.window, stop)
            self.model(self.tracks[:, :, window], self.visible[:, :, window])

    def passes(self, cached: bool) -> int:
        """Return the frames of one camera that the reducer sees, counted."""
        seen: list[int] = []
        self.begin()
        with torch.inference_mode():
            handle = self.model.reducer.register_forward_hook(lambda module, args, output: seen.append(len(output)))
            (self.cached if cached else self.whole)()
            handle.remove()
        return sum(seen)


def _row(name: str, seconds: list[float], base: list[float]) -> dict[str, Any]:
    saving = median(other / one for one, other in zip(seconds, base, strict=True))
    return {"case": name, "cpu_ms": 1000 * median(seconds), "times_less": saving}


def _millions(model: PointTrackModel) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6
