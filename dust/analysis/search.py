"""Clips that look like a sentence: stored features of CLIP, ranked by texts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dust.config import flatten, get_cfg, read_written, with_values
from dust.engine.weights import weights_file
from dust.models.clip_text import CLIPText, embed_texts
from dust.models.clip_zero_shot import CLIPZeroShot
from dust.utils.checkpoint import file_sha256, load_weights
from dust.utils.errors import CheckpointError, ConfigError, DataError
from dust.utils.features import FeatureStore
from dust.utils.files import write_csv, write_text
from dust.utils.structured import parse_yaml

#: Rows that are read at a time.
CHUNK = 4096
MODEL = CLIPZeroShot.__name__


@dataclass(frozen=True)
class Match:
    """A clip's place in the answer to a text. ``score``: cosine of both, -1..1; ``window``: of a long video the number
    of its best one, from 0, else None."""

    text: str
    rank: int
    score: float
    id: str
    split: str
    window: int | None = None


def search(
    features: str | Path, texts: Sequence[str], *, weights: str = "", splits: Sequence[str] = (), top: int = 10
) -> list[Match]:
    """Rank the clips of stored features by how well they fit each text.

    Args:
        features: a run that stored embeddings of CLIPZeroShot (FEATURES.ENABLE True), or its folder of features.
        texts: in words, as they are.
        weights: what made the features; "" for what the run names.
        splits: of these; empty for all that there are.
        top: so many for each text.

    Raises:
        DataError: there are no such features, or another encoder made them. ConfigError: its weights are not known.
        CheckpointError: the weights are not those that made them.
    """
    if not texts or not all(text.strip() for text in texts):
        raise DataError("search for what? Give a text, such as 'a person falls'")
    folder = Path(features) / "features" if (Path(features) / "features").is_dir() else Path(features)
    stores = [FeatureStore.open(folder, split) for split in splits or _splits(folder)]
    values = _check_made_by_clip(stores)
    tower = CLIPText(**CLIPZeroShot.from_config(with_values(get_cfg(), values))["text"]).eval()
    width = tower.text_projection.shape[1]
    for store in stores:
        if store.shape != (width,):
            raise DataError(f"{store.path}: {store.shape} numbers each, and texts have {width}: not the same space")
    path = _weights(folder, weights)
    digest = file_sha256(path)
    for store in stores:
        store.check_checkpoint(digest, str(path))
    report = load_weights(tower, path)
    if not report.complete:
        raise CheckpointError(f"strict loading needs an exact fit. {report}")
    with torch.no_grad():
        wanted = F.normalize(embed_texts(tower, texts), dim=-1).numpy()
    return [match for row, text in zip(wanted, texts, strict=True) for match in _best(stores, row, text, top)]


def _splits(folder: Path) -> Sequence[str]:
    """Return the splits that have features. DataError if none has."""
    found = {path.stem for path in folder.glob("*.json")} | {path.stem for path in folder.glob("*.npz")}
    order = [split for split in ("train", "val", "test") if split in found]
    if not order:
        raise DataError(
            f"{folder}: holds no features; store some: dust --cfg configs/CLIP/zero_shot.yaml TEST.ENABLE False "
            "FEATURES.ENABLE True DATA.PATH_TO_DATA_DIR DIR"
        )
    return order


def _check_made_by_clip(stores: Sequence[FeatureStore]) -> dict[str, Any]:
    """Return the keys of the model that made the features. DataError, with its name, where that is another than CLIP,
    or where what was stored is not its embedding."""
    known, values = flatten(get_cfg()), {}
    for store in stores:
        made = parse_yaml(str(store.meta.get("config", "")), f"{store.path}: what made it") or {}
        model = made.get("MODEL.MODEL_NAME", "an unknown model")
        if model != MODEL:
            raise DataError(
                f"{store.path}: features of {model}, which texts cannot be compared with; store those of {MODEL} "
                "(configs/CLIP/zero_shot.yaml)"
            )
        if store.meta.get("layer") != "pooled":
            layer = store.meta.get("layer")
            raise DataError(
                f"{store.path}: features of the layer {layer}; texts are compared with FEATURES.LAYER pooled"
            )
        values = {key: value for key, value in made.items() if key in known}
    return values


def _weights(folder: Path, named: str) -> str:
    """Return the file of weights that is named, or that the run of a folder of features names."""
    run = folder.parent
    if not named:
        named = str(flatten(read_written(run / "config.yaml")).get("FEATURES.CHECKPOINT_FILE_PATH") or "")
    if not named:
        raise ConfigError(f"{folder}: nothing says which weights made these features: --weights zoo://clip_vit_b16")
    return weights_file(named, run, "--weights")


def _best(stores: Sequence[FeatureStore], wanted: np.ndarray, text: str, top: int) -> list[Match]:
    """Return the ``top`` clips of all splits whose embedding points most where ``wanted`` (D,), of length 1, does."""
    found: list[tuple[float, str, str, int | None]] = []
    for store in stores:
        absent = set(store.missing)
        if store.format == "per_video":
            for clip in store.ids:
                if clip not in absent:
                    cosines = _cosines(store.get(clip)[:], wanted)
                    found.append((float(cosines.max()), clip, store.split, int(cosines.argmax())))
        else:
            for begin in range(0, len(store), CHUNK):
                cosines = _cosines(store.features[begin : begin + CHUNK], wanted)
                rows = zip(cosines.tolist(), store.ids[begin : begin + CHUNK], strict=True)
                found += [(cosine, clip, store.split, None) for cosine, clip in rows if clip not in absent]
        found = sorted(found, key=lambda one: -one[0])[:top]
    return [Match(text, rank, *one) for rank, one in enumerate(((s, i, p, w) for s, i, p, w in found), 1)]


def _cosines(features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    rows = np.asarray(features, np.float32)
    return rows @ wanted / np.maximum(np.linalg.norm(rows, axis=1), 1e-12)


def write_matches(matches: Sequence[Match], folder: Path) -> list[Path]:
    """Write ``search.csv`` and ``search.json``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(Match.__dataclass_fields__)
    rows = [["" if value is None else value for value in asdict(match).values()] for match in matches]
    write_csv(folder / "search.csv", columns, rows)
    write_text(folder / "search.json", json.dumps([asdict(match) for match in matches], indent=2) + "\n")
    return [folder / "search.csv", folder / "search.json"]
