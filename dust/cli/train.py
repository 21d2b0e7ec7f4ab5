"""Train, test and extract features by configurations; `dust --cfg ...` is the same."""

from dust.engine.run_net import main

__all__ = ["main"]
