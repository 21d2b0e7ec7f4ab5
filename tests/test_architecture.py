"""Who may import whom, and how big a room may be."""

import ast
import subprocess
import sys

import pytest

from tests.helpers import ROOT

#: Each part of dust, and the parts that it may import.
ALLOWED = {
    "utils": set(),
    "config": {"utils"},
    "zoo": {"utils"},
    "models": {"utils", "config"},
    "datasets": {"utils", "config"},
    "convert": {"datasets", "utils"},
    "visualization": {"utils", "config"},
    "tasks": {"visualization", "models", "utils", "config"},
    "engine": {"tasks", "visualization", "models", "datasets", "zoo", "utils", "config"},
}
MODULES = sorted(path for path in (ROOT / "dust").rglob("*.py") if len(path.relative_to(ROOT).parts) > 2)


def imported_parts(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"dust.{alias.name}" for alias in node.names] if node.module == "dust" else [node.module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "dust" and len(parts) > 1 and parts[1] != "__version__":
                yield parts[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    own = path.relative_to(ROOT / "dust").parts[0]
    assert own in ALLOWED, f"{own}: say in ALLOWED what it may import"
    assert set(imported_parts(path)) <= ALLOWED[own] | {own}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_are_small(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 80, f"{path}: {node.name}"


def test_nothing_prints_in_the_package():
    for path in MODULES:
        if path.name == "run_net.py" or path.parts[-2:] == ("utils", "logging.py"):
            continue  # the command line, and the log that cannot log
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            assert not (isinstance(called, ast.Name) and called.id == "print"), path


def modules_after(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "statement", ["import dust", "import dust.config", "import dust.engine.run_net", "import dust.zoo"]
)
def test_light_imports_stay_light(statement):
    """--help, a wrong key and ``import dust`` answer without torch and what stands on it."""
    assert not modules_after(statement) & {"torch", "av", "timm", "sklearn", "matplotlib", "torchvision"}
