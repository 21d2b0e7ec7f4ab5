"""``dust train`` and ``dust --cfg``: see :mod:`dust.engine.run_net`."""

from dust.engine.run_net import main

__all__ = ["main"]
