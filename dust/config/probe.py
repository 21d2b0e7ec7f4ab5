"""The keys of model Probe and dataset StoredTokens: which backbone, which head on its tokens, and how it is trained."""

from yacs.config import CfgNode

from dust.config.schema import Key, Problem, System, section

KEYS = section(
    "PROBE", affects="training",  # which tokens there are stands in FEATURES
    BACKBONE=Key("", "registered model whose tokens are probed; its own keys and DATA's describe it"),
    BACKBONE_FROM=Key("", "stage, weight file or zoo://NAME of the backbone", stage="checkpoint"),
    BACKBONE_WEIGHTS=Key("auto", "of a file with raw and averaged (EMA) weights; as the stage that stored the "
                         "tokens used them", choices="auto (raw) | raw | averaged"),
    TOKENS_FROM=Key("", "StoredTokens: stage (folder beside OUTPUT_DIR) or folder that holds the tokens",
                    stage="features"),
    HEAD_FROM=Key("", "stage whose (best) head this training begins with", stage="checkpoint"),
    HEAD=Key("attentive", "what sees the tokens", choices="attentive | linear (their mean) | knn (nearest neighbours; "
             "one epoch, nothing is learnt)"),
    DEPTH=Key(4, "attentive: blocks, the last of which is the cross-attention; 4 in the published probes", low=1),
    NUM_HEADS=Key(16, "attentive: attention heads; divides the width of a token", low=1),
    EPS=Key(1e-5, "attentive: epsilon of its norms", above=0),
    LRS=Key([], "a head for each of these learning rates and each of WEIGHT_DECAYS, in one pass; [] = SOLVER.BASE_LR",
            kind=float),
    WEIGHT_DECAYS=Key([], "the same of weight decays; [] = SOLVER.WEIGHT_DECAY", kind=float),
    NEIGHBOURS=Key(20, "knn: clips that vote", low=1),
    TEMPERATURE=Key(0.07, "knn: a vote weighs exp(cosine / this)", above=0),
    UNFREEZE_BLOCKS=Key(0, "blocks of the backbone that learn, counted from the end; -1 = all of it", low=-1),
    LORA_RANK=Key(0, "rank of adapters in the backbone's frozen weights; 0 = none", low=0),
    LORA_ALPHA=Key(16.0, "an adapter's change is multiplied by this over the rank", above=0),
    LORA_TARGETS=Key(["q", "v"], "which weights they adapt", choices="q | k | v | proj | fc"),
)  # fmt: skip


def check(cfg: CfgNode) -> list[Problem]:
    """Check that model, dataset, task and rates go together."""
    if cfg.MODEL.MODEL_NAME != "Probe":
        if "StoredTokens" in (cfg.TRAIN.ENABLE and cfg.TRAIN.DATASET, cfg.TEST.ENABLE and cfg.TEST.DATASET):
            keys = ("MODEL.MODEL_NAME", "TRAIN.DATASET", "TEST.DATASET")
            text = f"MODEL.MODEL_NAME {cfg.MODEL.MODEL_NAME}: StoredTokens are for model Probe"
            return [Problem(keys, text)]
        return []
    node, problems = cfg.PROBE, []
    if not node.BACKBONE:
        text = "PROBE.BACKBONE is empty: name the registered model that gives the tokens, such as VJEPA2"
        problems.append(Problem(("PROBE.BACKBONE",), text))
    if cfg.TRAIN.ENABLE:
        problems += [*_start(cfg), *_grid(cfg), *_neighbours(cfg), *_stored(cfg)]
    return problems


def _start(cfg: CfgNode) -> list[Problem]:
    problems = []
    if not cfg.PROBE.BACKBONE_FROM:
        text = "PROBE.BACKBONE_FROM is empty: name the file, stage or zoo://NAME of the backbone's weights"
        problems.append(Problem(("PROBE.BACKBONE_FROM",), text))
    for key in ("MODEL.PRETRAINED", "TRAIN.CHECKPOINT_FILE_PATH"):
        section_name, leaf = key.split(".")
        if cfg[section_name][leaf]:
            text = f"{key} {cfg[section_name][leaf]}: a Probe begins with PROBE.BACKBONE_FROM and PROBE.HEAD_FROM"
            problems.append(Problem((key,), text))
    return problems


def _stored(cfg: CfgNode) -> list[Problem]:
    node, problems = cfg.PROBE, []
    stored = cfg.TRAIN.DATASET == "StoredTokens"
    if stored and not node.TOKENS_FROM:
        text = "PROBE.TOKENS_FROM is empty: name the stage that stored the tokens (FEATURES.LAYER tokens)"
        problems.append(Problem(("PROBE.TOKENS_FROM", "TRAIN.DATASET"), text))
    if stored and (node.UNFREEZE_BLOCKS or node.LORA_RANK):
        keys = ("TRAIN.DATASET", "PROBE.UNFREEZE_BLOCKS", "PROBE.LORA_RANK")
        text = "TRAIN.DATASET StoredTokens: stored tokens teach the backbone nothing; with PROBE.UNFREEZE_BLOCKS or "
        problems.append(Problem(keys, f"{text}PROBE.LORA_RANK train on clips (VideoDataset)"))
    if stored and (cfg.MIXUP.ENABLE or cfg.AUG.ENABLE):
        text = "TRAIN.DATASET StoredTokens: tokens are augmented when they are stored (FEATURES.AUGMENTED_VIEWS); set "
        problems.append(Problem(("TRAIN.DATASET", "MIXUP.ENABLE", "AUG.ENABLE"), f"{text}MIXUP and AUG.ENABLE False"))
    return problems


def _grid(cfg: CfgNode) -> list[Problem]:
    node, solver, problems = cfg.PROBE, cfg.SOLVER, []
    for key, least in (("LRS", "above"), ("WEIGHT_DECAYS", "at least")):
        values = node[key]
        if any(value < 0 or (value == 0 and key == "LRS") for value in values) or len(set(values)) < len(values):
            problems.append(Problem((f"PROBE.{key}",), f"PROBE.{key} {values}: each once, and {least} 0"))
    if max(1, len(node.LRS)) * max(1, len(node.WEIGHT_DECAYS)) == 1:
        return problems
    several = ("PROBE.LRS", "PROBE.WEIGHT_DECAYS")
    if cfg.TASK != "ProbeGrid":
        problems.append(Problem(("TASK", *several), f"TASK {cfg.TASK}: several heads are compared by ProbeGrid"))
    if not cfg.TRAIN.EVAL_PERIOD:
        text = "TRAIN.EVAL_PERIOD 0: of several heads the validation chooses one; set it to 1 or more"
        problems.append(Problem(("TRAIN.EVAL_PERIOD", *several), text))
    if not solver.BASE_LR:
        problems.append(Problem(("SOLVER.BASE_LR", *several), "SOLVER.BASE_LR 0: PROBE.LRS are taken relative to it"))
    for key in ("CLIP_GRAD_L2NORM",):
        if solver[key] is not None:
            text = f"SOLVER.{key} {solver[key]}: the norm is over all heads, so they would slow each other; write None"
            problems.append(Problem((f"SOLVER.{key}", *several), text))
    if max(cfg.NUM_GPUS, cfg.NUM_PROCS_PER_NODE, 1) * cfg.NUM_SHARDS > 1:
        text = "PROBE.LRS, PROBE.WEIGHT_DECAYS: a grid of heads is trained by one process; set NUM_GPUS 1, NUM_SHARDS 1"
        problems.append(Problem(("NUM_GPUS", "NUM_PROCS_PER_NODE", "NUM_SHARDS", *several), text))
    if cfg.EMA.ENABLED:
        problems.append(Problem(("EMA.ENABLED", *several), "EMA.ENABLED True: a grid of heads is not averaged"))
    return problems


def _neighbours(cfg: CfgNode) -> list[Problem]:
    if cfg.PROBE.HEAD != "knn":
        return []
    wanted = {
        "SOLVER.MAX_EPOCH": 1, "DATA_LOADER.DROP_LAST": False, "DATA.MULTI_LABEL": False, "EMA.ENABLED": False,
        "TRAIN.DATASET": "StoredTokens", "PROBE.LRS": [], "PROBE.WEIGHT_DECAYS": [],
        "NUM_GPUS": min(cfg.NUM_GPUS, 1), "NUM_PROCS_PER_NODE": min(cfg.NUM_PROCS_PER_NODE, 1), "NUM_SHARDS": 1,
    }  # fmt: skip
    problems = []
    for key, value in wanted.items():
        node = cfg
        for part in key.split("."):
            node = node[part]
        if node != value:
            text = f"{key} {node}: PROBE.HEAD knn keeps every clip once, by one process; set {key} {value}"
            problems.append(Problem((key, "PROBE.HEAD"), text))
    return problems


SYSTEM = System(KEYS, ("Probe",), check)
