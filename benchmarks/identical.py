"""Proof that a change of the code changes no bit: the same small trainings and golden cases by two commits.

python benchmarks/identical.py --base COMMIT [--out DIR] [--only video,golden] [--record FILE] [--against FILE]

Both trees run here, one after the other, on one thread: every quickstart stage for three epochs (the loss of every
backward pass, the bits of weights, optimizer and averages at its end, features, predictions and metrics) and every test
file that reads a golden case (the bits of everything that a model returned). What differs is listed; exit code 1.

A record of one tree is a json that also holds processor, torch and threads; it is compared with records of the same
machine only, since other processors add in another order.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

#: name -> (generator and its options, stages).
GROUPS: dict[str, tuple[list[str], list[str]]] = {
    "video": (["video", "--classes", "4", "--clips", "8"], ["video"]),
    "dust": (["dust", "--samples", "32"], ["dust_stage1", "dust_stage2", "dust_stage3", "dust_stage4"]),
    "cast": (["motion_appearance", "--clips", "4", "--frames", "8"], ["cast_spatial", "cast_temporal", "cast"]),
    "tstl": (["motion_appearance", "--clips", "4", "--frames", "8"], ["tstl_selector", "tstl_experts", "tstl_test"]),
    "videomae": (["motion_appearance", "--clips", "4", "--frames", "8"], ["videomae_pretrain", "videomae_finetune"]),
    "keystep": (
        ["keystep", "--recordings", "8", "--pace", "40"],
        ["keystep_spatial", "keystep_features", "keystep_temporal", "keystep_finetune", "keystep_test"],
    ),
    "tracks": (["tracks", "--sequences", "8", "--points", "16", "--frames", "26"], ["tracks_transformer"]),
    "tracks_lstm": (["tracks", "--sequences", "8", "--points", "16", "--frames", "26"], ["tracks_lstm"]),
}
GOLDEN = "golden"
COMMON = ["SOLVER.MAX_EPOCH", "3", "SOLVER.WARMUP_EPOCHS", "1", "LOG_PERIOD", "1", "DATA_LOADER.NUM_WORKERS", "0"]
#: Where the data or the work would be too large else.
MORE = {"keystep": ["KEYSTEP.CONTRAST.N_CLASSES", "0"]}
#: Values of test.json that tell the time or the place.
VOLATILE = ("seconds", "checkpoint", "sha256", "time", "date", "version", "host", "path", "environment")


# ----------------------------------------------------------------------------------------------- in one of the trees


def digest(value: Any) -> str:
    """Return SHA-256 of the tensors in ``value``, with their types and shapes."""
    import torch
    from torch.utils._pytree import tree_leaves

    total = hashlib.sha256()
    for leaf in tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            leaf = leaf.detach().cpu().contiguous()
            total.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            total.update(leaf.reshape(-1).view(torch.uint8).numpy().tobytes() if leaf.numel() else b"")
        else:
            total.update(repr(leaf).encode())
    return total.hexdigest()


def record_group(name: str, work: Path) -> dict[str, Any]:
    """Generate the data of a group, run its stages and describe what they left."""
    import torch

    generator, stages = GROUPS[name]
    data, out = work / "data", work / "runs"
    generate = [sys.executable, "tools/gen_data.py", generator[0], "--out", str(data), *generator[1:], "--seed", "3"]
    subprocess.run(generate, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    losses: list[str] = []
    backward = torch.Tensor.backward

    def noted(self: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        losses.append(float(self.detach()).hex())
        backward(self, *args, **kwargs)

    torch.Tensor.backward = noted  # type: ignore[assignment,method-assign]
    from dust.engine.run_net import main

    files = [f"configs/quickstart/{stage}.yaml" for stage in stages]
    target = out if len(stages) > 1 else out / stages[0]
    code = main(
        ["--cfg", *files, *COMMON, "DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(target), *MORE.get(name, [])]
    )
    if code:
        raise SystemExit(f"{name}: exit code {code}")
    found: dict[str, Any] = {f"{name}: losses": losses, f"{name}: data": _files(data, data)}
    found |= {f"{name}: {key}": value for key, value in _files(out, out).items()}
    return found


def _files(folder: Path, root: Path) -> dict[str, Any]:
    """Return {file: what it holds} of everything that does not tell the time."""
    found: dict[str, Any] = {}
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        name = str(path.relative_to(root))
        if path.suffix == ".pyth":
            found[name] = _checkpoint(path)
        elif path.name == "test.json":
            found[name] = _steady(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix in (".npz", ".npy", ".mp4") or (path.suffix in (".csv", ".txt") and "runs" not in path.parts):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "predictions.csv":
            found[name] = hashlib.sha256(path.read_bytes().replace(str(root.parent).encode(), b"")).hexdigest()
    return found


def _checkpoint(path: Path) -> dict[str, str]:
    import torch

    saved = torch.load(path, map_location="cpu", weights_only=True)
    wanted = ("model_state", "optimizer_state", "ema_state", "scaler_state", "epoch", "iteration", "updates", "best")
    return {key: digest(saved[key]) for key in wanted if key in saved}


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if not any(word in str(k) for word in VOLATILE)}
    if isinstance(value, float):
        return value.hex()
    return value


def record_golden() -> dict[str, Any]:
    """Run the test files that read golden cases; {test: digests of what its models returned}."""
    files = [str(p) for p in sorted(Path("tests").rglob("test_*.py")) if "golden_" in p.read_text(encoding="utf-8")]
    import pytest

    plugin = _Outputs()
    code = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "-m", "", *files], [plugin])
    if code:
        raise SystemExit(f"the golden tests of {Path.cwd()} fail")
    return {f"{GOLDEN}: {name}": sorted(digests) for name, digests in plugin.found.items()}


class _Outputs:
    """A plugin of pytest: notes the outputs of the outermost modules that each test calls."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}
        self.depth = 0
        self.test = ""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        import torch

        self.test, self.depth = nodeid.rpartition("::")[2], 0
        torch.manual_seed(0)  # for models that a test leaves as they are initialised

    def pytest_sessionstart(self) -> None:
        from torch.nn.modules import module

        def before(*_: Any) -> None:
            self.depth += 1

        def after(_module: Any, _inputs: Any, output: Any) -> None:
            self.depth -= 1
            if self.depth == 0 and output is not None and self.test:
                try:
                    self.found.setdefault(self.test, []).append(digest(output))
                except (RuntimeError, NotImplementedError, TypeError):
                    return  # meta and fake tensors hold nothing

        module.register_module_forward_pre_hook(before)
        module.register_module_forward_hook(after, always_call=True)


# ----------------------------------------------------------------------------------------------------- both of them


def machine() -> dict[str, str]:
    """Tell what decides the last bits of a sum."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"processor": model, "torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()}


def record(tree: Path, groups: list[str]) -> dict[str, Any]:
    """Run all groups in ``tree``, each in a process of its own on one thread."""
    environ = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environ["PYTHONDONTWRITEBYTECODE"] = "1"
    found: dict[str, Any] = {}
    for group in groups:
        with tempfile.TemporaryDirectory() as folder:
            answer, said = Path(folder) / "answer.json", Path(folder) / "said.txt"
            command = [sys.executable, str(HERE / "identical.py"), "--one", group, "--record", str(answer)]
            with said.open("w") as log:
                code = subprocess.run(command, cwd=tree, env=environ, stdout=log, stderr=subprocess.STDOUT).returncode
            if code:
                raise SystemExit(f"{group} failed in {tree}:\n{said.read_text()[-3000:]}")
            found |= json.loads(answer.read_text())
        print(f"  {group} done", flush=True)
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return one line for each thing that is not the same in both."""
    lines = [f"only before: {name}" for name in before if name not in after]
    lines += [f"only after: {name}" for name in after if name not in before]
    for name in before:
        if name in after and before[name] != after[name]:
            lines.append(f"differs: {name}{_where(before[name], after[name])}")
    return lines


def _where(a: Any, b: Any) -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        return ": " + ", ".join(key for key in sorted({*a, *b}) if a.get(key) != b.get(key))[:300]
    if isinstance(a, list) and isinstance(b, list):
        first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        return f": from entry {first} of {len(a)} and {len(b)}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", help="the commit to compare with")
    parser.add_argument("--only", default="", help=f"of {', '.join([*GROUPS, GOLDEN])}")
    parser.add_argument("--record", type=Path, help="write the record of this tree here")
    parser.add_argument("--against", type=Path, help="a record to compare with, instead of --base")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        with tempfile.TemporaryDirectory() as work:
            found = record_golden() if args.one == GOLDEN else record_group(args.one, Path(work))
        args.record.write_text(json.dumps(found))
        return 0
    groups = [name for name in [*GROUPS, GOLDEN] if not args.only or name in args.only.split(",")]
    before: dict[str, Any] | None = None
    if args.against:
        stored = json.loads(args.against.read_text())
        if stored["machine"] != machine():
            parser.error(f"{args.against} was recorded on {stored['machine']}, this is {machine()}: not comparable")
        before = {k: v for k, v in stored["found"].items() if k.split(":")[0] in groups}
    elif args.base:
        print(f"{args.base}:")
        with tempfile.TemporaryDirectory() as folder:
            before = record(checkout(args.base, Path(folder)), groups)
    print("this tree:")
    after = record(ROOT, groups)
    if args.record:
        args.record.write_text(json.dumps({"machine": machine(), "found": after}))
    if before is None:
        return 0
    lines = differences(before, after)
    print("\n".join(lines) or f"identical: {len(after)} records")
    return int(bool(lines))


def checkout(commit: str, folder: Path) -> Path:
    """Check out the files of a commit, with the real clips that tests look for beside them."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], check=True, capture_output=True)
    tree = folder / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
    shared = ROOT.parent / "shared"
    if shared.is_dir():
        (folder / "shared").symlink_to(shared)
    return tree


if __name__ == "__main__":
    shutil.which("git") or sys.exit("git is needed")
    sys.exit(main())
