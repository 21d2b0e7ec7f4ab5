"""A hook for runs of several processes: what comes out of the second one's model is infinite from some step on."""

import torch

from dust.engine.hooks import HOOK_REGISTRY, Hook
from dust.utils import distributed

STEP = 4


@HOOK_REGISTRY.register()
class Spoil(Hook):
    """Spoils the outputs of the process with rank 1."""

    def after_step(self, state, step):
        if state.updates == STEP and distributed.rank() == 1:
            state.model.register_forward_hook(lambda model, inputs, output: output / torch.zeros(()))
