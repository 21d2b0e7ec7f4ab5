"""The weights that dust can load and knows where to find: names, places, licences, hashes, published accuracy.

Nothing is bundled: dust links to the publishers' files and verifies what arrives. Accuracies are the publishers' own.
"""

import difflib

from dust.utils.errors import DustError
from dust.zoo.cast import CAST
from dust.zoo.entry import Entry, HubFile
from dust.zoo.swin import SWIN

MB = 1_000_000

TIMESFORMER_README = "https://github.com/facebookresearch/TimeSformer#model-zoo"
TIMM_RESULTS = "https://github.com/huggingface/pytorch-image-models/blob/main/results/results-imagenet.csv"
CC_BY_NC = "CC-BY-NC-4.0"
APACHE = "Apache-2.0"


def _timesformer(
    variant: str,
    data: str,
    dropbox_id: str,
    *,
    top1: float,
    top5: float | None = None,
    classes: int | None = None,
    config: str,
    options: str = "",
    views: str = "",
) -> Entry:
    """One row of the official TimeSformer table; ``variant`` is "<frames>[x<rate>]_<crop>" as in the file's name."""
    clip, crop = variant.split("_")
    frames, _, rate = clip.partition("x")
    filename = f"TimeSformer_divST_{variant}_{data}.pyth"
    return Entry(
        name=f"timesformer_{variant}_{data.lower()}",
        # dl=1 asks for the file; the README's own links (dl=0) open a web page.
        urls=(f"https://www.dropbox.com/s/{dropbox_id}/{filename}?dl=1",),
        licence=CC_BY_NC,
        key_map="timesformer",
        data=data,
        frames=int(frames),
        rate=int(rate or 0),
        crop=int(crop),
        classes=classes,
        top1=top1,
        top5=top5,
        views=views,
        source=TIMESFORMER_README,
        config=config,
        options=options,
    )


def _hub_twin(of: Entry, repo: str, revision: str, *, megabytes: int, sha256: str = "") -> Entry:
    """The same weights in Hugging Face's layout. The hub shows sizes rounded to a megabyte."""
    return Entry(
        name=f"{of.name}_hf",
        hub=HubFile(f"facebook/{repo}", "pytorch_model.bin", revision),
        sha256=sha256,
        size=megabytes * MB,
        size_tolerance=MB,
        licence=CC_BY_NC,
        key_map="huggingface_timesformer",
        data=of.data,
        frames=of.frames,
        rate=of.rate,
        crop=of.crop,
        classes=of.classes,
        top1=of.top1,
        top5=of.top5,
        views=of.views,
        source=of.source,
        config=of.config,
        options=of.options,
    )


def _kinetics(variant: str, data: str, dropbox_id: str, top1: float, top5: float) -> Entry:
    classes = {"K400": 400, "K600": 600}[data]
    return _timesformer(
        variant,
        data,
        dropbox_id,
        top1=top1,
        top5=top5,
        classes=classes,
        views="1x3",
        config=f"configs/Kinetics/TimeSformer_divST_{variant}.yaml",
        options="" if classes == 400 else f"MODEL.NUM_CLASSES {classes}",
    )


def _ssv2(variant: str, dropbox_id: str, top1: float, top5: float) -> Entry:
    return _timesformer(
        variant,
        "SSv2",
        dropbox_id,
        top1=top1,
        top5=top5,
        classes=174,
        views="1x3",
        config=f"configs/SSv2/TimeSformer_divST_{variant}.yaml",
        # The original read SSv2 frames as BGR and ignored the key that should have turned them round.
        options="DATA.REVERSE_INPUT_CHANNEL True",
    )


def _howto100m(variant: str, dropbox_id: str, top1: float) -> Entry:
    return _timesformer(
        variant, "HowTo100M", dropbox_id, top1=top1, config=f"configs/HowTo100M/TimeSformer_divST_{variant}.yaml"
    )


def _image_vit(name: str, *, source: str, top1: float, top5: float, **place: object) -> Entry:
    """A ViT-B/16 image classifier, from which TimeSformer's training starts."""
    return Entry(
        name=name,
        licence=APACHE,
        key_map="timm_vit",
        data="ImageNet-1k",
        source=source,
        frames=1,
        crop=224,
        classes=1000,
        top1=top1,
        top5=top5,
        # 86,567,656 float32 parameters, and the container's own bytes.
        size=346_270_624,
        size_tolerance=MB,
        **place,  # type: ignore[arg-type]
    )


_K400_8 = _kinetics("8x32_224", "K400", "g5t24we9gl5yk88", 77.9, 93.2)
_K400_HR = _kinetics("16x16_448", "K400", "6f0x172lpqy3oxt", 79.6, 94.0)
_K600_8 = _kinetics("8x32_224", "K600", "4h2qt41m2z3aqrb", 79.1, 94.4)
_K600_HR = _kinetics("16x16_448", "K600", "ft1e92g2vhvxecv", 81.8, 95.8)
_SSV2_8 = _ssv2("8_224", "tybhuml57y24wpm", 59.1, 85.6)
_SSV2_HR = _ssv2("16_448", "9t68uzk8w2fpfnv", 61.8, 86.9)

_TABLE = (
    _K400_8,
    _K400_HR,
    _kinetics("96x4_224", "K400", "r1iuxahif3sgimo", 80.6, 94.7),
    _K600_8,
    _K600_HR,
    _kinetics("96x4_224", "K600", "857rx6xeclxfhdg", 82.2, 95.6),
    _SSV2_8,
    _SSV2_HR,
    _ssv2("64_224", "3f1rm2al8mhprwa", 62.0, 87.5),
    _howto100m("8x32_224", "9v8hcm88b9tc6ff", 56.8),
    _howto100m("32x32_224", "4roflx4q1gscu85", 61.2),
    _howto100m("64x32_224", "15bvqltl1j5vyp3", 62.2),
    _howto100m("96x32_224", "t2mzgahnfhgakma", 62.6),
    _hub_twin(
        _K400_8,
        "timesformer-base-finetuned-k400",
        "72d580cae9d3a854630da97a8cfd8e42ab97dbca",
        megabytes=486,
    ),
    _hub_twin(
        _K400_HR,
        "timesformer-hr-finetuned-k400",
        "4448334127f7d7000b4610fc365a1b937cbbe50b",
        megabytes=488,
        sha256="7f57219e9892e2ff9a77b547766112cbccd2c134930500a634562fba9939437c",
    ),
    _hub_twin(
        _K600_8,
        "timesformer-base-finetuned-k600",
        "3da1913755c70f6ca2200e38dde125d4abbe6cc0",
        megabytes=487,
    ),
    _hub_twin(
        _K600_HR,
        "timesformer-hr-finetuned-k600",
        "8d6676098296bcae2a4bf79eb1cd642a5bef020e",
        megabytes=489,
        sha256="199273d84d79cea619f71b3bcc8c2bdd5538e78420e7be19b8da15f46126d285",
    ),
    _hub_twin(
        _SSV2_8,
        "timesformer-base-finetuned-ssv2",
        "1759890b04550a6fe6536a0979b8d1f1053a5f1d",
        megabytes=486,
        sha256="a0343cc07c303f9551d912a7678170a63b9cf087ef2e757edae529c6825dc3f7",
    ),
    _hub_twin(
        _SSV2_HR,
        "timesformer-hr-finetuned-ssv2",
        "11f06e7d0d8e1cd4bedbe1ce7e5f7ee98ac359ac",
        megabytes=487,
    ),
    _image_vit(
        "vit_base_patch16_224.orig_in21k_ft_in1k",
        urls=(
            "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx/"
            "jx_vit_base_p16_224-80ecf9dd.pth",
        ),
        sha256_prefix="80ecf9dd",
        source=TIMM_RESULTS,
        top1=81.79,
        top5=96.12,
    ),
    _image_vit(
        "vit_base_patch16_224.augreg_in21k_ft_in1k",
        hub=HubFile(
            "timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
            "model.safetensors",
            "b5b38b8f7dd93ce67d12e356a8771556b95c8cf9",
        ),
        source=TIMM_RESULTS,
        top1=84.53,
        top5=97.29,
    ),
    _image_vit(
        "deit_base_patch16_224.fb_in1k",
        urls=("https://dl.fbaipublicfiles.com/deit/deit_base_patch16_224-b5f2ef4d.pth",),
        sha256_prefix="b5f2ef4d",
        source=TIMM_RESULTS,
        top1=81.99,
        top5=95.74,
    ),
)

ENTRIES: dict[str, Entry] = {entry.name: entry for entry in (*_TABLE, *SWIN, *CAST)}


def get(name: str) -> Entry:
    """The entry called ``name``; a DustError with the nearest names if there is none."""
    if name in ENTRIES:
        return ENTRIES[name]
    near = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise DustError(f"the zoo has no weights named {name!r}. {hint}`python tools/zoo.py list` shows all names.")
