"""A hook whose second process is left by its loader once, in the midst of an epoch: for TRAIN.HOOKS, by IMPORTS."""

from pathlib import Path

from dust.datasets.workers import WorkerError
from dust.engine.hooks import HOOK_REGISTRY, Hook
from dust.engine.learner import Learner
from dust.utils import distributed


@HOOK_REGISTRY.register()
class Lose(Hook):
    def __init__(self, folder):
        self.mark, learn = Path(folder) / "lost", Learner.learn

        def lose(learner, batch):
            state = learner.state
            if distributed.rank() == 1 and (state.epoch, state.iteration) == (1, 1) and not self.mark.exists():
                self.mark.touch()
                raise WorkerError("gone")
            return learn(learner, batch)

        Learner.learn = lose

    @classmethod
    def from_config(cls, cfg):
        return {"folder": cfg.OUTPUT_DIR}
