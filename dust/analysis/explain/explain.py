"""Why this answer: a map of the clip, and what the answer loses without each part of the input."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust.analysis.explain.curves import write_series_picture, write_tracks_picture
from dust.analysis.explain.draw import write_film, write_picture
from dust.analysis.explain.maps import Map, make_map
from dust.analysis.explain.occlusion import Occlusion, occlude
from dust.deploy.predictor import Predictor
from dust.utils.errors import ConfigError, DataError
from dust.utils.files import file_stems, replacing, write_text

MAIN = "logits"


@dataclass(frozen=True)
class Explanation:
    """Of one view of one source.

    Attributes:
        answer, target: what the model says of the whole source, and the class that is explained.
        probability: of ``target`` by all views.
        map: None where none was asked for, or the model has none; ``why_no_map`` says so.
        frames: (T, H, W, 3) uint8, what the model saw; None without video.
        numbers: ``series`` (C, T), ``tracks`` (V, T, P, 2) and ``visible`` (V, T, P), likewise.
    """

    path: str
    answer: str
    target: str
    probability: float
    view: int
    map: Map | None
    why_no_map: str
    occlusions: list[Occlusion]
    frames: np.ndarray | None
    numbers: dict[str, np.ndarray]


def explain(
    predictor: Predictor,
    source: Any,
    *,
    target: str = "",
    method: str = "auto",
    occlusion: bool = True,
    view: int | None = None,
) -> Explanation:
    """Explain the answer of a model to one source.

    Args:
        target: the class that is explained; "" for the answer.
        method: of the map, see :func:`dust.analysis.explain.maps.make_map`; "none" for none.
        occlusion: whether parts are taken away, which takes about three passes for each of up to 32 parts.
        view: number of the view that is looked at; None for the middle one.

    Raises:
        DataError: the source cannot be read. ConfigError: no such class or view; recordings; a method without a map.
    """
    if not predictor.evaluation().logits:
        raise ConfigError(f"{predictor!r}: steps of recordings are not explained; explain the stage that classifies")
    reading = predictor.read(source)
    reading.items = list(reading.items)
    (prediction,) = predictor.predict_batch([reading])  # completes the reading with what another stage makes of it
    if prediction.error:
        raise DataError(f"{prediction.path}: {prediction.error}")
    names = list(prediction.probabilities)
    wanted = target or max(prediction.probabilities, key=prediction.probabilities.__getitem__)
    if wanted not in names:
        raise ConfigError(
            f"--class {wanted}: the classes are {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
        )
    item: Any = next(iter(reading.items))
    raw: dict[str, Tensor] = item["inputs"]
    views = len(next(iter(raw.values())))
    number = views // 2 if view is None else view
    if not 0 <= number < views:
        raise ConfigError(f"--view {number}: the clip has {views} views, from 0")
    loop = predictor.loop
    own = {name: value[number : number + 1].to(loop.device) for name, value in raw.items()}
    inputs = loop.transform({"inputs": dict(own)}, training=False)["inputs"]
    place = names.index(wanted)

    def logit(outputs: Any) -> Tensor:
        return _logits(outputs)[0, place].float()

    def score(changed: dict[str, Tensor]) -> float:
        with torch.no_grad():
            return float(logit(loop.forward(loop.model, changed)))

    loop.model.eval()
    found, why = None, ""
    if method != "none":
        try:
            found = make_map(loop.model, inputs, loop.forward, logit, method)
        except ConfigError as error:
            if method != "auto":
                raise
            why = str(error)
    frames = _frames(own["video"]) if "video" in own else None
    numbers = {name: one[0].cpu().numpy() for name, one in own.items() if name in ("series", "tracks", "visible")}
    parts = occlude(inputs, score) if occlusion else []
    if not all(np.isfinite([one.whole, one.nothing, *one.alone, *one.share]).all() for one in parts):
        raise DataError(
            f"{reading.path}: what {wanted!r} loses is no finite number: the clip holds values that are none (NaN), or "
            "the model makes some of it"
        )
    probability = float(prediction.probabilities[wanted])
    return Explanation(reading.path, prediction.label, wanted, probability, number, found, why, parts, frames, numbers)


def _logits(outputs: Any) -> Tensor:
    """Return (B, K) logits in the order of the probabilities; of several questions one behind the other."""
    if isinstance(outputs, Tensor):
        return outputs
    return outputs[MAIN] if MAIN in outputs else torch.cat(list(outputs.values()), dim=-1)


def _frames(video: Tensor) -> np.ndarray | None:
    """Return (1, C, T, H, W) uint8 as frames (T, H, W, 3)."""
    if video.dtype != torch.uint8 or video.ndim != 5:
        return None
    return video[0].permute(1, 2, 3, 0).cpu().numpy()


def write_explanation(found: Explanation, folder: Path) -> list[Path]:
    """Write ``NAME.json`` and ``NAME.npz``; of a video also ``NAME.png`` and ``NAME.mp4``, of series and point tracks
    ``NAME.series.png`` and ``NAME.tracks.png``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    name = file_stems([Path(found.path).stem or "clip"])[0]
    paths = [folder / f"{name}.{ending}" for ending in ("json", "npz")]
    arrays: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {
        "path": found.path, "answer": found.answer, "class": found.target, "probability": found.probability,
        "view": found.view, "map": found.map.method if found.map else found.why_no_map or None, "occlusion": {},
    }  # fmt: skip
    if found.map is not None:
        arrays["map"] = found.map.values.numpy()
    for one in found.occlusions:
        arrays |= {f"{one.name}.{part}": getattr(one, part) for part in ("edges", "alone", "share")}
        facts["occlusion"][one.name] = {
            "whole": one.whole, "nothing": one.nothing, "alone": one.alone.tolist(), "share": one.share.tolist(),
        }  # fmt: skip
    write_text(paths[0], json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    with replacing(paths[1], suffix=".npz") as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
    return paths + write_pictures(found, folder, name)


def write_pictures(found: Explanation, folder: Path, name: str) -> list[Path]:
    """Write what can be seen of an explanation; returns the paths."""
    title = f"{found.target} {100 * found.probability:.0f} %"
    parts = {one.name: one for one in found.occlusions}
    paths = []
    if found.frames is not None:
        values = found.map.values.numpy() if found.map is not None else None
        paths += [folder / f"{name}.png", folder / f"{name}.mp4"]
        write_picture(paths[0], found.frames, values, parts.get("video.frames"), title)
        write_film(paths[1], found.frames, values, parts.get("video.frames"), title)
    if "series" in found.numbers:
        paths.append(folder / f"{name}.series.png")
        both = parts.get("series.channels"), parts.get("series.stretches")
        write_series_picture(paths[-1], found.numbers["series"], *both, title)
    if {"tracks", "visible"} <= found.numbers.keys():
        paths.append(folder / f"{name}.tracks.png")
        of_tracks = [one for one in found.occlusions if one.name.startswith("tracks.")]
        write_tracks_picture(paths[-1], found.numbers["tracks"], found.numbers["visible"], of_tracks, title)
    return paths
