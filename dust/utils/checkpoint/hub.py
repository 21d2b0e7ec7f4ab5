"""Folders of weights as Hugging Face's libraries write them: ``config.json`` beside one file, or beside several parts
and an index that says which part holds which tensor."""

import json
import os
from pathlib import Path, PurePath
from typing import Any

from dust.utils.checkpoint.reader import read_file
from dust.utils.errors import CheckpointError

_NAMES = ("model", "open_clip_model", "pytorch_model", "open_clip_pytorch_model")
#: Files of weights, in the order of choice: safetensors first, as the libraries do.
_WHOLE = tuple(f"{name}{suffix}" for suffix in (".safetensors", ".bin") for name in _NAMES)
_LONGEST_JSON = 64 << 20  # bytes; the index of a model with 10,000 tensors has 1 MB
#: Names of activations -> ours.
_ACTIVATIONS = {
    "gelu": "gelu", "quick_gelu": "quick_gelu", "quickgelu": "quick_gelu", "gelu_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
}  # fmt: skip


def is_weights_folder(path: str | os.PathLike) -> bool:
    """Tell whether a folder holds weights under one of the names that Hugging Face's libraries give them."""
    path = Path(path)
    return path.is_dir() and any((path / name).exists() for name in (*_WHOLE, *(f"{n}.index.json" for n in _WHOLE)))


def weights_files(folder: str | os.PathLike) -> list[Path]:
    """Return the files of a folder's weights: one, or the parts that its index names, each once.

    Raises:
        CheckpointError: the index is damaged, names parts that are not there, or anything outside of the folder.
    """
    folder = Path(folder)
    for name in _WHOLE:
        if (folder / name).exists():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.exists():
            parts = [folder / part for part in dict.fromkeys(_weight_map(index).values())]
            absent = [part.name for part in parts if not part.exists()]
            if absent:
                raise CheckpointError(f"{index}: names {', '.join(absent[:8])}, which is not there: copy all parts")
            return parts
    raise CheckpointError(f"{folder}: is a folder without any of {', '.join(_WHOLE)}")


def read_folder(folder: str | os.PathLike) -> dict[str, Any]:
    """Read all tensors of such a folder.

    Raises:
        CheckpointError: see :func:`weights_files`; or a part lacks what the index says, or two hold the same name.
    """
    files = weights_files(folder)
    if len(files) == 1 and files[0].name in _WHOLE:
        return read_file(files[0])
    state: dict[str, Any] = {}
    for file in files:
        part = read_file(file)
        twice = sorted(set(part) & set(state))
        if twice:
            raise CheckpointError(f"{file}: {twice[0]} stands in another part too: the folder holds two versions")
        state |= part
    index = next(path for name in _WHOLE if (path := Path(folder) / f"{name}.index.json").exists())
    lacking = [name for name in _weight_map(index) if name not in state]
    if lacking:
        raise CheckpointError(f"{index}: no part holds {', '.join(lacking[:8])}: copy all parts again")
    return state


def _weight_map(index: Path) -> dict[str, str]:
    """Name of a tensor -> name of the file beside ``index`` that holds it."""
    table = _read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(part, str) for part in table.values()):
        raise CheckpointError(f"{index}: has no weight_map of names to files: copy or download it again")
    elsewhere = sorted({part for part in table.values() if PurePath(part).name != part or part in ("", ".", "..")})
    if elsewhere:
        raise CheckpointError(f"{index}: names {elsewhere[0]!r}, which is not a file beside it: refused")
    return table


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file() or path.stat().st_size > _LONGEST_JSON:
            raise CheckpointError(f"{path}: is no file, or larger than {_LONGEST_JSON} bytes")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as json ({error}): copy or download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, not a json object")
    return value


def folder_constants(folder: str | os.PathLike) -> dict[str, Any]:
    """Return what a folder's configuration says of its model that no tensor shows, in dust's words, as far as it says
    it.

    ``activation`` (gelu, quick_gelu, gelu_tanh or a name of theirs), ``num_heads``, ``norm_eps``, ``pooling`` (token or
    mean). Reads Hugging Face's ``config.json`` (of CLIP the vision part), timm's, and OpenCLIP's.
    """
    folder, found = Path(folder), {}
    if (folder / "config.json").exists():
        config = _read_json(folder / "config.json")
        inner = config.get("vision_config")
        config = {**config, **inner} if isinstance(inner, dict) else config
        arguments = config.get("model_args")
        arguments = arguments if isinstance(arguments, dict) else {}
        found = {
            "activation": config.get("hidden_act", arguments.get("act_layer")),
            "num_heads": config.get("num_attention_heads", arguments.get("num_heads")),
            "norm_eps": config.get("layer_norm_eps"),
            "pooling": {"avg": "mean", "token": "token"}.get(str(arguments.get("global_pool"))),
        }
        if "use_mean_pooling" in config:
            found["pooling"] = "mean" if config["use_mean_pooling"] else "token"
    if (folder / "open_clip_config.json").exists():
        model = _read_json(folder / "open_clip_config.json").get("model_cfg")
        model = model if isinstance(model, dict) else {}
        found["activation"] = "quick_gelu" if model.get("quick_gelu") else "gelu"
        vision = model.get("vision_cfg")
        pooling = vision.get("pool_type", "tok") if isinstance(vision, dict) else None
        found["pooling"] = {"tok": "token", "avg": "mean"}.get(str(pooling))
    activation = found.get("activation")
    if isinstance(activation, str):
        found["activation"] = _ACTIVATIONS.get(activation.lower(), activation)
    return {name: value for name, value in found.items() if value is not None}
