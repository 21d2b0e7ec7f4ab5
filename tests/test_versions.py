"""setup.py claims what `make test-versions` runs, and nothing else."""

import ast
import importlib.metadata
import re

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import dust
from tests.helpers import ROOT
from tests.test_wheel import PARTS


def lists_of_setup() -> dict[str, list[str]]:
    """The lists of strings that setup.py assigns to names."""
    found = {}
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            values = [item.value for item in node.value.elts if isinstance(item, ast.Constant)]
            found[node.targets[0].id] = values
    return found


def oldest() -> dict[str, Version]:
    lines = (ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name.lower(): Version(version) for name, version in pairs}


def test_every_lower_bound_is_the_version_that_is_tested():
    tested = oldest()
    for line in [line for name in ("REQUIRES", "TRACKS", "SERVE", "PARQUET", "EDF") for line in lists_of_setup()[name]]:
        requirement = Requirement(line)
        bounds = [Version(one.version) for one in requirement.specifier if one.operator == ">="]
        assert len(bounds) == 1, f"{line}: say from which version on"
        have = tested[requirement.name.lower()]
        assert have.release[: len(bounds[0].release)] == bounds[0].release and have >= bounds[0], line


def test_what_is_installed_is_what_is_claimed():
    for line in lists_of_setup()["REQUIRES"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True), line


def test_the_python_that_is_claimed_is_the_oldest_that_is_tried():
    claimed = re.search(r'python_requires=">=(3\.\d+)"', (ROOT / "setup.py").read_text()).group(1)
    assert f"OLDEST_PYTHON := python{claimed}" in (ROOT / "Makefile").read_text()


def test_what_is_required_is_imported():
    names = {"Pillow": "PIL", "PyYAML": "yaml", "scikit-learn": "sklearn", "tensorboard": "torch.utils.tensorboard"}
    imported = set()
    for path in (ROOT / "dust").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module)
    for line in lists_of_setup()["REQUIRES"]:
        name = names.get(Requirement(line).name, Requirement(line).name)
        assert any(f"{one}.".startswith(f"{name}.") for one in imported), (
            f"setup.py requires {name}, nothing imports it"
        )


def test_what_is_cited_is_this_version():
    """https://citation-file-format.github.io: the keys that version 1.2.0 demands, and our version and licence."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0" and cited["message"] and cited["title"] and cited["authors"]
    assert (cited["version"], cited["license"], cited["type"]) == (dust.__version__, "Apache-2.0", "software")


def test_a_container_is_built_from_what_the_wheel_needs():
    """Every file that setup.py reads is let in, and the arguments that the head of the Dockerfile shows are there."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    let_in = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.M))
    assert let_in == set(PARTS) - {"MANIFEST.in"} and all((ROOT / name).exists() for name in let_in)
    declared = set(re.findall(r"^ARG (\w+)", dockerfile, re.M))
    assert set(re.findall(r"--build-arg (\w+)=", dockerfile)) <= declared == {"BASE", "TORCH_INDEX", "EXTRAS"}
