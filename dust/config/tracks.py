"""Keys of point tracks: how tracker output becomes windows of points, and the two models that read them."""

from yacs.config import CfgNode

from dust.config.schema import Key, Problem, System, section

MODELS = ("PointTrackTransformer", "PointTrackLSTM")

KEYS = section(
    "TRACKS",  # data PointTracks, models PointTrackTransformer and PointTrackLSTM
    VIEWS=Key([0, 1, 2, 3], "numbers of the cameras that are used; their order is the models'"),
    TEST_VIEWS=Key([], "of VIEWS, those that validation and test see, the others count as missing; [] = all", kind=int),
    NUM_POINTS=Key(500, "points per camera; fewer are padded, of more POINTS chooses", low=1),
    POINTS=Key("motion", "which points, for all frames",
               choices="motion (longest way) | rightmost | random | grid (spread over the picture)"),
    POINT_COUNTS=Key("same", "whether the cameras of a clip may have different numbers of points",
                     choices="same | any"),
    WINDOW=Key(50, "frames that the model sees at once", low=1),
    STRIDE=Key(25, "frames between the windows of a clip in validation and test; training draws a window", low=1),
    FPS=Key(0.0, "frames per second that files are brought to, by the nearest frame; 0 = as they are", low=0),
    ALIGN=Key("error", "what happens when the cameras of a clip differ in length", choices="error | resample"),
    COORDINATES=Key("normalised", "units of a point's place",
                    choices="normalised (-1 to 1 over the frame) | pixels (what COMPAT was trained on)"),
    FRAME_SIZE=Key([], "height and width, pixels, for files that do not say them", kind=int),
    VISIBILITY_THRESHOLD=Key(0.9, "above this a point is visible, where a file has shares; CoTracker online: 0.6",
                             low=0, below=1),
    CHECK_FILES=Key(True, "read every file before the run begins and report all that is wrong"),
    CACHE_MB=Key(512, "memory for clips that were read, per loading process, MiB; 0 = read them every time", low=0),

    VIEW_DROPOUT=Key(0.0, "training: chance that a camera goes missing; one always stays", low=0, below=1),
    POINT_NOISE=Key(0.0, "training: standard deviation of each point's place, share of half the frame", low=0),
    TIME_JITTER=Key(0.0, "training: the speed varies by up to this share", low=0, below=1),
    ROTATION=Key(0.0, "training: each camera turns about its centre by up to so many degrees", low=0),
    SCALE=Key(0.0, "training: each camera zooms by up to this share", low=0, below=1),
    MIRROR=Key(0.0, "training: chance that left and right change places: of the picture, of points by their names, and "
               "of classes by theirs (wave_left, wave_right)", low=0, high=1),

    REDUCER=Key("set", "how the points of a frame become one vector",
                choices="set (order of the points is lost) | cnn (published) | flat (PointTrackLSTM only)"),
    ECA=Key(True, "channel attention over the cameras"),
    FUSION=Key("concat", "how the cameras meet",
               choices="concat (one token per frame) | mean (of the cameras there) | tokens (per camera and frame)"),
    POOL=Key("mean", "how the frames meet", choices="mean (of the frames there) | last"),
    VIEW_DIM=Key(64, "features of a camera in a frame", low=1),
    EMBED_DIM=Key(256, "width of a token, a multiple of NUM_HEADS", low=1),
    DEPTH=Key(2, "blocks, or layers of the LSTM", low=1),
    NUM_HEADS=Key(4, "attention heads", low=1),
    MLP_DIM=Key(0, "hidden width of the blocks' MLPs; 0 = twice EMBED_DIM (2048 with COMPAT)", low=0),
    HIDDEN_DIM=Key(256, "width of PointTrackLSTM", low=1),
    DETACH_EVERY=Key(0, "PointTrackLSTM: frames between two cuts of the gradient through time; 0 = none", low=0),
    DROP_RATE=Key(0.1, "dropout", low=0, below=1),
    COMPAT=Key(False, "exactly the published models; wants COORDINATES pixels"),
)  # fmt: skip


def check(cfg: CfgNode) -> list[Problem]:
    """Check cameras, sizes and what the published models ask for."""
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


SYSTEM = System(KEYS, MODELS, check)
