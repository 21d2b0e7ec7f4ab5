"""A tiny data set of real mp4s, the configuration of a tiny run on it, and what starts runs in moments."""

import logging
from collections import Counter

import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """What a test has said travels from a worker as UTF-8: a name of a file that is none is shown as an escape."""
    outcome = yield
    report = outcome.get_result()
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    if isinstance(report.longrepr, str):
        report.longrepr = report.longrepr.encode("utf-8", "backslashreplace").decode()


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A csv folder: dark and bright clips, 10 train, 4 val, 4 test."""
    from tests.runs import write_noise

    root = tmp_path_factory.mktemp("clips")
    number = 0
    for split, count in (("train", 10), ("val", 4), ("test", 4)):
        lines = ["path,label"]
        for index in range(count):
            name = f"clip_{number}.mp4"
            write_noise(root / name, 60 if index % 2 else 190, seed=number)
            lines.append(f"{name},{'dark' if index % 2 else 'bright'}")
            number += 1
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def tiny(clips, tmp_path):
    """``tiny(KEY=VALUE...)`` -> a frozen cfg writing into this test's folder; dots of keys are double underscores."""
    from dust.config import load_config
    from tests.runs import TINY

    def make(output="run", **overrides):
        values = {**TINY, "DATA.PATH_TO_DATA_DIR": str(clips), "OUTPUT_DIR": str(tmp_path / output)}
        values.update({key.replace("__", "."): value for key, value in overrides.items()})
        return load_config(None, values)

    return make


@pytest.fixture(scope="session")
def zygote():
    """What starts runs in moments; see tests/processes.py."""
    from tests.processes import zygote

    return zygote()


@pytest.fixture(autouse=True)
def log_of_this_test():
    """A run, or a sub-command, in a test gives dust log handlers and levels: the next test begins without them."""
    logger = logging.getLogger("dust")
    logger.propagate = True
    yield
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("dust."):
            logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def run(tmp_path_factory, clips):
    """The OUTPUT_DIR of a finished tiny run, with results; nobody writes there."""
    from dust.config import load_config
    from dust.engine.run_net import run_stage
    from tests.runs import TINY

    out = tmp_path_factory.mktemp("runs") / "tiny"
    values = {**TINY, "DATA.PATH_TO_DATA_DIR": str(clips), "OUTPUT_DIR": str(out), "SOLVER.MAX_EPOCH": 1}
    run_stage(load_config(None, {**values, "TRAIN.EVAL_PERIOD": 0}))
    for handler in list(logging.getLogger("dust").handlers):  # of the run, which is over
        logging.getLogger("dust").removeHandler(handler)
    return out


@pytest.fixture(scope="session")
def model(run):
    """The predictor of that run."""
    import dust

    return dust.load(run, device="cpu")


#: Seconds of tests that run on demand: the limit of all others is for what takes seconds on a quiet machine.
ON_DEMAND_S = 2 * 3600


def pytest_collection_modifyitems(config, items):
    """Tests that take minutes on a quiet machine do not hang where they take half an hour on a busy one. Where several
    processes share the files, those with the most slow tests begin, so that at the end no process waits for another."""
    if hasattr(config, "workerinput"):  # of pytest-xdist
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        tests = Counter(item.path for item in items)
        items.sort(key=lambda item: (-slow[item.path], -tests[item.path]))
    for item in items:
        on_demand = {"quickstart", "faults100", "mutations"} & {mark.name for mark in item.iter_markers()}
        if on_demand and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(ON_DEMAND_S))
