"""Write a trained model as a file for other programs: ONNX, torch.export, OpenVINO.

dust export runs/kitchen -o kitchen.onnx
dust predict kitchen.onnx clip.mp4

The model is a run's folder, a checkpoint, or zoo://NAME. Clips go in as uint8, series and point tracks as float32 with
their masks; logits and probabilities come out, for a batch of any size. The file is written once it agrees with the
original on the test split, or on --check CLIPS.
"""

import argparse
import logging
import sys
from pathlib import Path

from dust.cli.command import command

FORMATS = ("onnx", "torch_export", "openvino")
RUNTIMES = ("eager", "compiled", "onnxruntime", "openvino")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN", help="run folder, checkpoint, or zoo://NAME")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="ends with .onnx, .pt2 or .xml")
    parser.add_argument("--format", default="", choices=FORMATS, help="default: by the ending of FILE")
    parser.add_argument("--check", nargs="+", default=[], metavar="CLIPS", help="compare on these, not the test split")
    parser.add_argument("--int8", action="store_true", help="quantise an .onnx by the ranges of training clips")
    parser.add_argument("--calibration-clips", type=int, default=32, metavar="N", help="how many of them (32)")
    parser.add_argument(
        "--measure", nargs="*", default=list(RUNTIMES), metavar="LIBRARY", help=f"time these ({' '.join(RUNTIMES)})"
    )
    parser.add_argument("--calibrated", action="store_true", help="probabilities by the temperature of the run's test")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--cfg", dest="config", default="", metavar="YAML", help="for weights without configuration")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="other values of keys"
    )


def run(args: argparse.Namespace) -> None:
    from dust.deploy.export import Request, export, report
    from dust.deploy.loading import pairs_of

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("dust.utils.checkpoint").setLevel(logging.ERROR)  # heads of other stages, which nobody needs
    request = Request(
        Path(args.output),
        args.format,
        check=args.check,
        int8=args.int8,
        calibration_clips=args.calibration_clips,
        measured=args.measure,
        force=args.force,
        calibrated=args.calibrated,
    )

    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    manifest = export(args.model, request, overrides=pairs_of(args.opts), config=args.config, say=say)
    sys.stdout.write(f"{report(manifest)}\n")
    say(f"written: {args.output}, {args.output}.json")


main = command("export", __doc__, add_arguments, run)
