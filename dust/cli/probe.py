"""Train and test a probe: a small head on the stored tokens of a frozen backbone.

dust probe clips/ --backbone zoo://NAME
dust probe clips/ --backbone runs/kitchen --head linear --tokens grid
dust probe clips/ --backbone mine.yaml --weights encoder.pt SOLVER.MAX_EPOCH 10

CLIPS holds a folder for each class, or train.csv, val.csv and test.csv. The command writes the YAMLs of its stages into
the folder of --out and runs them, as `dust --cfg` would: tokens are stored once, all learning rates and weight decays
are trained in one pass over them, and the best by validation is tested on whole clips. Called again, it continues.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from dust.cli.command import command
from dust.config import KEYS, CfgNode, flatten, load_config
from dust.engine import run_net
from dust.utils.errors import ConfigError
from dust.utils.files import write_text
from dust.zoo import SCHEME

RECIPES = "configs/Probe"
STAGES = ("features", "probe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clips", metavar="CLIPS", help="a folder for each class, or of train.csv, val.csv, test.csv")
    parser.add_argument(
        "--backbone", required=True, metavar="MODEL", help="zoo://NAME, a run's folder, a checkpoint, or a YAML"
    )
    parser.add_argument("--weights", default="", metavar="FILE", help="of a YAML: the backbone's weights")
    parser.add_argument("--out", default="runs/probe", metavar="DIR", help="for tokens and runs (default runs/probe)")
    heads = tuple(KEYS["PROBE.HEAD"].options)
    parser.add_argument("--head", default="attentive", choices=heads, help="kind of head (attentive)")
    parser.add_argument(
        "--tokens", default="", choices=("all", "grid", "queries"), help="which tokens are stored (all)"
    )
    parser.add_argument("--views", type=int, default=0, metavar="N", help="store N augmented views of training clips")
    parser.set_defaults(cfg="")  # words that are left over are keys


def run(args: argparse.Namespace) -> int:
    """Write the stages' YAMLs and run them; returns the exit code."""
    out = Path(args.out)
    base, options, weights = find_backbone(args.backbone, args.weights, out)
    if options:  # below the recipes, which say what is trained and tested
        file = out / "backbone_options.yaml"
        write_text(file, yaml.safe_dump({"_BASE_": base, **_tree(options)}, sort_keys=False))
        base, options = os.path.abspath(file), {}
    # tokens are stored clip by clip, although the backbone's own recipe may join those of several
    shared = {"DATA.CLIPS_PER_VIEW": 1, "DATA.PATH_TO_DATA_DIR": os.path.abspath(args.clips), "DATA.FORMAT": "auto"}
    if args.tokens:
        shared["FEATURES.TOKENS"] = args.tokens
    shared |= {"NUM_GPUS": _gpus(), "FEATURES.AUGMENTED_VIEWS": args.views, "DATA.CLASS_LIST": ""}
    cfg = load_config(base)
    backbone, values_of = str(cfg.MODEL.MODEL_NAME), flatten(cfg)
    # what the backbone's own training stood on is of no concern
    unset = {key: "" for key, facts in KEYS.items() if facts.stage and values_of[key]}
    own: dict[str, dict[str, Any]] = {
        "features": {"FEATURES.CHECKPOINT_FILE_PATH": weights, "AUG.ENABLE": args.views > 0},
        "probe": {"PROBE.BACKBONE": backbone, "PROBE.BACKBONE_FROM": weights, "PROBE.TOKENS_FROM": STAGES[0]},
    }
    files = []
    for stage in STAGES:
        recipe = f"{RECIPES}/{stage if stage == 'features' else args.head}.yaml"
        values = {**unset, **shared, **own[stage], "OUTPUT_DIR": str(out / stage)}
        file = out / f"{stage}.yaml"
        write_text(file, yaml.safe_dump({"_BASE_": [base, recipe], **_tree(values)}, sort_keys=False))
        files.append(str(file))
    words = ["--cfg", *files, *args.overrides]
    sys.stdout.write(f"dust {shlex.join(words)}\n")
    code = run_net.main(words)
    if not code:
        sys.stdout.write(f"next: dust predict {out / STAGES[1]} CLIP.mp4\n")
    return code


def find_backbone(name: str, weights: str, out: Path) -> tuple[str, dict[str, Any], str]:
    """Return the YAML of a backbone, what must be said besides, and its weights.

    Raises ConfigError where a YAML comes without weights, or weights with anything else.
    """
    from dust.deploy.loading import Origin, find_origin
    from dust.utils.stages import stage_checkpoint

    out.mkdir(parents=True, exist_ok=True)
    if name.lower().endswith((".yaml", ".yml")):
        cfg: CfgNode = load_config(name)
        weights = weights or cfg.MODEL.PRETRAINED or cfg.TRAIN.CHECKPOINT_FILE_PATH
        if not weights:
            raise ConfigError(f"--backbone {name}: a YAML holds no weights: name them by --weights FILE")
        return _base(name), {}, _path(weights)
    if weights:
        raise ConfigError(f"--weights {weights}: {name} has its own; --weights is for a YAML")
    origin: Origin = find_origin(name)
    # a name in the zoo may be named by its own options (VJEPA2.ENCODER_FROM), and then is the file of these weights
    of_zoo = name if name.startswith(SCHEME) else ""
    weights = origin.checkpoint or of_zoo or str(stage_checkpoint(origin.output_dir, ".", "--backbone"))
    options = {
        key: value
        for key, value in (origin.overrides or {}).items()
        if key != "MODEL.NUM_CLASSES" and not KEYS[key].stage
    }
    if origin.file:
        return _base(origin.file), options, _path(weights)
    base = out / "backbone.yaml"
    write_text(base, origin.text)
    return _base(str(base)), options, _path(weights)


def _path(name: str) -> str:
    return name if name.startswith(SCHEME) else os.path.abspath(name)


def _base(name: str) -> str:
    """Return a YAML as another one can name it, from wherever that lies; one that came with dust by its own name."""
    return os.path.abspath(name) if Path(name).exists() else name


def _gpus() -> int:
    import torch

    return int(torch.cuda.is_available())


def _tree(values: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        node = tree
        *sections, leaf = key.split(".")
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    return tree


main = command("probe", __doc__, add_arguments, run, resumable=True)
