"""Runs that several processes share are those of tests/engine."""

from tests.engine.conftest import *  # noqa: F403 - fixtures
