"""The command line: run each configuration's stages, one file after the other."""

import errno
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dust.config import load_config, parse_args
from dust.config.parser import log_notes
from dust.utils.errors import DustError

logger = logging.getLogger(__name__)

#: A full or read-only disk, a missing right: the user's to mend, wherever it is met.
FILE_PROBLEMS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def run(cfg) -> None:
    """Run what one configuration enables: TRAIN, then TEST, in its OUTPUT_DIR."""
    # torch and all that stands on it are imported only now, so that --help and a wrong key answer at once
    from dust.engine.run_dir import RunDir
    from dust.engine.test import test
    from dust.engine.train import train
    from dust.utils.logging import record_error, setup_logging

    run_dir = RunDir(cfg.OUTPUT_DIR)
    with run_dir.lock():
        setup_logging(run_dir.path)
        try:
            run_dir.write_config(cfg.dump())
            log_notes(cfg)
            logger.info("configuration: %s", run_dir.path / "config.yaml")
            if cfg.TRAIN.ENABLE:
                train(cfg, run_dir)
            if cfg.TEST.ENABLE:
                test(cfg, run_dir)
        except DustError as error:
            record_error(str(error))
            raise


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 2 for bad input, 130 or 143 after a signal."""
    # read when torch is imported: threads that wait by spinning make a small model 50 times slower as soon as
    # another process wants a core
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        args = parse_args(sys.argv[1:] if argv is None else argv)
        configs = [load_config(path, args.opts) for path in args.cfg_files or [None]]
    except DustError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from dust.engine.interrupt import Interrupted

    try:
        for path, cfg in zip(args.cfg_files or [""], configs, strict=True):
            if len(configs) > 1:
                print(f"== {Path(path).name}")
            run(cfg)
    except DustError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in FILE_PROBLEMS:
            raise
        print(f"error: {error.filename or cfg.OUTPUT_DIR}: {error.strerror}. What was saved stays.", file=sys.stderr)
        return 2
    except Interrupted as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
