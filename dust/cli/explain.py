"""Show why a model answers as it does: what it looks at in a clip, and what it loses without each part.

dust explain runs/kitchen clip.mp4 -o why
dust explain runs/kitchen clip.mp4 --class stir -o why

Writes NAME.json and NAME.npz, and for video NAME.png and NAME.mp4: what the model saw, beside a map of what speaks for
the class, over bars of what the answer loses without each frame. Maps: gradient-weighted attention, rollout, Grad-CAM.
Of a series NAME.series.png shows what each channel and stretch adds, of point tracks NAME.tracks.png what each camera,
stretch and point does.
"""

import argparse
from pathlib import Path

from dust.cli.command import command

METHODS = ("auto", "attention", "rollout", "gradcam", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="run folder, checkpoint, or zoo://NAME")
    parser.add_argument("source", metavar="SOURCE", help="a clip: file, folder of pictures, tracks of a sample")
    parser.add_argument("-o", "--out", default="explained", metavar="DIR", help="where the files go (explained)")
    parser.add_argument("--class", dest="target", default="", metavar="NAME", help="explain this class (the answer)")
    parser.add_argument("--method", default="auto", choices=METHODS, help="how the map is made (auto)")
    parser.add_argument("--no-occlusion", action="store_true", help="take nothing away: the map alone")
    parser.add_argument("--view", type=int, default=None, metavar="N", help="of the test's views (the middle one)")
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 (default auto)")
    parser.add_argument("--cfg", dest="config", default="", metavar="YAML", help="for weights without a configuration")


def run(args: argparse.Namespace) -> None:
    from dust.analysis.explain import explain, write_explanation
    from dust.deploy.loading import load

    model = load(args.model, device=args.device, config=args.config)
    found = explain(
        model, args.source, target=args.target, method=args.method, occlusion=not args.no_occlusion, view=args.view
    )
    print(f"{found.path}: {found.answer}; explained: {found.target} ({100 * found.probability:.1f} %)")
    if found.map is not None:
        print(f"map by {found.map.method}, {'x'.join(map(str, found.map.values.shape))} (times, rows, columns)")
    elif found.why_no_map:
        print(f"no map: {found.why_no_map}")
    for one in found.occlusions:
        best = int(abs(one.share).argmax())
        first, last = one.edges[best], one.edges[best + 1] - 1
        where = str(first) if first == last else f"{first} to {last}"
        print(f"{one.name}: {one.whole - one.nothing:+.2f} in all, most by {where} ({one.share[best]:+.2f})")
    for path in write_explanation(found, Path(args.out)):
        print(f"wrote {path}")


main = command("explain", __doc__, add_arguments, run)
