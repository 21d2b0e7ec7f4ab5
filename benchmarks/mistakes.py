"""How KeyStep tells mistakes of generated recordings: trained on some, tested on hours of others, for several seeds.

python -m benchmarks.mistakes /tmp/mistakes --hours 5 --seeds 0 1 2   from the root of a checkout. The generator is as
it is: six recordings in ten have a mishap, and the orders of the test do not occur in training. One data set for all
seeds; each trains both encoders again, on pictures of 48 pixels and with timm's test_resnet, to keep it small. How much
evidence it takes for a part to be put on wrongly is chosen on validation recordings of the training's orders.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from dust.datasets.keystep.layouts import read_procedures
from dust.engine import run_net
from dust.synthetic import keystep
from dust.synthetic.keystep import generate_procedure
from dust.utils.errors import DustError

CONFIGS = Path(__file__).parents[1] / "configs" / "quickstart"
SECONDS = 29.0  # of a recording, about
SIZE = [f"DATA.{key}" for key in ("TRAIN_CROP_SIZE", "TEST_CROP_SIZE")]
MODEL = ["KEYSTEP.EXE_MODE", "mistakes", "KEYSTEP.SPATIAL.ARCH", "test_resnet", "DATA.TRAIN_JITTER_SCALES", "[48,48]"]
CLIPS = ["TRAIN.DATASET", "RecordingClips", "TEST.DATASET", "RecordingClips", "DATA.NUM_FRAMES", "1"]
CLIPS += ["DATA.SAMPLING_RATE", "1", "DATA.TARGET_FPS", "10", "FEATURES.STRIDE", "2", "FEATURES.BATCH_SIZE", "256"]
SPATIAL = ["KEYSTEP.CONTRAST.N_CLASSES", "10", "KEYSTEP.CONTRAST.N_REAL", "3", "KEYSTEP.CONTRAST.N_ITERS", "60"]
SPATIAL += ["SOLVER.BASE_LR", "0.002", "TRAIN.EVAL_PERIOD", "0"]
FIGURES = ("f1", "pos", "tau_s", "mistake_recall", "mistake_precision", "false_alarms_per_hour", "mistake_delay_s")
OF_KINDS = ("recall_wrong", "recall_omitted", "auc_wrong")
COLUMNS = (*FIGURES, *OF_KINDS, "evidence")
EVIDENCE = [str(6 + half / 2) for half in range(13)]  # KEYSTEP.MISTAKES.CUM_CONF, from the default on


def generate(folder: Path, hours: float, recordings: int) -> None:
    """Write ``train`` and ``test`` below ``folder``: the second is of the test's orders alone, and at least so long."""
    if not (folder / "train").exists():
        generate_procedure(folder / "train", recordings=recordings, mishaps=0.6)
    if not (folder / "test").exists():
        with mock.patch.dict(keystep.SHARES, {"val": 0.0, "test": 0.99}):
            generate_procedure(folder / "test", recordings=round(3600 * hours * 1.05 / SECONDS), mishaps=0.6)
    found = read_procedures(folder / "test", "test").recordings
    length = sum(one.num_frames / one.fps for one in found) / 3600
    print(f"test: {len(found)} recordings, {length:.2f} hours")
    if length < hours:
        raise DustError(f"{folder / 'test'}: {length:.2f} hours, {hours} are wanted: remove it, it is made again")


def run(stage: str, data: Path, out: Path, seed: int, *more: str) -> None:
    """Run one stage of the quickstart, with other values; the run's folder is ``out``."""
    keys = [
        "DATA.PATH_TO_DATA_DIR",
        str(data),
        "RNG_SEED",
        str(seed),
        *MODEL,
        *(w for key in SIZE for w in (key, "48")),
    ]
    argv = ["--cfg", str(CONFIGS / f"keystep_{stage}.yaml"), *keys, *more, "OUTPUT_DIR", str(out)]
    if run_net.main(argv):
        raise DustError(f"{out}: the stage did not end well")


def choose_evidence(data: Path, out: Path, seed: int, model: Path) -> str:
    """Return the least of EVIDENCE at which validation has at most one false alarm an hour; else the most."""
    keys = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(model), "TEST.SPLIT", "val"]
    keys += ["KEYSTEP.FEATURES_FROM", str(out / "keystep_features"), "KEYSTEP.TIMELINES", "0", "TEST.REPORT", "False"]
    for evidence in EVIDENCE:
        run("temporal", data, out / f"val_{evidence}", seed, *keys, "KEYSTEP.MISTAKES.CUM_CONF", evidence)
        found = json.loads((out / f"val_{evidence}" / "results" / "test.json").read_text())
        if found["metrics"]["false_alarms_per_hour"] <= 1:
            break
    return evidence


def measure(folder: Path, seed: int, epochs: Sequence[int]) -> dict[str, float | None]:
    """Return the figures of one seed, None where there is nothing to count; and the evidence that was chosen."""
    train, test, out = folder / "train", folder / "test", folder / f"seed{seed}"
    run("spatial", train, out / "keystep_spatial", seed, *SPATIAL, "SOLVER.MAX_EPOCH", str(epochs[0]))
    run("features", train, out / "keystep_features", seed, *CLIPS, "FEATURES.SPLITS", "['train','val']")
    tested = ["FEATURES.CHECKPOINT_FILE_PATH", str(out / "keystep_spatial"), "FEATURES.SPLITS", "['test']"]
    run("features", test, out / "features_test", seed, *CLIPS, *tested)
    learnt = ["SOLVER.MAX_EPOCH", str(epochs[1]), "KEYSTEP.SAMPLER.N_ITER", "6400", "TEST.ENABLE", "False"]
    run("temporal", train, out / "keystep_temporal", seed, *learnt)
    evidence = choose_evidence(train, out, seed, out / "keystep_temporal")
    test_keys = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(out / "keystep_temporal")]
    test_keys += ["KEYSTEP.MISTAKES.CUM_CONF", evidence]
    run("temporal", test, out / "test", seed, *test_keys, "KEYSTEP.FEATURES_FROM", str(out / "features_test"))
    found = json.loads((out / "test" / "results" / "test.json").read_text())
    kinds, auc = found["mistakes"]["kinds"], found["mistakes"]["auc"]
    of_kinds = {f"recall_{kind}": kinds[kind]["recall"] for kind in ("wrong", "omitted")} | {"auc_wrong": auc["wrong"]}
    figures = {**found["metrics"], **of_kinds, "evidence": float(evidence)}
    return {name: figures.get(name) for name in COLUMNS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hours", type=float, default=5.0, help="of test recordings, at least")
    parser.add_argument("--recordings", type=int, default=480, help="of training, with its val and test")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, nargs=2, default=[8, 10], help="of both encoders")
    args = parser.parse_args()
    generate(args.folder, args.hours, args.recordings)
    rows = []
    for seed in args.seeds:
        found = measure(args.folder, seed, args.epochs)
        rows.append((seed, *("-" if value is None else f"{value:.3f}" for value in found.values())))
        (args.folder / f"seed{seed}.json").write_text(json.dumps(found, indent=1))
    for row in [("seed", *COLUMNS), *rows]:  # behind the log of all stages
        print(*row, sep="\t")


if __name__ == "__main__":
    main()
