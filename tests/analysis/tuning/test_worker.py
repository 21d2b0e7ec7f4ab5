"""What a worker makes of trials that end well, badly, early or not at all. The trials are pretended; tests/faults has
real ones."""

import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import dust
from dust.analysis.tuning.claims import Claim
from dust.analysis.tuning.outcome import rows_of
from dust.analysis.tuning.study import STUDY, Study, build_plan
from dust.analysis.tuning.worker import Recipe, Worker, build_recipe, share_devices, start_process, validation_of
from dust.config import load_config
from dust.utils.errors import ConfigError, DustError
from dust.utils.logging import read_json_stats

SPACE = "[{SOLVER.BASE_LR: [0.1, 0.2, 0.3]}]"


@dataclass
class Pretended:
    """A process that ends with ``code`` when it is asked the ``asked``-th time."""

    code: int
    asked: int = 1
    signals: list = field(default_factory=list)

    def poll(self):
        self.asked -= 1
        return self.code if self.asked < 0 or self.signals else None

    def send_signal(self, signum):
        self.signals.append(signum)
        self.code = 128 + signum


class Machine:
    """Starts trials that do what ``deeds`` says: ``{number: [what each of its lives does, the last one for good]}``."""

    def __init__(self, **deeds):
        self.deeds = {int(name[1:]): value for name, value in deeds.items()}
        self.started, self.processes, self.environments = [], [], []

    def start(self, words, folder, environment, claim):
        number = int(folder.name[-3:])
        lives = sum(number == one for one in self.started)
        self.started.append(number)
        self.environments.append(environment)
        deeds = self.deeds.get(number, [ends_well])
        process = deeds[min(lives, len(deeds) - 1)](folder, number)
        self.processes.append(process)
        return process


def ends_well(folder, number):
    (folder / "results").mkdir(exist_ok=True)
    report = {"metrics": {"top1_acc": 50.0 + number}, "intervals": {"top1_acc": [40.0, 60.0]}}
    (folder / "results" / "test.json").write_text(json.dumps(report))
    return Pretended(0)


def ends_with(code, said="", saved="", log=""):
    def deed(folder, number):
        (folder / "console.log").write_text(said)
        if saved:
            (folder / "checkpoints").mkdir(exist_ok=True)
            (folder / "checkpoints" / saved).touch()
        if log:
            (folder / "stdout.log").write_text(log)
        return Pretended(code)

    return deed


def validates(*values):
    """A trial with these figures in its log, which would go on for long."""

    def deed(folder, number):
        ends_well(folder, number)
        lines = [
            f'[x][INFO] json_stats: {{"_type": "val_epoch", "epoch": "{epoch}/9", "top1_err": {100 - value}}}\n'
            for epoch, value in enumerate(values, 1)
        ]
        (folder / "stdout.log").write_text("".join(lines))
        return Pretended(0, asked=3)

    return deed


@pytest.fixture
def make(tmp_path):
    """``make(machine, jobs=1, KEY=value of TUNE)`` -> (worker, its study, lines that it says)."""

    def worker(machine, jobs=1, devices=(), **keys):
        values = {"TUNE.SPACE": SPACE, "TUNE.SAMPLER": "grid"}
        values.update({f"TUNE.{key}": value for key, value in keys.items()})
        cfg = load_config(None, values)
        study = Study(tmp_path / "study", build_plan(cfg))
        said = []
        (study.root / STUDY).write_text(cfg.dump())
        recipe = Recipe(study.root / STUDY, "val", cfg.TUNE.ON_ERROR, devices)
        return Worker(study, recipe, jobs, said.append, start=machine.start, pause=0.0), study, said

    return worker


def states(study):
    return [row["state"] for row in rows_of(study)]


def test_trials_end_well(make):
    machine = Machine()
    worker, study, said = make(machine)
    worker.run()
    assert machine.started == [0, 1, 2] and states(study) == ["complete"] * 3
    assert "trial 2: top1_acc 52.00 [40.00, 60.00]" in said
    written = json.loads((study.root / "trial_002" / "trial.json").read_text())
    assert written["values"] == {"SOLVER.BASE_LR": 0.3} and written["value"] == 52.0


def test_two_at_a_time_have_gpus_of_their_own_and_know_of_no_job(make, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("RANK", "0")
    machine = Machine()
    worker, study, _ = make(machine, jobs=2, devices=("0,1", "2,3"))
    worker.run()
    assert {one["CUDA_VISIBLE_DEVICES"] for one in machine.environments[:2]} == {"0,1", "2,3"}
    assert not any({"SLURM_JOB_ID", "RANK"} & set(one) for one in machine.environments)
    assert states(study) == ["complete"] * 3


def test_gpus_are_shared_out_or_too_few(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert share_devices(2, 2) == ("4,5", "6,7")
    assert share_devices(0, 8) == () == share_devices(4, 1)
    with pytest.raises(ConfigError, match="need 6 GPUs, and this machine has 4; set TUNE.JOBS 2"):
        build_recipe(load_config(None, {"NUM_GPUS": 2, "TUNE.JOBS": 3}), Path("a.yaml"))


def test_an_error_stops_the_study_and_loses_nothing(make):
    machine = Machine(_1=[ends_with(2, "first line\nerror: the disk\nis full\n"), ends_well])
    worker, study, _ = make(machine)
    with pytest.raises(DustError, match="trial 1 in .*exit code 2: error: the disk is full"):
        worker.run()
    assert states(study) == ["complete", "open"]
    worker, study, _ = make(machine)
    worker.run()
    assert machine.started == [0, 1, 1, 2] and states(study) == ["complete"] * 3


def test_an_error_may_count_as_a_failure(make):
    machine = Machine(_1=[ends_with(1, "CUDA out of memory\n")])
    worker, study, said = make(machine, ON_ERROR="fail")
    worker.run()
    assert states(study) == ["complete", "failed", "complete"]
    assert "trial 1: failed: exit code 1: CUDA out of memory" in said


def test_a_trial_that_diverges_has_failed(make):
    machine = Machine(_0=[ends_with(2, "error: ...", log="the loss is not finite (nan)\n")])
    worker, study, _ = make(machine)
    worker.run()
    assert states(study) == ["failed", "complete", "complete"]
    assert rows_of(study)[0]["error"] == "its loss was not finite"


def test_a_trial_that_is_killed_goes_on_at_once(make):
    saved = [ends_with(-9, saved=f"checkpoint_epoch_{epoch:05d}.pyth") for epoch in range(1, 6)]
    machine = Machine(_0=[*saved, ends_well])
    worker, study, _ = make(machine)
    worker.run()
    assert machine.started == [0] * 6 + [1, 2] and states(study) == ["complete"] * 3


def test_a_trial_that_is_killed_before_it_saves_anything_is_not_started_for_ever(make):
    machine = Machine(_0=[ends_with(-9)])
    worker, study, _ = make(machine)
    with pytest.raises(DustError, match="SIGKILL ended it 2 times in a row"):
        worker.run()
    assert machine.started == [0, 0] and states(study) == ["open"]


def test_a_signal_goes_to_the_trials_which_are_open_then(make):
    machine = Machine(_0=[lambda folder, number: Pretended(0, asked=10**6)])
    worker, study, _ = make(machine)
    begun = worker._launch

    def launch(running):
        begun(running)
        worker.signal(signal.SIGUSR1)

    worker._launch = launch
    worker.run()
    assert machine.processes[0].signals == [signal.SIGUSR1] and worker.signum == signal.SIGUSR1
    assert states(study) == ["open"] and study.take().number == 0


def test_a_trial_without_hope_is_pruned(make):
    machine = Machine(_0=[validates(60, 70)], _1=[validates(50, 40, 99)], _2=[validates(60, 90)])
    worker, study, said = make(machine, PRUNER="median", PRUNER_STARTUP=1, PRUNER_WARMUP=1)
    worker.run()
    assert states(study) == ["complete", "pruned", "complete"]
    assert machine.processes[1].signals == [signal.SIGTERM]
    assert rows_of(study)[1]["epochs"] == 2 and "trial 1: pruned after epoch 2" in said


def test_a_line_that_a_full_disk_has_torn_is_no_validation(make):
    whole = validates(60, 70)

    def torn(folder, number):
        pretended = whole(folder, number)
        with open(folder / "stdout.log", "a") as log:
            log.write('[x][INFO] json_stats: {"_type": "val_epoch", "epo\n')
        return pretended

    worker, study, _ = make(Machine(_0=[torn], _1=[whole]), PRUNER="median", PRUNER_STARTUP=1, PRUNER_WARMUP=1)
    worker.run()
    assert states(study)[:2] == ["complete", "complete"] and rows_of(study)[0]["epochs"] == 2


def test_a_trial_that_was_to_be_pruned_when_its_worker_died_is_not_started_again(make):
    machine = Machine(_0=[validates(60, 70)], _1=[validates(50, 40)])
    worker, study, _ = make(machine, PRUNER="median", PRUNER_STARTUP=1, TRIALS=2)
    study.prune = lambda number: (_ for _ in ()).throw(KeyboardInterrupt)  # it dies right before it tells
    with pytest.raises(KeyboardInterrupt):
        worker.run()
    worker, study, _ = make(machine, PRUNER="median", PRUNER_STARTUP=1, TRIALS=2)
    assert states(study) == ["complete", "open"]
    worker.run()
    assert machine.started == [0, 1] and states(study) == ["complete", "pruned"]


def test_values_that_cannot_be_are_a_failure_without_a_run(make):
    machine = Machine()
    worker, study, _ = make(machine, SPACE="[{SOLVER.WARMUP_EPOCHS: [0, 400]}]")
    worker.run()
    assert machine.started == [0] and states(study) == ["complete", "failed"]
    assert "must be shorter than SOLVER.MAX_EPOCH" in rows_of(study)[1]["error"]


def test_a_metric_that_is_not_there_is_said(make):
    worker, study, _ = make(Machine(), METRIC="map")
    with pytest.raises(DustError, match="TUNE.METRIC map: .* choose top1_acc"):
        worker.run()
    assert states(study) == ["open"]


def test_a_validation_is_read_from_its_line():
    line = 'x json_stats: {"_type": "val_epoch", "epoch": "3/9", "top1_err": 12.5, "map": 40.0, "top5_err": null}'
    stats = read_json_stats(line)
    assert validation_of(stats, "top1_acc") == (3, 87.5)
    assert validation_of(stats, "map") == (3, 40.0)
    assert str(validation_of(stats, "top5_acc")[1]) == "nan"
    with pytest.raises(DustError, match="do not measure it"):
        validation_of(stats, "macro_f1")


def test_a_trial_is_a_process_that_holds_the_claim_and_writes_to_its_console(tmp_path):
    claim = Claim.take(tmp_path)
    process = start_process(["--version"], tmp_path, dict(os.environ), claim.file)
    claim.release()
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "console.log").read_text() == f"dust {dust.__version__}\n"
    assert Claim.take(tmp_path) is not None


def test_the_console_of_a_trial_is_no_link_to_somewhere_else(tmp_path):
    (tmp_path / "console.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DustError, match="console.log: cannot be written to .* is a link to .*elsewhere"):
        start_process(["--version"], tmp_path, dict(os.environ), 0)
    assert not (tmp_path / "elsewhere").exists()
