"""One configuration that stands for several runs: TSTL's experts."""

from pathlib import Path

from yacs.config import CfgNode

from dust.config.defaults import KEYS, flatten, with_values
from dust.utils.errors import ConfigError
from dust.utils.tstl_grouping import Grouping, find_grouping, read_grouping


def grouping_of(cfg: CfgNode) -> Grouping:
    """Return the groups of classes that TSTL.GROUPING names. DataError if they cannot be used."""
    folder = cfg.DATA.PATH_TO_DATA_DIR
    return read_grouping(find_grouping(cfg.TSTL.GROUPING, folder if isinstance(folder, str) else ""))


def expand(cfg: CfgNode) -> list[CfgNode]:
    """Return the runs of a configuration: itself, or one for each expert that TSTL.GROUPS names.

    Expert i trains in OUTPUT_DIR/experts/group_{i} with TSTL.GROUP i; MODEL.NUM_CLASSES becomes the number of its
    group's classes (or of all, with TSTL.EXPERT_CLASSES all).

    Raises:
        ConfigError: groups that the grouping does not have. DataError: a grouping that cannot be used.
    """
    groups = cfg.TSTL.GROUPS
    if not groups:
        return [cfg]
    grouping = grouping_of(cfg)
    numbers = list(range(grouping.num_groups)) if groups in ("all", ["all"]) else list(groups)
    wrong = [number for number in numbers if not isinstance(number, int) or not 0 <= number < grouping.num_groups]
    if wrong or len(set(numbers)) < len(numbers):
        raise ConfigError(
            f"TSTL.GROUPS {groups}: write all, or numbers from 0 to {grouping.num_groups - 1}, each once; "
            f"{cfg.TSTL.GROUPING} has {grouping.num_groups} groups"
        )
    return [_expert(cfg, number, grouping.groups[number], grouping.num_classes) for number in numbers]


def _expert(cfg: CfgNode, number: int, classes: tuple[int, ...], num_classes: int) -> CfgNode:
    folder = Path(cfg.OUTPUT_DIR)
    stages = {
        name: _from_below(value, folder)
        for name, value in flatten(cfg).items()
        if name in KEYS and KEYS[name].stage in ("weights", "checkpoint") and isinstance(value, str)
    }
    return with_values(
        cfg,
        {
            **stages,
            "TSTL.GROUPS": [],
            "TSTL.GROUP": number,
            "MODEL.NUM_CLASSES": len(classes) if cfg.TSTL.EXPERT_CLASSES == "group" else num_classes,
            "OUTPUT_DIR": str(folder / "experts" / f"group_{number}"),
        },
    )


def words_of(cfg: CfgNode, run: CfgNode) -> list[str]:
    """Return the overrides, ``[KEY, VALUE, ...]``, by which ``cfg`` stands for this one of its runs alone."""
    return [] if run is cfg else ["TSTL.GROUPS", f"[{run.TSTL.GROUP}]"]


def _from_below(name: str, output_dir: Path) -> str:
    """Return the name of a stage beside ``output_dir`` as a path, which it is from everywhere; files and URLs as they
    are."""
    beside = output_dir.parent / name
    if not name or "://" in name or (Path(name).exists() and not beside.exists()):
        return name
    return str(beside)
