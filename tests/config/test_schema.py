"""What is declared of a key is what holds for it; and a key without its facts is refused by name."""

import importlib

import pytest
from yacs.config import CfgNode

from dust.config import KEYS, flatten, get_cfg, load_config, with_values
from dust.config.defaults import OUR_MODELS, OWN, SYSTEMS
from dust.config.schema import Key, gather, section, tree
from dust.config.values import Folders, Weight
from dust.utils.errors import ConfigError
from tests.config.test_validate import texts
from tests.helpers import ROOT

BOUNDS = [(name, bound) for name in KEYS for bound in ("low", "above", "high", "below")]
BOUNDS = [(name, bound) for name, bound in BOUNDS if getattr(KEYS[name], bound) is not None]


def set_alone(name, value):
    return texts(**{name.replace(".", "__"): value})


# ------------------------------------------------------------------------------------------------ what is declared
@pytest.mark.parametrize("name", OWN)
def test_every_key_says_in_one_line_what_it_is(name):
    doc = OWN[name].doc
    assert doc == doc.strip() and "\n" not in doc and len(doc) >= 5, name


@pytest.mark.parametrize("name", [name for name in KEYS if KEYS[name].options and isinstance(KEYS[name].default, list)])
def test_a_list_takes_choices_each_once(name):
    options = list(KEYS[name].options)
    assert set_alone(name, options[::-1]) == set_alone(name, options[:1]) == []
    for wrong in ([], [options[0], "other"], [options[0]] * 2):
        assert set_alone(name, wrong) == [f"{name} {wrong}: one or more of {', '.join(options)}, each once"]


@pytest.mark.parametrize("name", [name for name in KEYS if KEYS[name].options and isinstance(KEYS[name].default, str)])
def test_choices_and_nothing_else_are_taken(name):
    for option in KEYS[name].options:
        assert not [text for text in set_alone(name, option) if "choose" in text]
    listed = ", ".join(option or "''" for option in KEYS[name].options)
    assert set_alone(name, "other") == [f"{name} 'other': choose {listed}"]


@pytest.mark.parametrize(("name", "bound"), BOUNDS)
def test_bounds_are_kept(name, bound):
    limit = getattr(KEYS[name], bound)
    step = (1 if isinstance(KEYS[name].default, int) else 1e-6) * (-1 if bound in ("low", "below") else 1)
    outside, inside = (limit + step, limit) if bound in ("low", "high") else (limit, limit + step)
    assert set_alone(name, outside)[0] == f"{name} {outside}: must be {KEYS[name].bounds}"
    assert not [text for text in set_alone(name, inside) if text.endswith(f": must be {KEYS[name].bounds}")]


@pytest.mark.parametrize("name", sorted({name for name, _ in BOUNDS}))
def test_no_bound_takes_infinity(name):
    assert set_alone(name, float("inf"))[0] == f"{name} inf: must be {KEYS[name].bounds}"


@pytest.mark.parametrize("name", [name for name in KEYS if KEYS[name].length is not None])
def test_lengths_are_kept(name):
    longer = [*KEYS[name].default, 0.0]
    assert set_alone(name, longer) == [f"{name} {longer}: must have {KEYS[name].length} values"]


@pytest.mark.parametrize("name", [name for name in OWN if OWN[name].kind and name != "TUNE.SPACE"])  # test_space.py
def test_kinds_are_read_from_text(name):
    kind, many = OWN[name].kind, OWN[name].default is not None
    quiet = ["TRAIN.ENABLE", "False", "TEST.ENABLE", "False", "MODEL.NUM_CLASSES", "2", "TRACKS.VIEWS", "[3, 4]"]
    quiet += ["AUG.ENABLE", "True"]  # AUG.LIST asks for it
    quiet += ["DATA.PATH_TO_DATA_DIR", "[one, two]"] if name == "DATA.DATASET_WEIGHTS" else []
    text = {list: "[[3, 4]]"}.get(kind, "[3, 4]")
    read = flatten(load_config(None, [*quiet, name, text if many else "3"]))[name]
    assert {type(value) for value in (read if many else [read])} == {
        {object: str, Weight: float, Folders: str}.get(kind, kind)
    }
    for word in OWN[name].words:
        assert flatten(load_config(None, [*quiet, name, word]))[name] == word


@pytest.mark.parametrize(
    ("name", "theirs", "ours"), [(name, *pair) for name in KEYS for pair in KEYS[name].aliases.items()]
)
def test_aliases_are_replaced(name, theirs, ours):
    assert flatten(load_config(None, [name, theirs]))[name] == ours


def test_stages_are_empty_texts_and_free_to_move():
    stages = {name: facts for name, facts in KEYS.items() if facts.stage}
    assert all(facts.default == "" and facts.may_change_on_resume for facts in stages.values())
    assert {name for name in OWN if name.endswith(("_FROM", "CHECKPOINT_FILE_PATH", ".PRETRAINED"))} == set(stages)
    for facts in stages.values():
        assert not facts.inherits or facts.inherits in get_cfg()


def test_systems_declare_all_models_that_are_registered():
    from dust.models import MODEL_REGISTRY

    theirs = {name for name in MODEL_REGISTRY if not MODEL_REGISTRY.get(name).__module__.startswith("dust.")}
    assert set(MODEL_REGISTRY) - theirs == OUR_MODELS, "name each in the models of its SYSTEM (dust/config)"
    assert sum(len(system.models) for system in SYSTEMS) == len(OUR_MODELS)


# ------------------------------------------------------------------------------------------------ what is forgotten
def test_every_key_file_is_registered():
    files = [path for path in (ROOT / "dust" / "config").glob("*.py") if "\nSYSTEM = " in path.read_text("utf-8")]
    declared = [importlib.import_module(f"dust.config.{path.stem}").SYSTEM for path in files]
    unregistered = [path.name for path, system in zip(files, declared, strict=True) if system not in SYSTEMS]
    assert not unregistered, "add their SYSTEM to SYSTEMS of dust/config/defaults.py"
    assert len(files) == len(SYSTEMS)


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        (16, "NEW.WIDTH = 16: declare it by Key(default, doc, ...)"),
        (Key(16, "", low=1), "NEW.WIDTH: say in one line what it means (doc)"),
        (Key(16, "width"), "NEW.WIDTH: say between which bounds its value lies"),
        (Key([], "widths"), "NEW.WIDTH: its default does not show the type of its value or elements: give the kind"),
        (Key(None, "width"), "NEW.WIDTH: its default does not show the type"),
        (Key(0, "width", low=1), "NEW.WIDTH: its own default is not allowed"),
        (Key("c", "width", choices="a | b"), "NEW.WIDTH: its own default is not allowed"),
        (Key("a", "width", choices="a, or b"), "NEW.WIDTH: choices 'a, or b': write them as"),
        (Key(16, "width", low=1, affects="learning"), "NEW.WIDTH: affects 'learning': choose all, training, features"),
        (Key("", "width", stage="folder"), "NEW.WIDTH: a key that names a stage"),
        (Key("", "width", inherits="CAST"), "NEW.WIDTH: inherits CAST: only a checkpoint's stage"),
        (Key("", "width", stage="weights", affects="all"), "NEW.WIDTH: a key that names a stage"),
    ],
)
def test_a_key_without_its_facts_is_an_error_that_says_so(declared, says):
    with pytest.raises(ConfigError) as caught:
        section("NEW", WIDTH=declared, DEPTH=Key(2, "blocks", low=1))
    assert says in str(caught.value) and "DEPTH" not in str(caught.value)


def test_all_that_is_missing_is_said_at_once():
    with pytest.raises(ConfigError, match=r"(?s)NEW.A: say in one line.*NEW.A: say between.*NEW.B = 3: declare"):
        section("NEW", A=Key(1, ""), B=3)


def test_a_key_is_declared_once():
    new = section("TRAIN", ENABLE=Key(True, "train"))
    with pytest.raises(ConfigError, match="declared twice: TRAIN.ENABLE"):
        gather(OWN, new)


def test_a_new_key_needs_nothing_but_its_declaration():
    keys = section("NEW", affects="training", LAYER=Key("", "where", stage="weights"), WIDTH=Key(4, "wide", low=1))
    cfg = tree({**keys, **section("NEW.INNER", PARTS=Key([], "parts", kind=int))})
    assert cfg == CfgNode({"NEW": {"LAYER": "", "WIDTH": 4, "INNER": {"PARTS": []}}})
    assert keys["NEW.LAYER"].may_change_on_resume and keys["NEW.LAYER"].changes_features
    assert not keys["NEW.WIDTH"].may_change_on_resume and not keys["NEW.WIDTH"].changes_features


def test_lists_are_not_shared():
    shared = [1]
    cfg = tree(section("NEW", A=Key(shared, "a"), B=Key(shared, "b")))
    assert "&id" not in cfg.dump() and cfg.NEW.A is not shared


# ------------------------------------------------------------------------------------------------ changes in flight
def test_with_values_copies_and_keeps_the_ice():
    cfg = load_config(None, ["NUM_GPUS", "0"])
    changed = with_values(cfg, {"NUM_GPUS": 2, "TENSORBOARD.CONFUSION_MATRIX.ENABLE": True})
    assert (changed.NUM_GPUS, changed.TENSORBOARD.CONFUSION_MATRIX.ENABLE, changed.is_frozen()) == (2, True, True)
    assert (cfg.NUM_GPUS, cfg.TENSORBOARD.CONFUSION_MATRIX.ENABLE, cfg.is_frozen()) == (0, False, True)
    assert not with_values(get_cfg(), {}).is_frozen()


def test_with_values_knows_the_keys():
    with pytest.raises(ConfigError, match="the configuration has no NUM_GPU, TRAIN"):
        with_values(get_cfg(), {"NUM_GPU": 2, "TRAIN": True, "NUM_GPUS": 1})
