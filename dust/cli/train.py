"""Train, test, extract features and predict by configurations; `dust --cfg ...` is the same."""

import os
import sys
from collections.abc import Sequence

from dust.config import flatten
from dust.config.parser import parse_args
from dust.engine import run_net
from dust.engine.run_net import load_stages


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    code = run_net.main(words)
    if code or any(os.environ.get(name, "0") != "0" for name in ("RANK", "SLURM_PROCID")):
        return code  # of several processes the first predicts
    args = parse_args(words)
    for _, cfg in load_stages(args.cfg_files, args.opts):
        values = flatten(cfg)
        if values["PREDICT.ENABLE"] and values["SHARD_ID"] == 0:
            from dust.cli.predict import main as predict

            code = max(code, predict(words_of(values)))
    return code


def words_of(values: dict) -> list[str]:
    """The words of ``dust predict`` for ``{key: value}`` of a configuration with PREDICT.ENABLE."""
    own = {name.removeprefix("PREDICT."): value for name, value in values.items() if name.startswith("PREDICT.")}
    output = own["OUTPUT"] or os.path.join(values["OUTPUT_DIR"], "predictions")
    words = [values["OUTPUT_DIR"], *filter(None, own["SOURCES"]), "-o", output, "--force"]
    words += [f"--{name.lower()}" for name in ("TIMELINE", "OVERLAY") if own[name]]
    numbers = ("THRESHOLD", "TOP", "WINDOW", "STRIDE", "HYSTERESIS", "MIN_LENGTH")
    for name in numbers:
        words += [f"--{name.lower().replace('_', '-')}", str(own[name])]
    return [*words, "--device", "auto" if values["NUM_GPUS"] else "cpu"]
