"""Published files of SlowFast, Slow, C2D, I3D and X3D under our names: SlowFast's, its Caffe2 files',
pytorchvideo's."""

import math
import re
from collections.abc import Callable, Mapping

import torch

State = dict[str, torch.Tensor]

#: Batch norm's epsilon; torch's default, which all of these use.
EPS = 1e-5


def our_names(state: State, notes: list[str], own: Mapping[str, torch.Tensor]) -> State:
    """Return the tensors of a file under the names of :class:`dust.models.slowfast.SlowFast`, ``ResNet`` and ``X3D``.

    Args:
        own: the model's own state: pytorchvideo's X3D lacks a norm, which becomes an identity; an image ResNet's
            kernels are inflated; a head for other classes stays as it is.
    """
    state = {key.removeprefix("model."): tensor for key, tensor in state.items()}
    caffe2 = "conv1_w" in state or "conv1_xy_w" in state
    if any(key.startswith("blocks.") for key in state):
        state = _from_pytorchvideo(state, notes)
        _identity_norms(state, own, notes)
    elif caffe2:
        state = _from_caffe2(state, notes)
    elif "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        state = _from_image_resnet(state, notes)
    state = {re.sub(r"^head\.(conv_5|lin_5)", r"\1", key): tensor for key, tensor in state.items()}
    state = {key.replace("head.projection.", "head."): tensor for key, tensor in state.items()}
    if caffe2:
        state = {key: _with_axes(key, tensor, own) for key, tensor in state.items()}
    return _inflated(state, own, notes)


def _inflated(state: State, own: Mapping[str, torch.Tensor], notes: list[str]) -> State:
    """Return kernels of images repeated over time and divided by its length, so that a still video gives the same
    features (I3D's rule)."""
    grown, count = dict(state), 0
    for key, tensor in state.items():
        wanted = own.get(key)
        if wanted is None or tensor.ndim != 4 or wanted.ndim != 5 or tensor.shape[2:] != wanted.shape[3:]:
            continue
        grown[key] = tensor.unsqueeze(2).repeat(1, 1, wanted.shape[2], 1, 1) / wanted.shape[2]
        count += 1
    if count:
        notes.append(f"{count} kernels of images inflated over time")
    return grown


_IMAGE_BLOCK: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^conv([123])\.", lambda match: f"branch2.{'abc'[int(match[1]) - 1]}."),
    (r"^bn([123])\.", lambda match: f"branch2.{'abc'[int(match[1]) - 1]}_bn."),
    (r"^downsample\.0\.", "branch1."),
    (r"^downsample\.1\.", "branch1_bn."),
]


def _from_image_resnet(state: State, notes: list[str]) -> State:
    """Translate torchvision's and timm's ResNet with bottlenecks. Its classes are of pictures, so its head is left
    out."""
    renamed: State = {}
    for key, tensor in state.items():
        block = re.match(r"layer(\d)\.(\d+)\.", key)
        if block:
            rest = key[block.end() :]
            for pattern, ours in _IMAGE_BLOCK:
                rest = re.sub(pattern, ours, rest)
            renamed[f"s{int(block[1]) + 1}.pathway0_res{block[2]}.{rest}"] = tensor
        elif key.startswith(("conv1.", "bn1.")):
            renamed["s1.pathway0_stem." + key.replace("conv1.", "conv.").replace("bn1.", "bn.")] = tensor
        elif not key.startswith("fc."):
            renamed[key] = tensor
    notes.append("names translated from an image ResNet, without its head")
    return renamed


def _identity_norms(state: State, own: Mapping[str, torch.Tensor], notes: list[str]) -> None:
    for key in [key for key in state if key.endswith(".branch1.weight")]:
        norm = key.replace("branch1.weight", "branch1_bn")
        if f"{norm}.weight" in state or f"{norm}.weight" not in own:
            continue
        ones = torch.ones_like(own[f"{norm}.weight"])
        state[f"{norm}.weight"] = ones * math.sqrt(1 + EPS)
        state[f"{norm}.bias"], state[f"{norm}.running_mean"] = torch.zeros_like(ones), torch.zeros_like(ones)
        state[f"{norm}.running_var"] = ones
        notes.append(f"{norm}: pytorchvideo's X3D has no norm there; it is an identity")


_BLOCK = [
    (r"branch1_conv\.", "branch1."),
    (r"branch1_norm\.", "branch1_bn."),
    (r"branch2\.conv_([abc])\.", r"branch2.\1."),
    (r"branch2\.norm_b\.0\.", "branch2.b_bn."),
    (r"branch2\.norm_b\.1\.block\.0\.", "branch2.se.fc1."),
    (r"branch2\.norm_b\.1\.block\.2\.", "branch2.se.fc2."),
    (r"branch2\.norm_([abc])\.", r"branch2.\1_bn."),
]
_HEAD = {"pre_conv": "conv_5", "pre_norm": "conv_5_bn", "post_conv": "lin_5", "post_norm": "lin_5_bn"}


def _from_pytorchvideo(state: State, notes: list[str]) -> State:
    """Translate pytorchvideo's names: ``blocks.N`` is the stem (0), a stage, a pool without weights, or the head (with
    ``proj``)."""
    numbers = sorted({int(key.split(".")[1]) for key in state if ".proj." not in key and ".pool." not in key})
    stage = {number: index + 1 for index, number in enumerate(numbers)}  # a pool's number is missing, so it is skipped
    renamed: State = {}
    for key, tensor in state.items():
        _, number, rest = key.split(".", 2)
        if rest.startswith("proj."):
            renamed["head." + rest.removeprefix("proj.")] = tensor
            continue
        if rest.startswith("pool."):
            part, leaf = rest.removeprefix("pool.").split(".", 1)
            renamed[f"{_HEAD[part]}.{leaf}"] = tensor
            continue
        renamed[f"s{stage[int(number)]}{_of_stage(rest)}"] = tensor
    notes.append("names translated from pytorchvideo's layout")
    return renamed


def _of_stage(rest: str) -> str:
    """Return the part of a name behind the stage's number, ours for pytorchvideo's."""
    if rest.startswith("multipathway_fusion."):
        leaf = rest.removeprefix("multipathway_fusion.")
        return "_fuse." + leaf.replace("conv_fast_to_slow.", "conv_f2s.").replace("norm.", "bn.")
    pathway = "0"
    match = re.match(r"multipathway_blocks\.(\d+)\.", rest)
    if match:
        pathway, rest = match[1], rest[match.end() :]
    block = re.match(r"res_blocks\.(\d+)\.", rest)
    if block:
        rest = rest[block.end() :]
        for pattern, ours in _BLOCK:
            rest = re.sub(pattern, ours, rest)
        return f".pathway{pathway}_res{block[1]}.{rest}"
    rest = rest.replace("conv.conv_t.", "conv_xy.").replace("conv.conv_xy.", "conv.")  # theirs are named the wrong way
    return f".pathway{pathway}_stem.{rest.replace('norm.', 'bn.')}"


_NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}


def _from_caffe2(state: State, notes: list[str]) -> State:
    renamed: State = {}
    for key, tensor in state.items():
        if re.search(r"momentum|(^|_)lr$|model_iter", key):
            continue
        found = _caffe2_name(key)
        renamed[found or key] = tensor
    notes.append("names translated from Caffe2's layout")
    return renamed


def _with_axes(key: str, tensor: torch.Tensor, own: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Restore the axes of size 1 that Caffe2 leaves out at the end of a kernel. One of images (O, I, H, W) stays, to be
    inflated."""
    wanted = own.get(key)
    if wanted is None or tensor.ndim < 2:
        return tensor
    while tensor.ndim < wanted.ndim and tensor.shape != wanted.shape[:2] + wanted.shape[3:]:
        tensor = tensor.unsqueeze(-1)
    return tensor


def _caffe2_name(key: str) -> str | None:
    pathway = "1" if key.startswith("t_") else "0"
    name = key.removeprefix("t_")
    if name in ("pred_w", "pred_b"):
        return f"head.projection.{'weight' if name[-1] == 'w' else 'bias'}"
    match = re.fullmatch(r"(conv_5|lin_5)_(w|b|bn_(\w+))", name)
    if match:
        return f"head.{match[1]}_bn.{_NORM[match[3]]}" if match[3] else f"head.{match[1]}.{_leaf(match[2])}"
    match = re.fullmatch(r"nonlocal_conv(\d)_(\d+)_(theta|phi|g|out|bn)_(\w+)", name)
    if match:
        block = f"s{match[1]}.pathway{pathway}_nonlocal{match[2]}"
        return f"{block}.bn.{_NORM[match[4]]}" if match[3] == "bn" else f"{block}.conv_{match[3]}.{_leaf(match[4])}"
    match = re.fullmatch(r"pool1_subsample_(w|bn_(\w+))", name)
    if match:
        return f"s1_fuse.bn.{_NORM[match[2]]}" if match[2] else "s1_fuse.conv_f2s.weight"
    match = re.fullmatch(r"res(\d)_\d+_branch2c_bn_subsample_(w|bn_(\w+))", name)
    if match:
        return f"s{match[1]}_fuse.bn.{_NORM[match[3]]}" if match[3] else f"s{match[1]}_fuse.conv_f2s.weight"
    match = re.fullmatch(r"(?:res_)?conv1_(xy_w|w|bn_(\w+))", name)
    if match:
        stem = f"s1.pathway{pathway}_stem"
        if match[2]:
            return f"{stem}.bn.{_NORM[match[2]]}"
        return f"{stem}.{'conv_xy' if match[1] == 'xy_w' else 'conv'}.weight"
    match = re.fullmatch(r"res(\d)_(\d+)_branch(1|2([abc]))_(w|bn_fc([12])_([wb])|bn_(\w+))", name)
    if not match:
        return None
    block = f"s{match[1]}.pathway{pathway}_res{match[2]}"
    if match[6]:
        return f"{block}.branch2.se.fc{match[6]}.{_leaf(match[7])}"
    part = f"{block}.branch1" if match[3] == "1" else f"{block}.branch2.{match[4]}"
    return f"{part}_bn.{_NORM[match[8]]}" if match[8] else f"{part}.weight"


def _leaf(letter: str) -> str:
    return "weight" if letter == "w" else "bias"
