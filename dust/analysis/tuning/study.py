"""A study: its trials in Optuna's journal, which values the next one gets, and what each came to.

All state lies in the study's folder, so any number of processes on any machines that share it may work on one study,
and any of them may be killed. A trial is written in one line of the journal with all its values, and is over by one
line; between these it belongs to whoever holds its claim.
"""

import itertools
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dust.analysis.tuning.claims import Claim, JournalLock
from dust.config import CfgNode, flatten
from dust.config.defaults import OWN_KEYS
from dust.config.space import Dimension, read_space
from dust.utils.errors import ConfigError, DustError
from dust.utils.package import import_extra
from dust.utils.rng import derive_seed

#: In the study's folder: Optuna's journal, and the configuration that all trials share.
JOURNAL, STUDY = "study.journal", "study.yaml"
NAME = "dust"
#: Keys, and sections, in which a study's starts may differ: they do not change what a trial comes to.
FREE = (
    "OUTPUT_DIR", "TUNE.TRIALS", "TUNE.JOBS", "TUNE.ON_ERROR", "DATA_LOADER.NUM_WORKERS", "DATA_LOADER.PIN_MEMORY",
    "DATA_LOADER.PREFETCH_FACTOR", "DATA_LOADER.TIMEOUT", "DATA.INDEX_CACHE", "DATA.SHARD_CACHE", "DATA.SHARD_CACHE_GB",
    "DATA.CHECK_FILES", "LOG_PERIOD", "LOG_MODEL_INFO", "SHARD_ID", "TRAIN.CHECKPOINT_PERIOD",
    "TRAIN.CHECKPOINT_PERIOD_ITERS", "TRAIN.CHECKPOINT_KEEP_LAST", "TRAIN.CHECKPOINT_FORMAT",
    "TRAIN.CHECKPOINT_ASYNC", "TENSORBOARD.", "WANDB.", "MLFLOW.", "TEST.REPORT",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a study is: the same at every start, but for ``total``.

    Attributes:
        dimensions: the keys that vary.
        sampler, pruner: as TUNE.SAMPLER and TUNE.PRUNER.
        startup, warmup: complete trials, and epochs of a trial, before the pruner judges.
        total: trials that are wanted.
        facts: ``{key: value}`` of the configuration that all trials share.
    """

    dimensions: tuple[Dimension, ...]
    sampler: str
    pruner: str
    startup: int
    warmup: int
    metric: str
    direction: str
    total: int
    seed: int
    facts: Mapping[str, Any]


def build_plan(cfg: CfgNode) -> Plan:
    """Return the study that cfg.TUNE describes.

    Raises:
        ConfigError: there is nothing to vary, or no grid.
    """
    tune = cfg.TUNE
    dimensions = tuple(read_space(tune.SPACE)[0])
    if not dimensions:
        raise ConfigError(
            "TUNE.SPACE is empty: name the keys that vary, e.g. TUNE.SPACE "
            '"[{SOLVER.BASE_LR: {low: 0.0001, high: 0.1, log: True}}]"'
        )
    total = tune.TRIALS
    if tune.SAMPLER == "grid":
        total = min(total, math.prod(len(dimension.grid()) for dimension in dimensions))
    facts = {key: value for key, value in flatten(cfg).items() if key in OWN_KEYS and not key.startswith(FREE)}
    return Plan(
        dimensions, tune.SAMPLER, tune.PRUNER, tune.PRUNER_STARTUP, tune.PRUNER_WARMUP, tune.METRIC, tune.DIRECTION,
        total, cfg.RNG_SEED, json.loads(json.dumps(facts)),
    )  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A trial that this process may run.

    Attributes:
        values: ``{key: value}`` of what varies.
    """

    number: int
    folder: Path
    values: Mapping[str, Any]
    claim: Claim


def trial_folder(root: Path, number: int) -> Path:
    return root / f"trial_{number:03d}"


#: What Optuna raises, besides errors of its own, where it takes a line that is not one of its own for one.
_ODD_JOURNAL = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError, ArithmeticError)


class Study:
    """The study in a folder, begun or taken up.

    Raises:
        DustError: Optuna is not installed, the folder cannot be used, or it holds another study.
    """

    def __init__(self, root: Path, plan: Plan) -> None:
        self.optuna = import_optuna()
        self.root, self.plan = root, plan
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DustError(f"OUTPUT_DIR {root}: cannot be made ({error.strerror})") from error
        self.lock = JournalLock(root, root / JOURNAL)
        self.distributions = {one.key: _distribution(self.optuna, one) for one in plan.dimensions}
        with self.lock:
            try:
                self._open_journal()
                self._check_plan()
                self._check_trials()
            except (*_ODD_JOURNAL, self.optuna.exceptions.OptunaError) as error:
                what = f"{type(error).__name__}: {error}"[:200]
                raise DustError(
                    f"{root / JOURNAL}: is damaged, or another program's ({what}): move it away, or choose another "
                    "OUTPUT_DIR"
                ) from error
        self.pruner = None
        if plan.pruner == "median":  # which counts from 0, and epochs do from 1
            self.pruner = self.optuna.pruners.MedianPruner(plan.startup, plan.warmup + 1)

    def _open_journal(self) -> None:
        journal = self.optuna.storages.journal
        backend = journal.JournalFileBackend(str(self.root / JOURNAL), lock_obj=self.lock)
        self.storage = self.optuna.storages.JournalStorage(backend)
        self.study = self.optuna.create_study(
            study_name=NAME, storage=self.storage, direction=self.plan.direction, load_if_exists=True
        )

    def _check_trials(self) -> None:
        """Raise ValueError or TypeError for a trial that says other things than are written here."""
        complete = self.optuna.trial.TrialState.COMPLETE
        for trial in self.trials():
            low, high = trial.user_attrs.get("interval") or (0.0, 0.0)
            numbers = [low, high, *([trial.value] if trial.state == complete else [])]
            if not all(isinstance(number, int | float) for number in numbers):
                raise ValueError(f"trial {trial.number} has figures that are no numbers")
            if trial.params.keys() != self.distributions.keys() or trial.datetime_start is None:
                raise ValueError(f"trial {trial.number} has other keys, or no beginning")

    def _check_plan(self) -> None:
        saved = self.study.user_attrs.get("facts")
        if saved is None:
            self.study.set_user_attr("facts", dict(self.plan.facts))
            return
        shared = sorted(saved.keys() & self.plan.facts.keys())  # another version of dust may know other keys
        lines = [
            f"{key}: {saved[key]} -> {self.plan.facts[key]}" for key in shared if saved[key] != self.plan.facts[key]
        ]
        if lines:
            listed = "\n  ".join(lines)
            raise ConfigError(
                f"OUTPUT_DIR {self.root} holds a study of another configuration. Choose another OUTPUT_DIR, or set back"
                f"\n  {listed}"
            )

    def trials(self) -> list[Any]:
        """Return all trials so far (optuna.trial.FrozenTrial), by number."""
        return self.study.get_trials(deepcopy=False)

    def open_trials(self) -> list[int]:
        """Return the numbers of trials that have begun and are not over."""
        running = self.optuna.trial.TrialState.RUNNING
        return [trial.number for trial in self.trials() if trial.state == running]

    def left(self) -> int:
        """Return how many trials are still to begin."""
        return max(0, self.plan.total - len(self.trials()))

    def unfinished(self) -> bool:
        """Tell whether any trial is still to begin or to end."""
        return bool(self.left() or self.open_trials())

    def take(self) -> Trial | None:
        """Claim a trial: the first one that has begun and that nobody runs, else a new one; None if there is none."""
        with self.lock:
            for number in self.open_trials():
                claim = Claim.take(trial_folder(self.root, number))
                if claim is not None:
                    return self._claimed(number, claim)
            if not self.left():
                return None
            number = len(self.trials())
            claim = Claim.take(trial_folder(self.root, number))
            if claim is None:  # left by a process that has begun this trial in a journal that is gone
                raise DustError(
                    f"{trial_folder(self.root, number)} is in use, and {self.root / JOURNAL} does not know the trial. "
                    "Stop that run, or choose another OUTPUT_DIR."
                )
            values = self._draw(number)
            running = self.optuna.trial.TrialState.RUNNING
            self.study.add_trial(
                self.optuna.trial.create_trial(state=running, params=values, distributions=self.distributions)
            )
            return self._claimed(number, claim)

    def _claimed(self, number: int, claim: Claim) -> Trial:
        return Trial(number, trial_folder(self.root, number), dict(self.trials()[number].params), claim)

    def _draw(self, number: int) -> dict[str, Any]:
        """Return the values of a new trial: of its number and RNG_SEED alone, for tpe also of the trials before it."""
        plan, samplers = self.plan, self.optuna.samplers
        if plan.sampler == "grid":
            points = itertools.product(*(dimension.grid() for dimension in plan.dimensions))
            point = next(itertools.islice(points, number, None))
            return dict(zip(self.distributions, point, strict=True))
        seed = derive_seed(plan.seed, "tune", number) % 2**32
        # asked of a copy in memory, so that the journal gets the trial whole or not at all
        if plan.sampler == "random":
            memory = self.optuna.create_study(sampler=samplers.RandomSampler(seed=seed))
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
                sampler = samplers.TPESampler(seed=seed, constant_liar=True)  # trials that run are not drawn again
            memory = self.optuna.create_study(sampler=sampler, direction=plan.direction)
            memory.add_trials(self.trials())
        return memory.ask(self.distributions).params

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Note the validation after an epoch; True if the pruner would end the trial there.

        What is noted already stays, as when a trial is taken up again; of the newest the pruner is asked once more.
        """
        if self.pruner is None:
            return False
        with self.lock:
            trial = self._open(number)
            last = -1 if trial is None or trial.last_step is None else trial.last_step
            if trial is None or epoch < last:
                return False
            if epoch > last:
                self.storage.set_trial_intermediate_value(self._id(number), epoch, value)
            return bool(self.pruner.prune(self.study, self.storage.get_trial(self._id(number))))

    def prune(self, number: int) -> None:
        """Note that the trial was ended as its last validation gave little hope."""
        with self.lock:
            if self._open(number) is not None:
                self.study.tell(number, state=self.optuna.trial.TrialState.PRUNED)

    def complete(self, number: int, value: float, interval: Sequence[float] | None) -> None:
        """Note that the trial has ended well; counted once, however often it is told."""
        if not math.isfinite(value):
            self.fail(number, f"{self.plan.metric} is {value}")
            return
        with self.lock:
            if self._open(number) is not None:
                if interval is not None:
                    self.storage.set_trial_user_attr(self._id(number), "interval", [float(end) for end in interval])
                self.study.tell(number, value)

    def fail(self, number: int, reason: str) -> None:
        """Note that the trial came to nothing, and will not be tried again."""
        with self.lock:
            if self._open(number) is not None:
                self.storage.set_trial_user_attr(self._id(number), "error", reason)
                self.study.tell(number, state=self.optuna.trial.TrialState.FAIL)

    def _open(self, number: int) -> Any:
        trial = self.trials()[number]
        return None if trial.state.is_finished() else trial

    def _id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(NAME)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)


def import_optuna() -> Any:
    """Import Optuna, quiet. ConfigError if it is not installed."""
    optuna = import_extra("optuna", "tune", "dust tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _distribution(optuna: Any, dimension: Dimension) -> Any:
    kinds = optuna.distributions
    if dimension.choices:
        return kinds.CategoricalDistribution(dimension.choices)
    high = dimension.grid()[-1] if dimension.step else dimension.high  # steps may not meet the end
    if dimension.whole:
        return kinds.IntDistribution(dimension.low, high, log=dimension.log, step=dimension.step or 1)
    return kinds.FloatDistribution(dimension.low, high, log=dimension.log, step=dimension.step)
