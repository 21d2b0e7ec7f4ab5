"""The notebooks of docs/tutorials run as they stand, cell after cell."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


def program(notebook):
    """The code cells as a program; a line that begins with ! is a command of the shell, as in Jupyter."""
    lines = ["import subprocess"]
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], f"{notebook.name}: clear all outputs before you commit"
            for line in "".join(cell["source"]).splitlines():
                lines.append(re.sub(r"^!(.*)$", r'subprocess.run(f"""\1""", shell=True, check=True)', line))
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_runs(notebook, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "dust").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dust "$@"\n')
    (tmp_path / "bin" / "dust").chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environ |= {"DUST_REPOSITORY": str(ROOT), "EPOCHS": "5", "MPLBACKEND": "agg"}
    (tmp_path / "notebook.py").write_text(program(notebook))
    command = [sys.executable, "notebook.py"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environ)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-3000:]
    assert "top1_acc" in run.stdout and "prob" not in run.stderr
