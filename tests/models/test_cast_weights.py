"""CAST as the engine meets it: experts from files, checkpoints of what is trained, and whose experts those are."""

import pytest
import torch

from dust.models.cast_weights import HASH, frozen_sha256, trained_names
from dust.utils.checkpoint import read_checkpoint, save_checkpoint
from dust.utils.errors import CheckpointError
from tests.helpers import randomised
from tests.models.test_cast import VIDEO, experts, fresh

PARTS = {"spatial": ("CAST.SPATIAL_FROM", "a"), "temporal": ("CAST.TEMPORAL_FROM", "b")}
TRUNK = {"trunk": ("CAST.TRUNK_FROM", "c")}


@pytest.fixture
def files(tmp_path):
    paths = {}
    for part, expert in zip(PARTS, experts(), strict=True):
        paths[part] = tmp_path / f"{part}.pyth"
        save_checkpoint(paths[part], {"model_state": expert.state_dict()})
    return paths


def trained(files):
    """A model on the experts of these files, some steps after its beginning."""
    model = fresh(init_from=PARTS)
    model.load_parts(files)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name in trained_names(model):
            parameter = model.get_parameter(name)
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def test_a_checkpoint_holds_what_is_trained_and_restores_exactly(files, tmp_path):
    model = trained(files)
    save_checkpoint(tmp_path / "run.pyth", {"model_state": model.partial_state_dict()})
    saved = read_checkpoint(tmp_path / "run.pyth")["model_state"]
    assert set(saved) == {*trained_names(model), HASH}
    other = fresh(init_from=PARTS)
    with pytest.raises(CheckpointError, match="run.pyth was trained on other experts"):
        other.load_partial(saved, "run.pyth")
    other.load_parts(files)
    other.load_partial(saved, "run.pyth")
    assert torch.equal(other(VIDEO), model(VIDEO)) and other.frozen_sha256() == model.frozen_sha256()


def test_one_number_of_an_expert_makes_another(files):
    model = trained(files)
    state = model.partial_state_dict()
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[0, 0] += 1e-3
    head = model.head.weight.clone()
    with pytest.raises(CheckpointError, match="CAST.SPATIAL_FROM"):
        model.load_partial({**state, "head.weight": head + 1}, "x")
    assert torch.equal(model.head.weight, head)


def test_without_files_or_with_experts_that_learn_everything_is_saved():
    for model in (fresh(), fresh(init_from=PARTS, freeze=False)):
        state = randomised(model).partial_state_dict()
        assert set(state) == set(model.state_dict())
        other = fresh()
        other.load_partial(state, "x")
        assert torch.equal(other(VIDEO), model(VIDEO))
    del state["head.bias"]
    with pytest.raises(CheckpointError, match="(?s)x: does not fit CAST.*head.bias"):
        other.load_partial(state, "x")
    assert all(parameter.requires_grad for parameter in fresh(freeze=False).parameters())


def test_another_casts_experts(files, tmp_path):
    source = randomised(fresh(num_classes=3))
    save_checkpoint(tmp_path / "whole.pyth", {"model_state": source.state_dict()})
    torch.save({"module": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "theirs.pth")
    for name in ("whole.pyth", "theirs.pth"):
        model = fresh(init_from=TRUNK)
        before = model.head.weight.clone()
        model.load_parts({"trunk": tmp_path / name})
        assert frozen_sha256(model) == frozen_sha256(source)
        assert torch.equal(model.head.weight, before) and set(model.partial_state_dict()) == {
            *trained_names(model), HASH,
        }  # fmt: skip
    save_checkpoint(tmp_path / "part.pyth", {"model_state": trained(files).partial_state_dict()})
    untouched = frozen_sha256(model)
    with pytest.raises(CheckpointError, match="(?s)part.pyth.*is missing.*and .* more.*only what was trained"):
        model.load_parts({"trunk": tmp_path / "part.pyth"})
    save_checkpoint(tmp_path / "wide.pyth", {"model_state": fresh(embed_dim=96).state_dict()})
    with pytest.raises(CheckpointError, match=r"clip_conv1.weight is \(96, 3, 8, 8\), in the model \(48, 3, 8, 8\)"):
        model.load_parts({"trunk": tmp_path / "wide.pyth"})
    assert frozen_sha256(model) == untouched


def test_features_come_along_in_training_only():
    model = randomised(fresh(return_features=True))
    logits = model(VIDEO)
    outputs = model.train()(VIDEO)
    assert torch.equal(outputs["logits"], logits)
    assert torch.equal(model.head(outputs["features"]), logits)
    both = fresh(return_features=True, composition=True).train()
    assert set(both(VIDEO)) == {"verb", "noun"}
