"""Every YAML of PySlowFast, built by its code and by dust, with one set of weights: how far the answers are apart.

python -m benchmarks.slowfast_configs CHECKOUT

CHECKOUT is a clone of facebookresearch/SlowFast (Apache-2.0); its fvcore, iopath, simplejson and pytorchvideo must be
importable, detectron2 need not. Pictures, frames and widths are small, so that all of it takes a minute or two; depths,
strides and everything else are those of the file. Its state dict goes through dust's own reader of checkpoints. What
dust refuses (detection, images, self-supervision, multigrid) is not compared.
"""

import argparse
import importlib
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from yacs.config import CfgNode

from dust.config import load_config, with_values
from dust.models import build_model
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError

CLASSES, CROP = 7, 64
REMOVED = ("PREFETCH",)  # keys of its own files that its own code no longer knows


def small(cfg: Any) -> dict[str, Any]:
    """Return the keys that make a model small, from PySlowFast's configuration."""
    slow = cfg.MODEL.ARCH == "slowfast"
    values = {
        "DATA.TRAIN_CROP_SIZE": CROP, "DATA.TEST_CROP_SIZE": CROP, "MODEL.NUM_CLASSES": CLASSES,
        "DATA.NUM_FRAMES": 4 * cfg.SLOWFAST.ALPHA if slow else min(cfg.DATA.NUM_FRAMES, 8),
    }  # fmt: skip
    if cfg.MODEL.MODEL_NAME.endswith("MViT"):
        return values | {"MVIT.EMBED_DIM": 16}
    return values if cfg.MODEL.ARCH == "x3d" else values | {"RESNET.WIDTH_PER_GROUP": 8}


def shaken(model: nn.Module) -> nn.Module:
    """Return the model with every parameter and running statistic away from its start, so that what begins at zero
    counts too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.named_parameters():  # products of a non-local block are not normalised: less there
            scale = (0.01 if tensor.ndim > 1 else 0.05) * (0.1 if "nonlocal" in name else 1)
            tensor += scale * torch.randn(tensor.shape, generator=generator)
        for name, tensor in model.named_buffers():
            if "running_mean" in name:
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
            elif "running_var" in name:
                tensor *= 1 + 0.3 * torch.rand(tensor.shape, generator=generator)
    return model.eval()


def theirs(path: Path) -> Any:
    """Return the file as PySlowFast reads it."""
    cfg = importlib.import_module("slowfast.config.defaults").get_cfg()
    cfg.merge_from_other_cfg(CfgNode({k: v for k, v in yaml.safe_load(path.read_text()).items() if k not in REMOVED}))
    cfg.NUM_GPUS, cfg.MODEL.ACT_CHECKPOINT = 0, False
    if cfg.BN.NORM_TYPE == "sync_batchnorm":  # asks for as many processes
        cfg.BN.NORM_TYPE = "batchnorm"
    return cfg


def difference(path: Path) -> tuple[float, float]:
    """Return (largest difference of the probabilities, their spread).

    Raises:
        ConfigError: dust refuses the file.
    """
    own = load_config(path)
    cfg = theirs(path)
    values = small(cfg)
    for key, value in values.items():
        room, name = key.split(".")
        cfg[room][name] = value
    registry = importlib.import_module("slowfast.models.build").MODEL_REGISTRY
    torch.manual_seed(0)
    reference = shaken(registry.get(cfg.MODEL.MODEL_NAME)(cfg))
    model = build_model(with_values(own, values)).eval()
    report = load_weights(model, {key: value.clone() for key, value in reference.state_dict().items()})
    if not report.complete or report.unexpected:
        raise RuntimeError(f"{path}: {report}")
    frames = values["DATA.NUM_FRAMES"]
    video = torch.randn(1, 3, frames, CROP, CROP, generator=torch.Generator().manual_seed(2))
    pathways = [video]
    if cfg.MODEL.ARCH == "slowfast":
        pathways = [video[:, :, torch.linspace(0, frames - 1, frames // cfg.SLOWFAST.ALPHA).long()], video]
    with torch.no_grad():
        wanted, found = reference(pathways), model(video)
    found = found.softmax(dim=-1) if cfg.MODEL.HEAD_ACT == "softmax" else found.sigmoid()
    return float((wanted - found).abs().max()), float(wanted.max() - wanted.min())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    checkout = parser.parse_args().checkout
    sys.path.insert(0, str(checkout))
    layers = types.ModuleType("detectron2.layers")
    layers.ROIAlign = object  # type: ignore[attr-defined]
    sys.modules.update({"detectron2": types.ModuleType("detectron2"), "detectron2.layers": layers})
    counts, worst = Counter[str](), 0.0
    for path in sorted((checkout / "configs").rglob("*.yaml")):
        name = path.relative_to(checkout / "configs")
        try:
            apart, spread = difference(path)
        except ConfigError as error:
            counts["refused by dust"] += 1
            print(f"refused    {name}: {str(error).splitlines()[-1].strip()[:100]}")
        except (AssertionError, KeyError, TypeError) as error:
            counts["not built by its own code"] += 1
            print(f"not built  {name}: {error!r}"[:160])
        else:
            counts["compared"] += 1
            worst = max(worst, apart if apart == apart else float("inf"))
            print(f"{apart:<10.1e} {name} (probabilities spread over {spread:.2g})")
    print(", ".join(f"{number} {what}" for what, number in counts.items()) + f"; largest difference {worst:.1e}")
    return 0 if worst < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
