"""On the PYTHONPATH of a job: each step of its training lasts a while longer, without work for the processor.

So a run is long enough to be preempted and to meet its time limit, and several go at the same time on two cores.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time


class SlowMeter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "dust.utils.meters":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            log = module.TrainMeter.log_iter

            def slow(*args, **kwargs):
                time.sleep(float(os.environ["SECONDS_PER_STEP"]))
                return log(*args, **kwargs)

            module.TrainMeter.log_iter = slow

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, SlowMeter())
