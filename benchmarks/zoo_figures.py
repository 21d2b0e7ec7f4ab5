"""Count parameters and multiplications of every row of the zoo, and write dust/zoo/figures.yaml.

    python benchmarks/zoo_figures.py [NAME ...]

The model is built as the row's configuration and options say, without values, and sees one view of the row's frames and
crop. One counter for all of them: torch's FlopCounterMode (dust.utils.flops), whose 2 per multiply-add are halved.
"""

import logging
import sys
from pathlib import Path

import torch
import yaml

from dust import zoo
from dust.config import load_config, with_values
from dust.deploy.loading import pairs_of
from dust.models import build_model
from dust.utils.errors import DustError
from dust.utils.flops import flop_counter
from dust.zoo.entries import FIGURES, Entry

logger = logging.getLogger(__name__)


def figures_of(entry: Entry) -> dict[str, float] | None:
    """Return ``{"params": 10^6, "gmacs": 10^9 multiply-adds of one view}``; None for weights that no configuration
    builds (those of images, from which a video model starts)."""
    names = zoo.class_names(entry)
    if not entry.config or (entry.frames == 1 and "CLIP/" not in entry.config):
        return None
    classes = len(names) if names else entry.classes
    values = {"TRAIN.ENABLE": False, "NUM_GPUS": 0, **pairs_of(entry.options.split())}
    values |= {"MODEL.NUM_CLASSES": classes} if classes else {}
    cfg = load_config(entry.config, values)
    if cfg.MODEL.NUM_CLASSES < 0:  # as many as the data has
        cfg = with_values(cfg, {"MODEL.NUM_CLASSES": 400})
    counter = flop_counter()
    with torch.device("meta"), torch.no_grad():
        model = build_model(cfg).eval().requires_grad_(False)
        frames = 1 if entry.frames == 1 else cfg.DATA.NUM_FRAMES * cfg.DATA.CLIPS_PER_VIEW
        video = torch.empty(1, 3, frames, entry.crop, entry.crop)
        with counter:
            model.forward_features(video) if entry.frames == 1 else model(video)
    params = sum(parameter.numel() for parameter in model.parameters())
    return {"params": round(params / 1e6, 2), "gmacs": round(counter.get_total_flops() / 2e9, 2)}


def main(names: list[str]) -> None:
    """Count the named rows, or all."""
    found = yaml.safe_load(FIGURES.read_text(encoding="utf-8")) if FIGURES.is_file() and names else {}
    for entry in map(zoo.get, names) if names else zoo.ENTRIES.values():
        try:
            figures = figures_of(entry)
        except (DustError, NotImplementedError, RuntimeError) as error:
            logger.warning("%s: %s: %s", entry.name, type(error).__name__, str(error).splitlines()[0])
            continue
        if figures:
            found[entry.name] = figures
    lines = [f"{name}: {{params: {one['params']}, gmacs: {one['gmacs']}}}\n" for name, one in found.items()]
    head = "# Written by benchmarks/zoo_figures.py: parameters in 10^6, multiply-adds of one view in 10^9.\n"
    Path(FIGURES).write_text(head + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("dust").setLevel(logging.ERROR)
    main(sys.argv[1:])
