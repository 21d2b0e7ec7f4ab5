"""The command line: ``dust NAME ...``, a thin file for each sub-command with a ``main(argv) -> exit code``."""
