"""On the PYTHONPATH of a job: its first life is slow, without work for the processor; the lives after it are not.

SECONDS_PER_STEP: how long each step of training lasts in a job that has not been queued again yet. It is there for as
long as a test needs it, on any machine, and several such jobs go at the same time on two cores. A signal ends the wait.
SECONDS_BEFORE_STEPS: in every life, what comes before the first step.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time


def slow_down(module):
    log, init = module.TrainMeter.log_iter, module.TrainMeter.__init__

    def slow_log(*args, **kwargs):
        from dust.launch.signals import most_urgent

        end = time.monotonic() + float(os.environ.get("SECONDS_PER_STEP", "0"))
        while os.environ.get("SLURM_RESTART_COUNT", "0") == "0" and time.monotonic() < end and not most_urgent():
            time.sleep(0.02)
        return log(*args, **kwargs)

    def slow_init(*args, **kwargs):
        time.sleep(float(os.environ.get("SECONDS_BEFORE_STEPS", "0")))
        init(*args, **kwargs)

    module.TrainMeter.log_iter, module.TrainMeter.__init__ = slow_log, slow_init


class SlowMeter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "dust.utils.meters":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            slow_down(module)

        spec.loader.exec_module = exec_module
        return spec


if "dust.utils.meters" in sys.modules:  # in a process that tests/zygote.py has forked
    slow_down(sys.modules["dust.utils.meters"])
else:
    sys.meta_path.insert(0, SlowMeter())
