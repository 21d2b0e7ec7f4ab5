"""The log: one line for each thing that is said, whatever a file is called."""

import logging

import pytest

from dust.utils.errors import DataError, Problems, VideoError
from dust.utils.logging import console_logging, setup_logging

NAME = "clip\n[01/01 00:00:00][INFO] all is well\x1b[2J\udcff.mp4"
SHOWN = "clip\\n[01/01 00:00:00][INFO] all is well\\x1b[2J\\udcff.mp4"


@pytest.fixture
def logger(tmp_path):
    setup_logging(tmp_path)
    yield logging.getLogger("dust.test")
    for handler in list(logging.getLogger("dust").handlers):
        logging.getLogger("dust").removeHandler(handler)
        handler.close()
    logging.getLogger("dust").propagate = True


def test_a_name_forges_no_line_and_steers_no_terminal(logger, tmp_path, capsys):
    logger.warning("bad clip: %s", NAME)
    logger.info("a report:\n  of two lines")
    try:
        raise ValueError(NAME)
    except ValueError:
        logger.exception("and a trace")
    for text in (capsys.readouterr().out, (tmp_path / "stdout.log").read_text()):
        assert f"bad clip: {SHOWN}\n" in text and "a report:\n  of two lines\n" in text
        assert "\x1b" not in text and "\udcff" not in text


def test_errors_show_names_as_escapes():
    problems = Problems()
    problems.add("a clip that is missing", f"line 3: {NAME}")
    with pytest.raises(DataError) as caught:
        problems.raise_if_any("train.csv")
    for error in (caught.value, DataError(f"{NAME}: is bad"), VideoError(NAME, "is bad")):
        assert SHOWN in str(error) and "\x1b" not in str(error)
    assert VideoError(NAME, "is bad").path == NAME, "the file's own name stays at hand"


def test_a_line_of_an_error_is_no_longer_than_somebody_reads():
    assert len(str(DataError("x" * 100_000))) < 4000


def test_commands_without_a_log_do_the_same(capsys, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    console_logging()
    logging.getLogger("elsewhere").info("bad clip: %s", NAME)
    assert capsys.readouterr().err == f"bad clip: {SHOWN}\n"
