"""Keys of point tracks: how tracker output becomes windows of points, and the two models that read them."""

from yacs.config import CfgNode


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
    node.DROP_RATE = 0.1  # dropout, 0..1
    node.COMPAT = False  # exactly the published models; wants COORDINATES pixels
