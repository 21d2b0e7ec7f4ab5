"""The command line: ``dust NAME ...``, a thin file for each sub-command, found by its name.

A file NAME.py is the sub-command NAME (with - for _). Its docstring is what ``dust NAME --help`` says, its first line
what ``dust --help`` says, and its ``main(argv) -> exit code`` runs it; :func:`dust.cli.command.command` makes one.
"""
