"""What dust says to people names nothing that only a checkout of the repository has."""

import ast
import re

import pytest

from dust.utils.package import CONFIGS
from tests.helpers import ROOT

FILES = sorted((ROOT / "dust").rglob("*.py"))
#: What a checkout has, and an installation has not, or somewhere else.
ABSENT = re.compile(
    r"\b(?:dust/datasets|tools|docs|benchmarks|slurm_scripts|tests)/\w|\b(?:run_net|submit)\.py\b|\b(?:CONTRIBUTING|README)\.md\b"
)


def messages(path):
    """(line, text) of all that a file may show: every string but docstrings, and those of the command line too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node) and not (path.parent.name == "cli" and node is tree)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_message_names_what_only_a_checkout_has(path):
    if path.parts[-2:] == ("config", "table.py"):
        return  # it writes a page of the repository
    found = [f"{path.name}:{line}: {text}" for line, text in messages(path) if ABSENT.search(text)]
    assert not found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_configurations_that_a_message_names_came_with_dust(path):
    for line, text in messages(path):
        for name in re.findall(r"\bconfigs/([\w/]+(?:\.\w+)?)", text):
            placeholder = name.partition(".")[0].isupper()
            assert placeholder or (CONFIGS / name).exists(), f"{path.name}:{line}: configs/{name}"


def test_the_configurations_name_commands_that_are_installed():
    for path in CONFIGS.rglob("*.yaml"):
        assert not ABSENT.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_a_page_tells_nobody_to_call_a_file_of_tools(page):
    """But for benchmark.py, which measures dust beside others, and says that it wants a checkout."""
    for name in re.findall(r"\btools/(\w+)\.py", page.read_text(encoding="utf-8")):
        assert name == "benchmark", page
