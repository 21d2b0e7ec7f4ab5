"""Where a model's parts come from: stages that are not there are all named at once."""

import pytest
import torch
from torch import nn

from dust.engine.weights import load_parts
from dust.utils.checkpoint import save_checkpoint
from dust.utils.errors import DustError


class Parts(nn.Module):
    """Takes the files of its parts itself, as TSTL does."""

    def __init__(self, named):
        super().__init__()
        self.init_from, self.given = named, {}

    def load_parts(self, paths):
        self.given = paths


def test_every_part_that_has_no_file_is_named(tmp_path):
    output_dir = tmp_path / "test"
    save_checkpoint(tmp_path / "one.pyth", {"model_state": {"x": torch.zeros(1)}})
    there = {"experts.0": ("TSTL.EXPERTS_FROM", str(tmp_path / "one.pyth"))}
    model = Parts(there)
    assert load_parts(model, output_dir) == model.given == {"experts.0": tmp_path / "one.pyth"}
    gone = {f"experts.{g}": ("TSTL.EXPERTS_FROM", f"stage/experts/group_{g}") for g in (1, 2, 3)}
    with pytest.raises(DustError) as error:
        load_parts(Parts({**there, **gone}), output_dir)
    said = str(error.value)
    assert said.startswith("TSTL.EXPERTS_FROM stage/experts/group_1: there is no ")
    assert said.endswith("Likewise: stage/experts/group_2, stage/experts/group_3")
