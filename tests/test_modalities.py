"""The program of docs/MODALITIES.md runs as it stands: a modality from outside the package."""

import json
import re
import subprocess
import sys

from tests.helpers import ROOT


def test_a_modality_from_outside_the_package(tmp_path):
    text = (ROOT / "docs" / "MODALITIES.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    settings = re.search(r"# my.yaml\n(.*?)```", text, re.DOTALL).group(1)
    (tmp_path / "my_run.py").write_text(program)
    (tmp_path / "my.yaml").write_text(settings)
    command = [sys.executable, "my_run.py", "--cfg", "my.yaml"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "runs" / "takes" / "results" / "test.json").read_text())
    assert report["metrics"]["top1_acc"] == 100.0 and report["counts"]["samples"] == 16
