"""Configuration: every key with its default, YAML files, overrides, and one error for all that is wrong.

Importing this needs neither torch nor any other part of dust than its errors.
"""

from yacs.config import CfgNode

from dust.config.defaults import KEYS, flatten, get_cfg, with_values
from dust.config.infer import accumulation_steps, assert_and_infer_cfg
from dust.config.parser import dump, load_config, log_notes, notes, parse_args
from dust.config.sources import read_written
from dust.config.validate import processes_per_node

__all__ = [
    "KEYS",
    "CfgNode",
    "accumulation_steps",
    "assert_and_infer_cfg",
    "dump",
    "flatten",
    "get_cfg",
    "load_config",
    "log_notes",
    "notes",
    "parse_args",
    "processes_per_node",
    "read_written",
    "with_values",
]
