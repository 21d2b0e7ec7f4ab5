"""Keys of point tracks: how tracker output becomes windows of points, and the two models that read them."""

from yacs.config import CfgNode

from dust.config.problem import BELOW_ONE, COUNT, FROM_ZERO, Problem, Range

MODELS = ("PointTrackTransformer", "PointTrackLSTM")
CHOICES: dict[str, tuple[str, ...]] = {
    "TRACKS.POINTS": ("motion", "rightmost", "random", "grid"),
    "TRACKS.POINT_COUNTS": ("same", "any"),
    "TRACKS.ALIGN": ("error", "resample"),
    "TRACKS.COORDINATES": ("normalised", "pixels"),
    "TRACKS.REDUCER": ("set", "cnn", "flat"),
    "TRACKS.FUSION": ("concat", "mean", "tokens"),
    "TRACKS.POOL": ("mean", "last"),
}
RANGES: dict[str, Range] = {
    **dict.fromkeys(
        [
            "TRACKS.NUM_POINTS", "TRACKS.WINDOW", "TRACKS.STRIDE", "TRACKS.VIEW_DIM", "TRACKS.EMBED_DIM",
            "TRACKS.DEPTH", "TRACKS.NUM_HEADS", "TRACKS.HIDDEN_DIM",
        ],
        COUNT,
    ),
    **dict.fromkeys(
        [
            "TRACKS.FPS", "TRACKS.CACHE_MB", "TRACKS.POINT_NOISE", "TRACKS.ROTATION", "TRACKS.MLP_DIM",
            "TRACKS.DETACH_EVERY",
        ],
        FROM_ZERO,
    ),
    **dict.fromkeys(
        [
            "TRACKS.VISIBILITY_THRESHOLD", "TRACKS.VIEW_DROPOUT", "TRACKS.TIME_JITTER", "TRACKS.SCALE",
            "TRACKS.DROP_RATE",
        ],
        BELOW_ONE,
    ),
}  # fmt: skip


def add_tracks(root: CfgNode) -> None:
    """Add the node TRACKS."""
    node = root.TRACKS = CfgNode()  # data PointTracks, models PointTrackTransformer and PointTrackLSTM
    node.VIEWS = [0, 1, 2, 3]  # numbers of the cameras that are used; their order is the models'
    node.TEST_VIEWS = []  # of VIEWS, those that validation and test see, the others count as missing; [] = all
    node.NUM_POINTS = 500  # points per camera; fewer are padded, of more POINTS chooses
    node.POINTS = "motion"  # motion (longest way) | rightmost | random | grid (spread over the picture); for all frames
    node.POINT_COUNTS = "same"  # same | any: whether the cameras of a clip may have different numbers of points
    node.WINDOW = 50  # frames that the model sees at once
    node.STRIDE = 25  # frames between the windows of a clip in validation and test; training draws a window
    node.FPS = 0.0  # frames per second that files are brought to, by the nearest frame; 0 = as they are
    node.ALIGN = "error"  # error | resample: what happens when the cameras of a clip differ in length
    node.COORDINATES = "normalised"  # normalised (-1 to 1 over the frame) | pixels (what COMPAT was trained on)
    node.FRAME_SIZE = []  # height and width, pixels, for files that do not say them
    node.VISIBILITY_THRESHOLD = 0.9  # above this a point is visible, where a file has shares; CoTracker online: 0.6
    node.CHECK_FILES = True  # read every file before the run begins and report all that is wrong
    node.CACHE_MB = 512  # memory for clips that were read, per loading process, MiB; 0 = read them every time

    node.VIEW_DROPOUT = 0.0  # training: chance that a camera goes missing, 0..1; one always stays
    node.POINT_NOISE = 0.0  # training: standard deviation of each point's place, share of half the frame, >= 0
    node.TIME_JITTER = 0.0  # training: the speed varies by up to this share, 0..1
    node.ROTATION = 0.0  # training: each camera turns about its centre by up to so many degrees
    node.SCALE = 0.0  # training: each camera zooms by up to this share, 0..1

    node.REDUCER = "set"  # set (order of the points is lost) | cnn (published) | flat (PointTrackLSTM only)
    node.ECA = True  # channel attention over the cameras
    node.FUSION = "concat"  # concat (one token per frame) | mean (of the cameras there) | tokens (per camera and frame)
    node.POOL = "mean"  # mean (of the frames there) | last
    node.VIEW_DIM = 64  # features of a camera in a frame
    node.EMBED_DIM = 256  # width of a token, a multiple of NUM_HEADS
    node.DEPTH = 2  # blocks, or layers of the LSTM
    node.NUM_HEADS = 4
    node.MLP_DIM = 0  # hidden width of the blocks' MLPs; 0 = twice EMBED_DIM (2048 with COMPAT)
    node.HIDDEN_DIM = 256  # of PointTrackLSTM
    node.DETACH_EVERY = 0  # PointTrackLSTM: frames between two cuts of the gradient through time; 0 = none
    node.DROP_RATE = 0.1  # dropout, 0..1
    node.COMPAT = False  # exactly the published models; wants COORDINATES pixels


def check(cfg: CfgNode) -> list[Problem]:
    """Cameras, sizes and what the published models ask for."""
    uses_model = cfg.MODEL.MODEL_NAME in MODELS
    uses_data = any(cfg[part].ENABLE and cfg[part].DATASET == "PointTracks" for part in ("TRAIN", "TEST"))
    return [*_cameras(cfg), *(_model(cfg) if uses_model else []), *(_data(cfg) if uses_data else [])]


def _cameras(cfg: CfgNode) -> list[Problem]:
    node, problems = cfg.TRACKS, []
    if not node.VIEWS or len(set(node.VIEWS)) < len(node.VIEWS) or min(node.VIEWS) < 0:
        text = f"TRACKS.VIEWS {node.VIEWS}: camera numbers from 0, each once"
        problems.append(Problem(("TRACKS.VIEWS",), text))
    elif not set(node.TEST_VIEWS) <= set(node.VIEWS):
        text = f"TRACKS.TEST_VIEWS {node.TEST_VIEWS}: must be among TRACKS.VIEWS {node.VIEWS}; [] is all of them"
        problems.append(Problem(("TRACKS.TEST_VIEWS", "TRACKS.VIEWS"), text))
    if len(node.FRAME_SIZE) not in (0, 2) or any(side < 1 for side in node.FRAME_SIZE):
        text = f"TRACKS.FRAME_SIZE {node.FRAME_SIZE}: must be [height, width] in pixels, or []"
        problems.append(Problem(("TRACKS.FRAME_SIZE",), text))
    return problems


def _model(cfg: CfgNode) -> list[Problem]:
    node, problems = cfg.TRACKS, []
    transformer = cfg.MODEL.MODEL_NAME == "PointTrackTransformer"
    if transformer and node.REDUCER == "flat" and not node.COMPAT:
        text = "TRACKS.REDUCER flat: is PointTrackLSTM's; choose set or cnn"
        problems.append(Problem(("TRACKS.REDUCER", "MODEL.MODEL_NAME"), text))
    width = len(node.VIEWS) * node.VIEW_DIM if node.COMPAT else node.EMBED_DIM
    if transformer and width % node.NUM_HEADS:
        shown = f"len(TRACKS.VIEWS) * TRACKS.VIEW_DIM = {width}" if node.COMPAT else f"TRACKS.EMBED_DIM {width}"
        text = f"{shown}: must be a multiple of TRACKS.NUM_HEADS {node.NUM_HEADS}"
        keys = ("TRACKS.EMBED_DIM", "TRACKS.NUM_HEADS", "TRACKS.VIEW_DIM", "TRACKS.VIEWS")
        problems.append(Problem(keys, text))
    if (node.COORDINATES == "pixels") != node.COMPAT:
        wanted = "pixels" if node.COMPAT else "normalised"
        text = f"TRACKS.COORDINATES {node.COORDINATES}: with TRACKS.COMPAT {node.COMPAT} the models take {wanted}"
        problems.append(Problem(("TRACKS.COORDINATES", "TRACKS.COMPAT"), text))
    return problems


def _data(cfg: CfgNode) -> list[Problem]:
    node = cfg.TRACKS
    moved = [f"TRACKS.{key}" for key in ("POINT_NOISE", "ROTATION", "SCALE") if node[key]]
    if node.COORDINATES == "pixels" and moved:
        text = f"{', '.join(moved)}: need TRACKS.COORDINATES normalised; write 0"
        return [Problem((*moved, "TRACKS.COORDINATES"), text)]
    return []
