import subprocess
import sys
from pathlib import Path

import pytest

from dust.utils.errors import ConfigError
from dust.utils.registry import Registry
from tests.helpers import ROOT


@pytest.fixture
def registry():
    registry = Registry("model", aliases={"old_name": "TimeSformer"})

    @registry.register()
    class TimeSformer:
        pass

    return registry


def test_names_and_aliases(registry, caplog):
    with caplog.at_level("INFO", logger="dust"):
        assert registry.get("TimeSformer") is registry.get("old_name")
    lines = Path(__file__).read_text().splitlines()
    number = 1 + lines.index("    class TimeSformer:")
    assert f"TimeSformer <- tests/utils/test_registry.py:{number}" in caplog.text


def test_an_unknown_name_lists_near_misses(registry):
    with pytest.raises(ConfigError, match="no model is called 'TimesFormer'. Did you mean TimeSformer"):
        registry.get("TimesFormer")


def test_two_classes_of_one_name_are_refused(registry):
    with pytest.raises(ValueError, match="registered twice"):
        registry.register()(type("TimeSformer", (), {}))


def test_a_name_of_dusts_own_is_refused_where_it_is_registered():
    """Also where nobody has asked for the registry yet: its own classes come in with the first question."""
    code = (
        "from dust.datasets.build import DATASET_REGISTRY\n"
        "try:\n    DATASET_REGISTRY.register()(type('SSv2', (), {'__module__': 'mine'}))\n"
        "except ValueError as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.startswith("dataset SSv2 is registered twice")
