"""Keys of DUST: Video Swin, 1-D Swin on a sensor series, features handed from stage to stage, and their fusion."""

from yacs.config import CfgNode


def add_fusion(root: CfgNode) -> None:
    """Add the nodes VIDEO_SWIN, SERIES_SWIN, SERIES, FUSION and FEATURES."""
    video = root.VIDEO_SWIN = CfgNode()  # model VideoSwin; the defaults are Swin-T
    video.PATCH_SIZE = [2, 4, 4]  # frames, pixels, pixels
    video.EMBED_DIM = 96  # channels of the first stage; each later stage has twice as many
    video.DEPTHS = [2, 2, 6, 2]  # blocks per stage
    video.NUM_HEADS = [3, 6, 12, 24]  # attention heads per stage
    video.WINDOW_SIZE = [8, 7, 7]  # tokens in time, height and width
    video.MLP_RATIO = 4.0
    video.QKV_BIAS = True
    video.PATCH_NORM = True  # LayerNorm behind the patch embedding
    video.DROP_RATE = 0.0
    video.ATTN_DROP_RATE = 0.0
    video.DROP_PATH_RATE = 0.1  # of the last block, rising from 0
    video.HEAD_DROP_RATE = 0.0  # before the classifier; the published K400 recipes use 0.5

    series = root.SERIES_SWIN = CfgNode()  # model SeriesSwin
    series.PATCH_SIZE = 1  # time points per token
    series.EMBED_DIM = 64
    series.DEPTHS = [2, 2, 6, 2]
    series.NUM_HEADS = [4, 4, 4, 4]
    series.WINDOW_SIZE = 8  # tokens
    series.MLP_RATIO = 4.0
    series.QKV_BIAS = True
    series.PATCH_NORM = True
    series.ABSOLUTE_POS_EMBED = False  # learnt positions; needs SERIES.LENGTH
    series.NORM = "respost"  # pre | respost: LayerNorm before attention and MLP, or behind them (DUST, Swin V2)
    series.ATTENTION = "dot"  # dot | cosine (Swin V2)
    series.MASK = "exact"  # exact | legacy: legacy repeats the published code, for weights trained with it
    series.DROP_RATE = 0.0
    series.ATTN_DROP_RATE = 0.0
    series.DROP_PATH_RATE = 0.1

    data = root.SERIES = CfgNode()  # how a series file becomes (channels, length)
    data.NUM_CHANNELS = 3
    data.LENGTH = 51  # time points that the model gets; 0 = as the data, which must then be of one length
    data.FIT = "error"  # error | resample | crop: what happens to a series of another length
    data.RATE = 0.0  # Hz; a series with a time column is brought to this rate first; 0 = as it is
    data.NORMALIZE = True  # each channel by mean and standard deviation of the training split
    data.MISSING = "error"  # error | mask (the channel's mean) | mask_channels (that, and a 0/1 channel beside each)
    data.NOISE = 0.0  # training: Gaussian noise of this many standard deviations, >= 0

    fusion = root.FUSION = CfgNode()  # model DualSwinFusion
    fusion.MODE = "concat"  # concat (DUST) | gated | cross_attention (needs features extracted as a map, or END_TO_END)
    fusion.FEATURE_DIM = 0  # channels of the video features; 0 = as FEATURES_FROM (or VIDEO_SWIN) says
    fusion.FEATURES_FROM = ""  # stage (folder beside OUTPUT_DIR) or folder whose features are joined by sample id
    fusion.SERIES_FROM = ""  # stage or checkpoint that the series backbone starts from; its SERIES_SWIN.* are taken over
    fusion.VIDEO_FROM = ""  # stage or checkpoint of the video backbone; its VIDEO_SWIN.* are taken over (END_TO_END)
    fusion.END_TO_END = False  # train both backbones on raw video and series instead of stored features
    fusion.UNIMODAL_HEADS = True  # also report what each modality alone achieves (heads that do not touch the backbones)
    fusion.EMBED_DIM = 256  # channels that gated and cross_attention fuse in
    fusion.NUM_HEADS = 4  # of cross_attention
    fusion.DROP_RATE = 0.0  # before the head

    features = root.FEATURES = CfgNode()  # stage that stores features instead of training
    features.ENABLE = False
    features.CHECKPOINT_FILE_PATH = ""  # stage, checkpoint or zoo://NAME to extract with
    features.SPLITS = ["train", "val", "test"]
    features.LAYER = "pooled"  # pooled (what the classifier sees) | map (before pooling) | a submodule's name
    features.DTYPE = "float32"  # float16 | float32
    features.FORMAT = "memmap"  # memmap (one .npy per split) | npz (one file per split) | per_video (one .npy each)
    features.BATCH_SIZE = 8  # views that run through the model at once
    features.NUM_VIEWS = 1  # clips over time per video, whose features are averaged
    features.NUM_CROPS = 1  # 1 | 3 crops per clip, averaged too
    features.STRIDE = 0  # per_video: frames from one window to the next; 0 = one window's length
