"""How a training run ends before its end: at the last whole optimizer step, in all processes, with that saved."""

import contextlib
import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from dust.datasets.workers import WorkerError
from dust.engine.hooks import Hook, StopOnSignal
from dust.engine.run_dir import BadClipLog
from dust.engine.state import TrainState
from dust.engine.step import Abandoned
from dust.utils import distributed
from dust.utils.errors import CheckpointError
from dust.utils.meters import TrainMeter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Boundary:
    """What batches of an unfinished step change, as it was before them. Weights and optimizer are not among it.

    Attributes:
        hooks: states of the user's hooks, by their names.
        buffers: of the model, those that a checkpoint holds: statistics of batch norms, say.
    """

    iteration: int
    bad_clips: int
    meter: Any
    hooks: Mapping[str, dict]
    buffers: Mapping[str, Tensor]


class Leaving:
    """Ends a training run early.

    Args:
        state: the run.
        bad_clips, meter, hooks: what else a step changes; ``hooks`` are the user's.
        stop_on_signal: asks all processes, with every step, for signals.
        save: writes the run as it stands, with these states of the user's hooks or, by None, their own.
        always: a step may be left unfinished although it takes one batch only, and this process is alone (the model
            compiles).
    """

    def __init__(
        self,
        state: TrainState,
        bad_clips: BadClipLog,
        meter: TrainMeter,
        hooks: Mapping[str, Hook],
        stop_on_signal: StopOnSignal,
        save: Callable[[Mapping[str, dict] | None], Path],
        *,
        always: bool,
    ) -> None:
        self.state, self.bad_clips, self.meter, self.hooks = state, bad_clips, meter, hooks
        # another process may leave a step once this one has learnt from its only batch
        self.stop_on_signal, self._save, self.always = stop_on_signal, save, always or distributed.world_size() > 1
        self.kept = frozenset(state.model.state_dict()) if self.always or state.accumulate > 1 else frozenset()
        self.boundary: Boundary | None = None
        self.begin()

    def begin(self) -> None:
        """Note that this start of the run begins here: what is there now is saved, or can be had again."""
        self.begun_at = self.position

    @property
    def position(self) -> tuple[int, int]:
        return self.state.epoch, self.state.iteration

    @property
    def nothing_new(self) -> bool:
        """Whether this start of the run has not got anywhere."""
        state = self.state
        return (state.epoch, state.iteration - state.iteration % state.accumulate) == self.begun_at

    def mark(self) -> None:
        """Remember the beginning of a step that may be left unfinished."""
        state = self.state
        if (state.accumulate == 1 and not self.always) or state.iteration % state.accumulate:
            return
        self.boundary = Boundary(
            state.iteration,
            self.bad_clips.count,
            self.meter.mark(),
            {name: copy.deepcopy(hook.state_dict()) for name, hook in self.hooks.items()},
            {name: buffer.clone() for name, buffer in state.model.named_buffers() if name in self.kept},
        )

    def leave(self, error: BaseException, abandon: Callable[[], None]) -> NoReturn:
        """End the run where the optimizer has last stepped.

        Args:
            error: why: a signal, a loader that cannot deliver, or Abandoned: another process leaves.
            abandon: takes part in what is left of a step, with ``abandon`` for its last batch.

        Raises:
            Interrupted, WorkerError: ``error``, the same in all processes; by WorkerError the run is saved.
        """
        state, several = self.state, distributed.world_size() > 1
        if several and self.nothing_new and not isinstance(error, Abandoned):
            raise error  # there is nothing to save, and the others may not have come as far as this
        if several and not isinstance(error, Abandoned):
            abandon()
            with contextlib.suppress(Abandoned):
                state.optimizer_step.step()
        hooks = self._go_back()
        if several:
            self.stop_on_signal.answer()
            said = distributed.all_gather_objects(str(error))
            error = WorkerError(next(text for text in said if text))
        if isinstance(error, WorkerError):
            where = self.save(hooks)
            raise WorkerError(
                f"{error}. {where[0].upper()}{where[1:]}: the same command continues from there"
            ) from error
        raise error

    def _go_back(self) -> Mapping[str, dict] | None:
        """Undo what an unfinished step has changed; returns the states of the hooks before it."""
        boundary, state = self.boundary, self.state
        if boundary is None:
            return None
        state.iteration = boundary.iteration
        state.bad_clips = self.bad_clips.count = boundary.bad_clips
        self.meter.go_back(boundary.meter)
        for name, buffer in state.model.named_buffers():
            if name in self.kept:
                buffer.copy_(boundary.buffers[name])
        return boundary.hooks

    def settle(self) -> None:
        """Let a checkpoint that is being written get whole. If it fails, that is no reason not to try the next."""
        try:
            self.state.saver.wait()
        except CheckpointError as error:
            logger.error("%s", error)

    def save(self, hooks: Mapping[str, dict] | None = None) -> str:
        """Save what this start of the run has learnt, if anything; returns where, in words."""
        self.settle()
        where = "nothing new was learnt"
        if self.position != self.begun_at:
            path = self._save(hooks)
            self.state.saver.wait()
            where = f"saved {path}"
        if distributed.is_main():
            logger.warning("stopped at epoch %d, iteration %d; %s", self.state.epoch + 1, self.state.iteration, where)
        return where
