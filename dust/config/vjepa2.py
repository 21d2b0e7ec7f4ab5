"""The keys of V-JEPA 2: the constructor's arguments."""

from yacs.config import CfgNode

from dust.config.schema import Key, Problem, System, section

KEYS = section(
    "VJEPA2",  # frames and classes come from DATA and MODEL; the defaults are ViT-L
    VERSION=Key("2.0", "V-JEPA 2 or 2.1, as the weights are", choices="2.0 | 2.1"),
    ENCODER_FROM=Key("", "stage, weight file or zoo://NAME of the encoder", stage="checkpoint"),
    PROBE_FROM=Key("", "stage, weight file or zoo://NAME of pooler and head", stage="checkpoint"),
    PROBE_NUMBER=Key(0, "which of the classifiers that a published probe file lists, from 0", low=0),
    TRAIN_BLOCKS=Key(-1, "blocks of the encoder that learn, from the end: 0 freezes it, -1 trains all", low=-1),
    PATCH_SIZE=Key(16, "side of a token, pixels; divides the crop sizes", low=1),
    TUBELET_SIZE=Key(2, "length of a token, frames; divides the frames of a clip", low=1),
    EMBED_DIM=Key(1024, "width; of B, L, H, g, G: 768, 1024, 1280, 1408, 1664", low=1),
    DEPTH=Key(24, "blocks; 12, 24, 32, 40, 48", low=1),
    NUM_HEADS=Key(16, "attention heads; 12, 16, 16, 22, 26", low=1),
    MLP_RATIO=Key(4.0, "hidden width of the MLPs over EMBED_DIM; g 48/11 = 4.363636363636363, G 64/13 = "
                  "4.923076923076923", above=0),
    OUT_LAYERS=Key([], "blocks (from 0) whose tokens the pooler sees side by side; [] = those of the last", kind=int),
    PROBE_DEPTH=Key(4, "blocks of the pooler, the last of which is the cross-attention", low=1),
    PROBE_HEADS=Key(16, "its attention heads; 16 in all of the authors' probes, Hugging Face's have the encoder's",
                    low=1),
    PROBE_EPS=Key(1e-5, "epsilon of its norms; 1e-5 in the authors' files, 1e-6 in Hugging Face's", above=0),
    DROP_PATH_RATE=Key(0.0, "stochastic depth of the encoder's last block, rising from 0", low=0, below=1),
    INIT_STD=Key(0.02, "spread of the first weights; the published one. A small model from scratch: 0.2", above=0),
)  # fmt: skip


def check(cfg: CfgNode) -> list[Problem]:
    """Check that crops and frames divide into tokens, and widths into heads."""
    if cfg.MODEL.MODEL_NAME != "VJEPA2":
        return []
    node, problems = cfg.VJEPA2, []

    def divides(key: str, value: int, of: str, divisor: int) -> None:
        if value % divisor:
            problems.append(Problem((key, of), f"{key} {value}: must be a multiple of {of} {divisor}"))

    for part, key in (("TRAIN", "TRAIN_CROP_SIZE"), ("TEST", "TEST_CROP_SIZE")):
        if part == "TRAIN" or cfg[part].ENABLE:
            divides(f"DATA.{key}", cfg.DATA[key], "VJEPA2.PATCH_SIZE", node.PATCH_SIZE)
    if cfg.DATA.NUM_FRAMES > 1:
        divides("DATA.NUM_FRAMES", cfg.DATA.NUM_FRAMES, "VJEPA2.TUBELET_SIZE", node.TUBELET_SIZE)
    divides("VJEPA2.EMBED_DIM", node.EMBED_DIM, "VJEPA2.NUM_HEADS", node.NUM_HEADS)
    divides("VJEPA2.EMBED_DIM", node.EMBED_DIM, "VJEPA2.PROBE_HEADS", node.PROBE_HEADS)
    return problems


SYSTEM = System(KEYS, ("VJEPA2",), check)
