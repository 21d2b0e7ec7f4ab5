"""Weights of VideoMAE, of CLIP's image transformer and of CAST: Google Drive, Hugging Face and OpenAI."""

from dataclasses import dataclass

from dust.zoo.entry import Entry, HubFile

VIDEOMAE_TABLE = "https://github.com/MCG-NJU/VideoMAE/blob/main/MODEL_ZOO.md"
CAST_README = "https://github.com/KHU-VLL/CAST#model-zoo"
CC_BY_NC = "CC-BY-NC-4.0"
CLIP_SHA256 = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"


@dataclass(frozen=True)
class DriveFile(Entry):
    """A file on Google Drive, whose URL does not tell its name."""

    @property
    def filename(self) -> str:
        return f"{self.name}.pth"


def _drive(identity: str) -> tuple[str, ...]:
    # confirm=t answers beforehand the page that asks whether a file too large to be scanned is really wanted
    return (f"https://drive.usercontent.google.com/download?id={identity}&export=download&confirm=t",)


def _pretrained(name: str, data: str, size: str, identity: str) -> Entry:
    return DriveFile(
        name=name,
        urls=_drive(identity),
        licence=CC_BY_NC,
        data=data,
        key_map="videomae",
        source=VIDEOMAE_TABLE,
        frames=16,
        rate=2 if data == "SSv2" else 4,
        crop=224,
        config="" if data == "EK100" else f"configs/VideoMAE/finetune_{data.lower()}_{size}.yaml",
    )


def _finetuned(name: str, data: str, size: str, identity: str, top1: float, top5: float) -> Entry:
    return DriveFile(
        name=name,
        urls=_drive(identity),
        licence=CC_BY_NC,
        data=data,
        key_map="videomae",
        source=VIDEOMAE_TABLE,
        frames=16,
        rate=0 if data == "SSv2" else 4,
        crop=224,
        classes={"K400": 400, "SSv2": 174, "UCF101": 101}[data],
        config=f"configs/VideoMAE/finetune_{data.lower()}_{size}.yaml",
        options="TRAIN.ENABLE False",
        top1=top1,
        top5=top5,
        views="2x3" if data == "SSv2" else "5x3",
    )


def _hub(
    name: str,
    repo: str,
    revision: str,
    size: str,
    megabytes: int,
    *,
    top1: float | None = None,
    top5: float | None = None,
) -> Entry:
    return Entry(
        name=name,
        hub=HubFile(f"MCG-NJU/{repo}", "model.safetensors", revision),
        licence=CC_BY_NC,
        data="K400",
        key_map="huggingface_videomae",
        source=VIDEOMAE_TABLE,
        frames=16,
        rate=4,
        crop=224,
        classes=None if top1 is None else 400,
        config=f"configs/VideoMAE/finetune_k400_{size}.yaml",
        options="" if top1 is None else "TRAIN.ENABLE False",
        top1=top1,
        top5=top5,
        views="" if top1 is None else "5x3",
        size=megabytes * 1_000_000,
        size_tolerance=6_000_000 if megabytes > 999 else 1_000_000,
    )


def _cast(data: str, identity: str, top1: float, views: str, classes: int | None, config: str, rate: int) -> Entry:
    return DriveFile(
        name=f"cast_b_{data.lower()}",
        urls=_drive(identity),
        licence=CC_BY_NC,
        data=data,
        key_map="cast",
        source=CAST_README,
        frames=16,
        rate=rate,
        crop=224,
        classes=classes,
        config=config,
        options="TRAIN.ENABLE False",
        top1=top1,
        views=views,
    )


CAST: tuple[Entry, ...] = (
    _pretrained("videomae_s_k400_pretrain", "K400", "small", "1nU-H1u3eJ-VuyCveU7v-WIOcAVxs5Hww"),
    _pretrained("videomae_b_k400_pretrain_800", "K400", "base", "1JfrhN144Hdg7we213H1WxwR3lGYOlmIn"),
    _pretrained("videomae_b_k400_pretrain", "K400", "base", "1tEhLyskjb755TJ65ptsrafUG2llSwQE1"),
    _pretrained("videomae_l_k400_pretrain", "K400", "large", "1qLOXWb_MGEvaI7tvuAe94CV7S2HXRwT3"),
    _pretrained("videomae_h_k400_pretrain", "K400", "huge", "1AJQR1Rsi2N1pDn9tLyJ8DQrUREiBA1bO"),
    _pretrained("videomae_s_ssv2_pretrain", "SSv2", "small", "1p_I1aaONOeUvRmRQw1UT3-L2H8XJClHu"),
    _pretrained("videomae_b_ssv2_pretrain_800", "SSv2", "base", "181hLvyrrPW2IOGA46fkxdJk0tNLIgdB2"),
    _pretrained("videomae_b_ssv2_pretrain", "SSv2", "base", "1I18dY_7rSalGL8fPWV82c0-foRUDzJJk"),
    _pretrained("videomae_b_ucf101_pretrain", "UCF101", "base", "1BHev4meNgKM0o_8DMRbuzAsKSP3IpQ3o"),
    _finetuned("videomae_s_k400", "K400", "small", "1ygjLRm1kvs9mwGsP3lLxUExhRo6TWnrx", 79.0, 93.8),
    _finetuned("videomae_b_k400_800", "K400", "base", "18EEgdXY9347yK3Yb28O-GxFMbk41F6Ne", 80.0, 94.4),
    _finetuned("videomae_b_k400", "K400", "base", "1MzwteHH-1yuMnFb8vRBQDvngV1Zl-d3z", 81.5, 95.1),
    _finetuned("videomae_l_k400", "K400", "large", "1jX1CiqxSkCfc94y8FRW1YGHy-GNvHCuD", 85.2, 96.8),
    _finetuned("videomae_h_k400", "K400", "huge", "104ouJZxSVPSAm0LwJXd6IzjdA_RGLqZi", 86.6, 97.1),
    _finetuned("videomae_s_ssv2", "SSv2", "small", "1ajlMrT06jiiM-5YjNI2X_UFyzsuYbbtZ", 66.8, 90.3),
    _finetuned("videomae_b_ssv2_800", "SSv2", "base", "1xZCiaPF4w7lYmLt5o1D5tIZyDdLtJAvH", 69.6, 92.0),
    _finetuned("videomae_b_ssv2", "SSv2", "base", "1dt_59tBIyzdZd5Ecr22lTtzs_64MOZkT", 70.8, 92.4),
    _finetuned("videomae_b_ucf101", "UCF101", "base", "1MSyon6fPpKz7oqD6WDGPFK4k_Rbyb6fw", 91.3, 98.5),
    _hub("videomae_b_k400_pretrain_hf", "videomae-base", "a6c2a8d371a8690497d78eee21fdb4fbfcf796da", "base", 377),
    _hub(
        "videomae_b_k400_hf", "videomae-base-finetuned-kinetics", "ded4e48b8b503c08f6edd9405b26d406f288824b",
        "base", 346, top1=81.5, top5=95.1,
    ),
    _hub(
        "videomae_l_k400_hf", "videomae-large-finetuned-kinetics", "0f6adcd5f6902900aa0281f9daacfe52bb3c4ad4",
        "large", 1220, top1=85.2, top5=96.8,
    ),
    # two files of CAST's authors, of which the second starts the temporal expert on EPIC-KITCHENS
    _pretrained("videomae_b_ek100_pretrain", "EK100", "base", "1DaxOctpEkmKTi873J1jzzz_Sl-0wRai7"),
    _pretrained("videomae_b_ek100", "EK100", "base", "16zDs_9ycAoz8AoEecrQXsC5vLZsaQoTw"),
    Entry(
        name="clip_vit_b16_openai",
        urls=(f"https://openaipublic.azureedge.net/clip/models/{CLIP_SHA256}/ViT-B-16.pt",),
        sha256=CLIP_SHA256,
        licence="MIT",
        data="WIT",
        key_map="openai_clip",
        source="https://github.com/openai/CLIP",
        frames=1,
        crop=224,
    ),
    _cast("EK100", "1pW5tMWG2N5zqQOOPcrawwQpIAhPFMoVx", 49.3, "2x3", None, "configs/CAST/epic.yaml", 0),
    _cast("SSv2", "1RrAVF4tlpZCPYNY49M0pKQfopP6p6Vir", 71.6, "2x3", 174, "configs/CAST/ssv2.yaml", 0),
    _cast("K400", "16ndsBVNjRuJMRM40P0-a3Q1JVA8tNLK7", 85.3, "5x3", 400, "configs/CAST/k400.yaml", 4),
)  # fmt: skip
