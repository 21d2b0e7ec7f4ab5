"""Every registered model and dataset keeps what dust may ask of it, and none has a method that nobody will find."""

import ast
import logging
from collections.abc import Mapping

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from dust.datasets import DATASET_REGISTRY
from dust.datasets import protocol as datasets
from dust.models import MODEL_REGISTRY
from dust.models import protocol as models
from dust.models.optimizer import parameter_groups
from dust.utils.protocols import find_problems, members, public_names
from dust.utils.registry import Registry
from tests.helpers import ROOT
from tests.models.small_models import OPTIONAL, OTHERS, SMALL, make


def instance(name):
    return make(name, next(arguments for case, arguments, _ in SMALL + OTHERS if case == name))


@pytest.mark.parametrize("name", sorted(MODEL_REGISTRY))
def test_models(name):
    assert find_problems(MODEL_REGISTRY.get(name), models.PROTOCOLS, nn.Module) == []
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    model = instance(name)
    assert isinstance(type(model), models.FromConfig)
    names = set(dict(model.named_parameters()))
    assert models.no_weight_decay(model) <= names
    scales = models.lr_scales(model)
    assert set(scales) <= names and all(isinstance(scale, float) for scale in scales.values())
    for part, (key, file) in models.init_from(model).items():
        assert isinstance(part, str) and key.isupper() and isinstance(file, str)
    assert isinstance(models.init_from(model), Mapping)
    if isinstance(model, models.SavesTrainedPart):
        state = model.partial_state_dict()
        assert set(state) <= set(model.state_dict())
        model.load_partial(state, "itself")
        assert isinstance(model.frozen_sha256(), str)
    if isinstance(model, models.HasClassifier):
        head = model.get_classifier()
        assert isinstance(head, nn.Module) or all(isinstance(one, nn.Module) for one in head.values())
    if isinstance(model, models.ResetsClassifier):
        assert isinstance(model.num_classes, int | tuple)
    if isinstance(model, models.AdaptsStateDict):
        state = dict(model.state_dict())
        adapted = model.adapt_state_dict(state, [])
        assert adapted.keys() == state.keys(), "a file of the model's own layout stays as it is"
    if isinstance(model, models.AssembledFromParts):
        assert isinstance(model.assembled_from_parts, bool) and isinstance(model, models.HasParts)
    if isinstance(model, models.ChecksActivations):
        model.set_grad_checkpointing(True)
        model.set_grad_checkpointing(False)


@pytest.mark.parametrize("name", sorted(DATASET_REGISTRY))
def test_datasets(name):
    cls = DATASET_REGISTRY.get(name)
    assert find_problems(cls, [datasets.ClipDataset, *datasets.PROTOCOLS], Dataset) == []
    assert set(members(datasets.ClipDataset)) <= public_names(cls, Dataset)
    assert isinstance(cls, datasets.FromConfig)


class Named(nn.Module):
    """A model whose every optional method is wrong in a way of its own."""

    def __init__(self):
        super().__init__()
        self.init_form = {}
        self.head = nn.Linear(2, 2)

    def no_weight_decays(self):
        return {"head.bias"}

    def lr_scales(self) -> list[float]:
        return [1.0]

    def load_parts(self, paths, verbose):
        pass

    def group_matcher(self):
        return {}

    def load_partial(self, source, state):
        pass

    @property
    def gflops(self):
        return 1.0


def test_what_is_wrong_is_found():
    problems = find_problems(Named, models.PROTOCOLS, nn.Module)
    for words in (
        "Named.no_weight_decays: is no_weight_decay meant (ExemptsFromDecay)? Nobody asks for no_weight_decays",
        "Named.init_form: is init_from meant (HasParts)?",
        "Named.lr_scales: returns list[float], not dict[str, float] (ScalesLearningRates)",
        "Named.load_parts: needs 'verbose', which nobody gives",
        "Named.group_matcher: does not take 'coarse'",
        "Named.load_partial: takes 'state' at another place than",
        "Named.gflops: is a value and must be a method (KnowsItsCost)",
    ):
        assert any(problem.startswith(words) for problem in problems), (words, problems)
    assert find_problems(nn.Linear, models.PROTOCOLS, nn.Module) == []


def test_a_dataset_of_its_own_signature_is_found():
    class Wrong(Dataset):
        def class_count(self):
            return []

        def training_sampler(self, batch_size, seed, ranks):
            return None

        def windows(self, stride: int, chunk: int, **more) -> Dataset:
            return self

    problems = find_problems(Wrong, [datasets.ClipDataset, *datasets.PROTOCOLS], Dataset)
    assert any("class_count: is class_counts meant" in problem for problem in problems)
    assert any("training_sampler: needs 'ranks'" in problem for problem in problems)
    assert any("training_sampler: does not take 'world_size'" in problem for problem in problems)
    assert not any("windows" in problem for problem in problems), "it takes what is asked, and more"


def test_the_registry_says_so(caplog):
    registry = Registry("model", protocols=models.PROTOCOLS, base=nn.Module)
    registry.register()(Named)
    with caplog.at_level(logging.WARNING):
        registry.get("Named")
        registry.get("Named")
    assert caplog.text.count("is no_weight_decay meant") == 1


def test_defaults_of_a_model_that_has_nothing():
    model = nn.Sequential(nn.Linear(2, 2))
    assert (models.init_from(model), models.lr_scales(model), models.no_weight_decay(model)) == ({}, {}, set())
    (group,) = parameter_groups(model, weight_decay=0.1)
    assert (group["weight_decay"], group["lr_scale"]) == (0.1, 1.0)
    data = torch.utils.data.TensorDataset(torch.zeros(2))
    assert datasets.fitted_of(data) == {}
    assert not any(isinstance(data, one) for one in datasets.PROTOCOLS)


ASKERS = ["engine", "tasks", "streaming", "analysis", "benchmark", "datasets/loader.py", "datasets/build.py", "models"]


def test_nobody_looks_an_optional_member_up_by_a_string():
    asked = {name for one in (*models.PROTOCOLS, *datasets.PROTOCOLS) for name in members(one)}
    for place in ASKERS:
        root = ROOT / "dust" / place
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = node.func if isinstance(node, ast.Call) else None
                if isinstance(called, ast.Name) and called.id in ("getattr", "hasattr"):
                    name = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
                    assert name not in asked, f"{path}:{node.lineno}: ask by the protocol"
