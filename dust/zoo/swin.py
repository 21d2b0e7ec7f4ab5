"""Weights of Video Swin: the authors' files and torchvision's."""

from dust.zoo.entry import Entry

AUTHORS = "https://github.com/SwinTransformer/storage/releases/download/v1.0.4/"
AUTHORS_TABLE = "https://github.com/SwinTransformer/Video-Swin-Transformer#kinetics-400"
TORCHVISION = "https://download.pytorch.org/models/"
TORCHVISION_TABLE = (
    "https://docs.pytorch.org/vision/stable/models.html#table-of-all-available-video-classification-weights"
)


def _authors(name: str, filename: str, data: str, size: str, top1: float | None, top5: float | None) -> Entry:
    ssv2 = data == "SSv2"
    return Entry(
        name=name,
        urls=(AUTHORS + filename,),
        licence="Apache-2.0",
        data=data,
        key_map="video_swin",
        source=AUTHORS_TABLE,
        frames=32,
        rate=0 if ssv2 else 2,
        crop=224,
        classes={"SSv2": 174, "K600": 600, "K400": 400}[data],
        config=f"configs/{'SSv2' if ssv2 else 'Kinetics'}/VideoSwin_{size}.yaml",
        options={"K600": "MODEL.NUM_CLASSES 600"}.get(
            data, "VIDEO_SWIN.WINDOW_SIZE [16,7,7]" if "_w16_" in name else ""
        ),
        top1=top1,
        top5=top5,
        views="" if top1 is None else "1x3" if ssv2 else "4x3",
    )


def _torchvision(name: str, digest: str, filename: str, size: str, top1: float, top5: float) -> Entry:
    return Entry(
        name=name,
        urls=(f"{TORCHVISION}{filename}-{digest}.pth",),
        sha256_prefix=digest,
        licence="BSD-3-Clause",
        data="K400",
        key_map="torchvision_swin3d",
        source=TORCHVISION_TABLE,
        frames=32,
        rate=2,
        crop=224,
        classes=400,
        config=f"configs/Kinetics/VideoSwin_{size}.yaml",
        options="DATA.TARGET_FPS 15 DATA.SAMPLING_RATE 1",
        top1=top1,
        top5=top5,
        views="12x1",
    )


SWIN: tuple[Entry, ...] = (
    _authors("video_swin_t_k400", "swin_tiny_patch244_window877_kinetics400_1k.pth", "K400", "tiny", 78.8, 93.6),
    _authors("video_swin_s_k400", "swin_small_patch244_window877_kinetics400_1k.pth", "K400", "small", 80.6, 94.5),
    _authors("video_swin_b_k400", "swin_base_patch244_window877_kinetics400_1k.pth", "K400", "base", 80.6, 94.6),
    _authors("video_swin_b_in22k_k400", "swin_base_patch244_window877_kinetics400_22k.pth", "K400", "base", 82.7, 95.5),
    _authors("video_swin_b_in22k_k600", "swin_base_patch244_window877_kinetics600_22k.pth", "K600", "base", 84.0, 96.5),
    _authors("video_swin_b_w16_k400", "swin_base_patch244_window1677_kinetics400_22k.pth", "K400", "base", None, None),
    _authors("video_swin_b_ssv2", "swin_base_patch244_window1677_sthv2.pth", "SSv2", "base", 69.6, 92.7),
    _torchvision("swin3d_t_k400", "7615ae03", "swin3d_t", "tiny", 77.715, 93.519),
    _torchvision("swin3d_s_k400", "da41c237", "swin3d_s", "small", 79.521, 94.158),
    _torchvision("swin3d_b_k400", "24f7c7c6", "swin3d_b_1k", "base", 79.427, 94.386),
    _torchvision("swin3d_b_in22k_k400", "7c6ae6fa", "swin3d_b_22k", "base", 81.643, 95.574),
)
