"""Stages that ask whether a device computes what it should: against the CPU, against itself, against float64."""

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dust.benchmark.device import synchronize
from dust.benchmark.gpu.plan import Bench, Row
from dust.benchmark.gpu.speed import guarded
from dust.engine.backends import Backends, without_deterministic_form
from dust.engine.step import OptimizerStep
from dust.models import MODEL_REGISTRY
from dust.models.optimizer import build_optimizer

_VIDEO = (2, 3, 4, 32, 32)
_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4}
_SWIN = {"embed_dim": 16, "depths": [2, 1, 2], "num_heads": [2, 4, 4], "window_size": [2, 3, 3]}
#: name, arguments, its input and that input's shape. Every registered model is asked by ``pytest -m gpu``.
SMALL: tuple[tuple[str, dict[str, Any], str, tuple[int, ...]], ...] = (
    ("TimeSformer", {**_VIT, "num_frames": 4, "attention_type": "divided_space_time"}, "video", _VIDEO),
    ("TimeSformer", {**_VIT, "num_frames": 4, "attention_type": "joint_space_time"}, "video", _VIDEO),
    ("VideoMAE", {**_VIT, "all_frames": 4, "init_scale": 1.0}, "video", _VIDEO),
    ("CAST", {**_VIT, "all_frames": 4}, "video", _VIDEO),
    ("VJEPA2", {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "probe_depth": 2, "probe_heads": 4},
     "video", _VIDEO),
    ("VideoSwin", _SWIN, "video", _VIDEO),
    ("SeriesSwin", {"embed_dim": 16, "depths": [2, 3], "num_heads": [2, 4], "window_size": 4}, "series", (2, 3, 20)),
    ("TemporalEncoder", {"seq_len": 6, "dim": 16, "depth": 2, "heads": 4, "dim_head": 8, "mlp_dim": 24},
     "embeddings", (2, 6, 16)),
    ("PointTrackTransformer", {"num_views": 2, "num_points": 12, "view_dim": 8, "embed_dim": 16, "heads": 2},
     "tracks", (2, 2, 4, 12, 2)),
    ("PointTrackLSTM", {"num_views": 2, "num_points": 12, "view_dim": 8, "hidden_dim": 16}, "tracks", (2, 2, 4, 12, 2)),
)  # fmt: skip
#: heads, size of a head, queries and keys of attention in dust's models, and the batch of one clip or window.
SHAPES = (
    ("TimeSformer, time", 196, 12, 64, 8),
    ("TimeSformer, space", 8, 12, 64, 197),
    ("VideoMAE, CLIP, joint", 1, 12, 64, 1568),
    ("CAST, between experts", 8, 12, 32, 196),
    ("VideoSwin, a window", 64, 3, 32, 392),
    ("KeyStep, a window", 8, 8, 128, 66),
)
LENGTHS = (8, 64, 66, 192, 197, 392, 1568)


def _small(name: str, arguments: dict[str, Any], device: str) -> nn.Module:
    """Return the model in which everything counts, also parameters that start at zero; the same on every device."""
    torch.manual_seed(0)
    model = MODEL_REGISTRY.get(name)(num_classes=5, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.to(device)


def _noise(shape: tuple[int, ...], device: str) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)


def _loss(outputs: Any) -> Tensor:
    values = outputs.values() if isinstance(outputs, dict) else [outputs]
    return torch.stack([value.float().square().mean() for value in values if value.is_floating_point()]).sum()


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference over the largest value of ``wanted``; NaN where one is not finite."""
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    if not found.numel():
        return 0.0
    return ((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12)).item()


def for_gradients(model: nn.Module) -> nn.Module:
    """Return the model in eval mode; recurrent layers in training mode without dropout, since cuDNN has no other
    backward."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.dropout = 0.0
            module.train()
    return model


def parity(bench: Bench) -> Iterator[Row]:
    """Compare outputs and gradients of small models: in float32, IEEE, the CPU's and the device's; then the device's
    under autocast in bfloat16 beside float64 on the CPU."""
    Backends(float32="ieee").use(torch.device(bench.device))
    for case in SMALL if bench.device == "cuda" else SMALL[-3:]:
        title = _title(*case[:2])
        yield from guarded(title, _parity_rows(bench, *case))
        yield from guarded(f"{title}, bfloat16", _reduced_rows(bench, f"{title}, bfloat16", *case))


def _parity_rows(bench: Bench, name: str, arguments: dict[str, Any], key: str, shape: tuple[int, ...]) -> Iterator[Row]:
    answers: list[tuple[Tensor, dict[str, Tensor]]] = []
    for device in ("cpu", bench.device):
        model = for_gradients(_small(name, arguments, device))
        outputs = model(**{key: _noise(shape, device)})
        loss = _loss(outputs)
        loss.backward()
        gradients = {one: value.grad for one, value in model.named_parameters() if value.grad is not None}
        answers.append((outputs if isinstance(outputs, Tensor) else outputs["logits"], gradients))
    (wanted, right), (found, gradients) = answers
    title = _title(name, arguments)
    yield Row(f"{title}: outputs", relative_error(found, wanted), "", "< 1e-5", at_most=1e-4)
    largest = max(value.abs().max() for value in right.values())
    # a gradient that is rounding and nothing else (that of a bias of keys) is measured by the largest of all
    if lost := sorted(right.keys() ^ gradients.keys()):
        yield Row(f"{title}: gradients on one of them only", ", ".join(lost), "", "none", at_most=0)
        return
    errors = {one: ((gradients[one].cpu() - value).abs().max() / largest).item() for one, value in right.items()}
    worst = max(errors, key=lambda one: errors[one])
    yield Row(f"{title}: gradients", errors[worst], "", f"< 1e-4; {worst}", at_most=1e-3)


def _reduced_rows(
    bench: Bench, title: str, name: str, arguments: dict[str, Any], key: str, shape: tuple[int, ...]
) -> Iterator[Row]:
    answers = []
    for device, dtype in (("cpu", torch.float64), (bench.device, torch.float32)):
        model = for_gradients(_small(name, arguments, device)).to(dtype)
        with torch.autocast(device, torch.bfloat16, enabled=dtype is torch.float32):
            outputs = model(**{key: _noise(shape, device).to(dtype)})
        _loss(outputs).backward()
        gradients = [value.grad.double().cpu().flatten() for value in model.parameters() if value.grad is not None]
        answers.append((outputs if isinstance(outputs, Tensor) else outputs["logits"], torch.cat(gradients)))
    (wanted, right), (found, gradient) = answers
    yield Row(f"{title}: outputs", relative_error(found, wanted), "", "1e-3 to 2e-2", at_most=5e-2)
    cosine = F.cosine_similarity(gradient, right, dim=0).item()
    yield Row(f"{title}: cosine of gradients", cosine, "", "> 0.99", at_least=0.99)


def _title(name: str, arguments: dict[str, Any]) -> str:
    kind = arguments.get("attention_type")
    return f"{name} ({kind})" if kind else name


def determinism(bench: Bench) -> Iterator[Row]:
    """Compare three steps of each small model, twice, in strict mode: tensors that differ, or the operation without a
    form."""
    Backends(deterministic=True).use(torch.device(bench.device))
    for case in SMALL if bench.device == "cuda" else SMALL[-3:]:
        title = f"{_title(*case[:2])}: tensors that differ"
        yield from guarded(title, _determinism_rows(bench, title, *case))


def _determinism_rows(
    bench: Bench, title: str, name: str, arguments: dict[str, Any], key: str, shape: tuple[int, ...]
) -> Iterator[Row]:
    try:
        one, two = (_learnt(name, arguments, key, shape, bench.device) for _ in range(2))
    except RuntimeError as error:
        operation = without_deterministic_form(error)
        if not operation:
            raise
        yield Row(title, f"{operation} has no deterministic form", "", "0", at_most=0)
        return
    yield Row(title, sum(not torch.equal(one[part], two[part]) for part in one), "", "0", at_most=0)


def _learnt(name: str, arguments: dict[str, Any], key: str, shape: tuple[int, ...], device: str) -> dict[str, Tensor]:
    model = _small(name, arguments, device).train()
    inputs = _noise(shape, device)
    update = build_optimizer(model, name="adamw", lr=1e-3, weight_decay=0.0)
    step = OptimizerStep(model, update, batch_size=shape[0])
    for number in range(3):
        torch.manual_seed(number)
        step.backward(lambda: {"loss": _loss(model(**{key: inputs}))}, shape[0], last=True)
        step.step()
    step.check()
    return {part: value.detach().cpu() for part, value in model.state_dict().items()}


def attention(bench: Bench) -> Iterator[Row]:
    """Measure for each shape in dust's models which kernel is chosen and what each takes; then errors by length."""
    cuda = bench.device == "cuda"
    dtype = torch.bfloat16
    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    if cuda:
        Backends().use(torch.device(bench.device))
        kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    clips = 32 if bench.full else 1
    for what, batch, heads, size, length in SHAPES:
        batch, length = (batch * clips, length) if bench.full else (1, min(length, 64))
        query, key, value = (
            torch.randn(batch, heads, length, size, device=bench.device, dtype=dtype, requires_grad=True) for _ in "qkv"
        )
        choice = SDPBackend(torch._fused_sdp_choice(query, key, value)).name.lower()
        yield Row(f"{what}: chosen", choice, "", "flash_attention" if cuda else "")
        for kernel in kernels:
            yield bench.speed(f"{what}: {kernel.name.lower()}", _attention_ms(kernel, query, key, value), "ms")
    errors, cosines = {}, {}
    for length in LENGTHS if bench.full else LENGTHS[:3]:
        for masked in (False, True):
            case = f"{length}{' masked' if masked else ''}"
            errors[case], cosines[case] = _attention_error(length, masked, bench.device, dtype)
    worst = max(errors, key=lambda one: errors[one] if errors[one] == errors[one] else float("inf"))
    yield Row(f"bfloat16 against float64, output; worst: {worst}", errors[worst], "", "1e-3 to 2e-2", at_most=2e-2)
    least = min(cosines, key=lambda one: cosines[one] if cosines[one] == cosines[one] else -1.0)
    yield Row(f"the same, cosine of gradients; worst: {least}", cosines[least], "", "> 0.99", at_least=0.99)


def _attention_ms(kernel: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> float | str:
    """Time forward and backward, median of ten; or why there is none."""
    taken = []
    try:
        with sdpa_kernel(kernel):
            for _ in range(12 if query.is_cuda else 3):
                synchronize(query.device)
                began = time.perf_counter()
                output = F.scaled_dot_product_attention(query, key, value)
                torch.autograd.grad(output, (query, key, value), torch.ones_like(output))
                synchronize(query.device)
                taken.append(time.perf_counter() - began)
    except RuntimeError as error:  # this kernel does not take this shape on this device
        return f"no: {str(error).splitlines()[0][:60]}"
    return 1e3 * median(taken[2:])


def _attention_error(length: int, masked: bool, device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Return (relative error of the output, cosine of the gradients of queries) against float64; NaN where one is
    NaN."""
    generator = torch.Generator().manual_seed(length)
    made = [torch.randn(2, 4, length, 64, generator=generator).to(device, dtype) for _ in "qkv"]
    mask = (torch.randn(2, 1, length, length, generator=generator)).to(device, dtype) if masked else None
    answers = []
    for kind in (dtype, torch.float64):
        query, key, value = (one.detach().to(kind).requires_grad_() for one in made)
        exact = sdpa_kernel(SDPBackend.MATH) if kind is torch.float64 else torch.enable_grad()
        with exact:
            output = F.scaled_dot_product_attention(query, key, value, None if mask is None else mask.to(kind))
        output.square().sum().backward()
        assert query.grad is not None
        answers.append((output, query.grad.double().flatten()))
    (found, gradient), (wanted, right) = answers
    return relative_error(found, wanted), F.cosine_similarity(gradient, right, dim=0).item()
