"""How many processes a stage gets, and the configuration that these see."""

import pytest

from dust.config import flatten, load_config
from dust.launch.launcher import LaunchSettings, build_launched, build_settings
from dust.launch.rendezvous import DistEnv
from dust.utils.errors import ConfigError

NODE = ("NUM_GPUS", "NUM_PROCS_PER_NODE", "NUM_SHARDS", "SHARD_ID")


def node(cfg):
    return tuple(flatten(cfg)[key] for key in NODE)


def config(**values):
    return load_config(None, {"NUM_GPUS": 0, **{key.replace("__", "."): value for key, value in values.items()}})


def test_what_the_keys_say():
    assert build_settings(config()) == LaunchSettings(1, batch_size=64)
    three = config(NUM_PROCS_PER_NODE=3, NUM_SHARDS=2, SHARD_ID=1, TRAIN__BATCH_SIZE=6)
    assert build_settings(three) == LaunchSettings(3, 0, 2, 1, batch_size=6)
    assert build_settings(config(NUM_GPUS=4)).processes == 4
    features = config(TRAIN__ENABLE=False, TEST__ENABLE=False, FEATURES__ENABLE=True)
    assert build_settings(features) == LaunchSettings(1)


def test_what_the_keys_say_of_exchanges():
    settings = build_settings(config(DIST_BACKEND="gloo", DIST_TIMEOUT=60))
    assert (settings.backend, settings.timeout_s) == ("gloo", 60.0)


def test_a_configuration_that_fits_is_handed_on_as_it_is():
    cfg = config(NUM_PROCS_PER_NODE=2)
    assert build_launched(cfg, build_settings(cfg)) is cfg
    env = DistEnv(1, 2, 1, 2, "env://")
    assert build_launched(cfg, build_settings(cfg).as_started(env)) is cfg


@pytest.mark.parametrize(
    ("given", "env", "expected"),
    [
        ({}, DistEnv(5, 8, 1, 4, "env://"), (0, 4, 2, 1)),
        ({"NUM_PROCS_PER_NODE": 4}, DistEnv(1, 2, 1, 2, "env://"), (0, 2, 1, 0)),
        ({"NUM_GPUS": 1}, DistEnv(5, 8, 1, 4, "env://"), (4, 0, 2, 1)),
        ({"NUM_SHARDS": 2}, DistEnv(0, 1, 0, 1, "env://"), (0, 1, 1, 0)),
    ],
)
def test_what_a_launcher_started_counts(given, env, expected):
    cfg = config(**given)
    launched = build_launched(cfg, build_settings(cfg).as_started(env))
    assert node(launched) == expected and launched.is_frozen()
    assert node(cfg) != expected, "what was given stays as it is"


def test_more_processes_than_clips_are_refused():
    settings = build_settings(config(TRAIN__BATCH_SIZE=3))
    with pytest.raises(ConfigError, match="TRAIN.BATCH_SIZE 3: must be at least the 4 processes"):
        settings.as_started(DistEnv(0, 4, 0, 4, "env://"))


def test_features_are_extracted_by_all():
    cfg = config(TRAIN__ENABLE=False, TEST__ENABLE=False, FEATURES__ENABLE=True, NUM_PROCS_PER_NODE=3, NUM_SHARDS=2)
    assert build_settings(cfg) == LaunchSettings(3, 0, 2)


def test_a_node_of_several():
    cfg = config(NUM_PROCS_PER_NODE=2)
    assert node(build_launched(cfg, build_settings(cfg).as_shard(1, 3))) == (0, 2, 3, 1)
