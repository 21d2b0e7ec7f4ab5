"""The one device of a benchmark, and what it could reach."""

from typing import Any

import torch

from dust.config import KEYS, with_values
from dust.engine.setup import build_device
from dust.utils.errors import ConfigError

#: Of a model that is measured without its data.
NUM_CLASSES = KEYS["MODEL.NUM_CLASSES"].default

#: Dense (not sparse) peak of 16-bit matrix products with 32-bit accumulation, FLOP/s, from the makers' data sheets.
#: The first name that the device's name contains counts, so the longer ones stand first. bfloat16 and float16 are
#: alike on all of them but V100 and T4, which have float16 only.
PEAK_16BIT = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "A30": 165e12,
    "V100-PCIE": 112e12,
    "V100": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "T4": 65e12,
    "RTX 4090 D": 147e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}
NO_BFLOAT16 = ("V100", "T4")


def peak_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """Return the peak FLOP/s of a CUDA device for bfloat16 or float16; None where it is not known or there is no such
    unit."""
    words = device_name.replace("GeForce ", "")
    if "Laptop" in words:  # another chip under the same name
        return None
    for name, peak in PEAK_16BIT.items():
        if _contains(words, name):
            if dtype is torch.bfloat16 and name.startswith(NO_BFLOAT16):
                return None
            return peak
    return None


def _contains(words: str, name: str) -> bool:
    """Tell whether ``name`` stands in ``words`` and no digit or letter follows it (L4 is not L40)."""
    place = words.find(name)
    after = words[place + len(name) : place + len(name) + 1]
    before = words[place - 1 : place] if place > 0 else ""
    return place >= 0 and not after.isalnum() and not before.isalnum()


def one_device(cfg, choice: str) -> tuple[Any, torch.device]:
    """Return (cfg for one process, its device).

    Args:
        choice: ``auto`` (CUDA if cfg has NUM_GPUS and the machine has one) | ``cpu`` | ``cuda``.
    """
    if choice not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {choice}: choose auto, cpu or cuda")
    if choice == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no CUDA device. Use --device cpu.")
    cuda = choice == "cuda" or (choice == "auto" and cfg.NUM_GPUS > 0 and torch.cuda.is_available())
    cfg = with_values(cfg, {"NUM_GPUS": int(cuda), "NUM_SHARDS": 1, "SHARD_ID": 0, "NUM_PROCS_PER_NODE": 1})
    return cfg, build_device(cfg)


def with_classes(cfg) -> Any:
    """Return the configuration with a number of classes, where it leaves that to the data (-1): the key's default."""
    return with_values(cfg, {"MODEL.NUM_CLASSES": NUM_CLASSES}) if cfg.MODEL.NUM_CLASSES < 0 else cfg


def synchronize(device: torch.device) -> None:
    """Wait for a CUDA device, so that a clock read afterwards is right."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
