"""Hooks of a user's own: a file outside of the package, named in IMPORTS, that hears of a run and resumes with it."""

import json
import os
import signal
import sys

import pytest
import torch

from dust.engine.hooks import HOOK_REGISTRY, Hook, build_hooks
from dust.engine.learner import Learner
from dust.engine.run_dir import RunDir
from dust.engine.train import Trainer
from dust.launch.signals import Interrupted
from dust.utils.checkpoint import load_checkpoint, save_checkpoint
from dust.utils.errors import ConfigError
from dust.utils.registry import import_extensions
from tests.engine.test_resume import RICH, PowerCut, StopAfter, assert_same, assert_same_run
from tests.engine.test_run_net import start, words
from tests.runs import train

#: What a user writes: a second logger, and a hook with state that changes what is learnt.
MINE = '''
import json
from pathlib import Path

import torch

from dust.engine.hooks import HOOK_REGISTRY, Hook


@HOOK_REGISTRY.register()
class SecondLogger(Hook):
    """A line for each moment, and how many there were of each, over all lives of the run."""

    def __init__(self, path):
        self.path, self.counts = Path(path), {"steps": 0, "updates": 0, "evaluations": 0, "epochs": 0}

    @classmethod
    def from_config(cls, cfg):
        return {"path": Path(cfg.OUTPUT_DIR) / "second.jsonl"}

    def _write(self, kind, **values):
        self.counts[kind] += 1
        with open(self.path, "a") as file:
            file.write(json.dumps({"kind": kind, "number": self.counts[kind], **values}) + "\\n")

    def after_step(self, state, step):
        self.counts["updates"] += step.stepped
        self._write("steps", epoch=state.epoch, iteration=step.iteration, loss=step.stats.get("loss"), lr=step.lr)

    def after_evaluation(self, state, result):
        self._write("evaluations", epoch=state.epoch, improved=result.improved, **result.metrics)

    def after_epoch(self, state, end):
        self._write("epochs", epoch=end.epoch, last=end.last)

    def state_dict(self):
        return {"counts": self.counts}

    def load_state_dict(self, state):
        self.counts = dict(state["counts"])


@HOOK_REGISTRY.register()
class PullToMean(Hook):
    """Keeps a slow average of the weights of its own, and pulls the weights a little towards it."""

    def __init__(self):
        self.mean = {}

    def after_step(self, state, step):
        if not step.stepped:
            return
        with torch.no_grad():
            for name, value in state.model.named_parameters():
                mean = self.mean.setdefault(name, value.detach().clone())
                mean.lerp_(value, 0.2)
                value.lerp_(mean, 0.1)

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = {name: value.clone() for name, value in state["mean"].items()}
'''


@pytest.fixture
def mine(tmp_path):
    """The user's file, imported; its registrations are forgotten afterwards."""
    path = tmp_path / "my_hooks.py"
    path.write_text(MINE)
    import_extensions([str(path)])
    yield {"IMPORTS": [str(path)], "TRAIN__HOOKS": ["SecondLogger", "PullToMean"]}
    del sys.modules["my_hooks"]
    for name in ("SecondLogger", "PullToMean"):
        del HOOK_REGISTRY._classes[name]


def lines(cfg):
    return [json.loads(line) for line in (RunDir(cfg.OUTPUT_DIR).path / "second.jsonl").read_text().splitlines()]


def test_a_second_logger_hears_every_moment_in_order(tiny, mine):
    cfg = tiny(**RICH, **mine, SOLVER__MAX_EPOCH=2)
    saved = train(cfg)
    heard = lines(cfg)
    epoch = [*["steps"] * 4, "evaluations", "epochs"]  # 10 clips in batches of 3, a step of 6
    assert [line["kind"] for line in heard] == 2 * epoch
    assert [line["iteration"] for line in heard if line["kind"] == "steps"] == 2 * [1, 2, 3, 4]
    assert saved["hooks"]["SecondLogger"]["counts"] == {"steps": 8, "updates": 4, "evaluations": 2, "epochs": 2}
    assert [line["last"] for line in heard if line["kind"] == "epochs"] == [False, True]
    assert saved["updates"] == 4


def test_a_hook_may_change_what_is_learnt(tiny, mine):
    with_hooks = train(tiny("with", **RICH, **mine))
    without = train(tiny("without", **RICH))
    assert any(
        not torch.equal(value, without["model_state"][name]) for name, value in with_hooks["model_state"].items()
    )
    listening = train(tiny("listening", **RICH, **{**mine, "TRAIN__HOOKS": ["SecondLogger"]}))
    assert_same_run(listening, without)


@pytest.mark.parametrize("batches", [1, 4, 6])
def test_a_run_that_is_stopped_and_resumed_is_the_same_for_its_hooks(tiny, mine, monkeypatch, batches):
    whole = tiny("whole", **RICH, **mine)
    expected = train(whole)
    cfg = tiny("cut", **RICH, **mine)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        StopAfter(patch, batches)
        train(cfg)
    resumed = train(cfg)
    assert_same_run(resumed, expected)
    assert_same(resumed["hooks"], expected["hooks"])
    assert lines(cfg) == lines(whole), "each moment once, whichever life it fell into"


def test_a_power_cut_takes_hooks_back_to_the_last_checkpoint(tiny, mine, monkeypatch):
    expected = train(tiny("whole", **RICH, **mine))
    cfg = tiny("cut", **RICH, **mine, TRAIN__CHECKPOINT_PERIOD_ITERS=2)
    original, seen = Learner._micro_step, []

    def step(trainer, batch):
        seen.append(1)
        if len(seen) == 8:
            raise PowerCut
        return original(trainer, batch)

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(Learner, "_micro_step", step)
        train(cfg)
    resumed = train(cfg)
    assert_same_run(resumed, expected)
    assert_same(resumed["hooks"], expected["hooks"])


def test_an_evaluation_that_is_stopped_is_heard_of_once(tiny, mine, monkeypatch):
    whole = tiny("whole", **mine)
    expected = train(whole)
    original = Trainer._validate

    def validate(trainer):
        monkeypatch.setattr(Trainer, "_validate", original)
        os.kill(os.getpid(), signal.SIGTERM)
        return original(trainer)

    monkeypatch.setattr(Trainer, "_validate", validate)
    cfg = tiny("cut", **mine)
    with pytest.raises(Interrupted):
        train(cfg)
    assert_same(train(cfg)["hooks"], expected["hooks"])
    assert lines(cfg) == lines(whole)


def test_checkpoints_without_hooks_are_resumed(tiny, mine, caplog):
    """Those of a run that had none, and those that were written before there were any."""
    cfg = tiny(SOLVER__MAX_EPOCH=1)
    train(cfg)
    path = RunDir(cfg.OUTPUT_DIR).checkpoints / "checkpoint_epoch_00001.pyth"
    old = load_checkpoint(path)
    assert old.pop("hooks") == {}
    save_checkpoint(path, old)
    saved = train(tiny(SOLVER__MAX_EPOCH=2, **mine))
    assert saved["hooks"]["SecondLogger"]["counts"]["epochs"] == 1, "it began with the second epoch"
    with caplog.at_level("WARNING", logger="dust"):
        assert train(tiny(SOLVER__MAX_EPOCH=3))["hooks"] == {}
    assert "hooks that TRAIN.HOOKS no longer names: PullToMean, SecondLogger" in caplog.text


def test_the_command_line_finds_them_by_imports(clips, tmp_path):
    """In a process of its own, where nothing is registered before."""
    path = tmp_path / "her_hooks.py"
    path.write_text(MINE)
    more = {"IMPORTS": [str(path)], "TRAIN__HOOKS": ["SecondLogger"], "TEST__ENABLE": False}
    process = start(words(clips, tmp_path / "run", **more))
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    assert (tmp_path / "run" / "second.jsonl").read_text().count('"epochs"') == 1


def test_names_that_cannot_be_meant(tiny, mine, tmp_path):
    with pytest.raises(ConfigError, match="no hook is called 'SecondLoger'. Did you mean SecondLogger"):
        build_hooks(tiny(TRAIN__HOOKS=["SecondLoger"]))
    with pytest.raises(ConfigError, match="TRAIN.HOOKS names PullToMean more than once"):
        build_hooks(tiny(TRAIN__HOOKS=["PullToMean", "PullToMean"]))
    with pytest.raises(ConfigError, match="IMPORTS gone.py: there is no file"):
        import_extensions(["gone.py"])
    with pytest.raises(ConfigError, match="IMPORTS no.such.module: there is no such module"):
        import_extensions(["no.such.module"])
    (tmp_path / "torch.py").write_text("")
    with pytest.raises(ConfigError, match="a module called torch is imported already; rename the file"):
        import_extensions([str(tmp_path / "torch.py")])


def test_a_hook_does_nothing_by_itself():
    hook = Hook()
    assert hook.after_step(None, None) is hook.after_evaluation(None, None) is hook.after_epoch(None, None) is None
    assert hook.state_dict() == {} == Hook.from_config(None)
