"""The list, the table made from it, and the command line."""

import shlex
import subprocess
import sys

import pytest
import torch

from benchmarks.zoo_figures import figures_of
from dust import zoo
from dust.config import load_config, with_values
from dust.models import build_model
from dust.utils.errors import ConfigError
from dust.zoo.entries import figures, read_entries
from tests.helpers import ROOT
from tests.zoo.web import REAL, SHA, Page, start


def test_import_is_light():
    heavy = ("torch", "numpy", "huggingface_hub", "tqdm")
    code = f"import sys; import dust.zoo; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_entries_are_well_formed():
    filenames = [entry.filename for entry in zoo.ENTRIES.values()]
    assert len(set(filenames)) == len(filenames), "two entries would share one cached file"
    for name, entry in zoo.ENTRIES.items():
        assert entry.name == name
        assert entry.urls or entry.hub
        assert all(url.startswith("https://") for url in entry.urls)
        assert all("dl=1" in url for url in entry.urls if "dropbox" in url)
        assert len(entry.sha256) in (0, 64) and len(entry.sha256_prefix) in (0, 8)
        assert entry.sha256_prefix in entry.filename
        assert entry.hub is None or len(entry.hub.revision) == 40, "a branch can move"


def test_published_numbers():
    accuracy = {name: (entry.top1, entry.top5) for name, entry in zoo.ENTRIES.items()}
    expected = {
        "8x32_224_k400": (77.9, 93.2),
        "16x16_448_k400": (79.6, 94.0),
        "96x4_224_k400": (80.6, 94.7),
        "8x32_224_k600": (79.1, 94.4),
        "16x16_448_k600": (81.8, 95.8),
        "96x4_224_k600": (82.2, 95.6),
        "8_224_ssv2": (59.1, 85.6),
        "16_448_ssv2": (61.8, 86.9),
        "64_224_ssv2": (62.0, 87.5),
        "8x32_224_howto100m": (56.8, None),
        "32x32_224_howto100m": (61.2, None),
        "64x32_224_howto100m": (62.2, None),
        "96x32_224_howto100m": (62.6, None),
    }
    assert {name: accuracy[f"timesformer_{name}"] for name in expected} == expected
    hr = zoo.get("timesformer_16_448_ssv2")
    assert (hr.frames, hr.rate, hr.crop, hr.classes, hr.filename) == (
        16,
        0,
        448,
        174,
        "TimeSformer_divST_16_448_SSv2.pyth",
    )
    assert "REVERSE_INPUT_CHANNEL True" in hr.options


GOOD = "licence: MIT, data: x, key_map: y, source: z, frames: 1, crop: 8"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"- weights: {{a: {{{GOOD}}}}}", "a: urls and hub are missing"),
        (f"- weights: {{a: {{{GOOD}, urls: https://x/y.pth}}}}", "a: urls is 'https://x/y.pth', of another type"),
        (f"- weights: {{a: {{{GOOD}, hub: {{repo: r}}, size: '1'}}}}", "a: hub is {.*; a: size is '1'"),
        (f"- weights: {{a: {{{GOOD}, urls: [u], top_1: 3.0}}}}", "a: top_1 is no field"),
        ("- common: {licence: MIT}\n  weights: {a: {urls: [u]}}", "a: data is missing; .*a: crop is missing"),
        (f"- weights: {{a: {{{GOOD}, urls: [u]}}}}\n- weights: {{a: {{{GOOD}, urls: [u]}}}}", "a stands there twice"),
    ],
)
def test_what_is_wrong_in_the_list_is_said(tmp_path, text, words):
    (tmp_path / "weights.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_entries(tmp_path / "weights.yaml")


def test_a_group_has_common_fields(tmp_path):
    text = f"- common: {{{GOOD}, urls: [https://h/f.pth]}}\n  weights: {{a: {{crop: 9}}, b: {{urls: [https://h/download?id=1]}}}}"
    (tmp_path / "weights.yaml").write_text(text)
    a, b = read_entries(tmp_path / "weights.yaml").values()
    assert (a.name, a.crop, a.licence, a.filename) == ("a", 9, "MIT", "f.pth")
    assert (b.name, b.crop, b.filename) == ("b", 8, "b.pth"), "a URL that tells no file's name"


def test_the_list_is_installed():
    assert '"zoo/weights.yaml"' in (ROOT / "setup.py").read_text(encoding="utf-8")


def test_configs_exist():
    missing = {entry.config for entry in zoo.ENTRIES.values() if entry.config and not (ROOT / entry.config).is_file()}
    assert not missing


@pytest.mark.parametrize(
    "entry",
    [entry for entry in zoo.ENTRIES.values() if entry.key_map in ("pytorchvideo", "slowfast", "torchvision")],
    ids=lambda entry: entry.name,
)
def test_recipes_of_convolutional_and_multiscale_models_are_those_of_their_rows(entry):
    """Frames, crop, classes and views of the configuration with its options."""
    cfg = load_config(ROOT / entry.config, shlex.split(entry.options))
    assert (entry.frames, entry.crop, entry.classes) == (
        cfg.DATA.NUM_FRAMES,
        cfg.DATA.TEST_CROP_SIZE,
        cfg.MODEL.NUM_CLASSES,
    )
    assert entry.views == f"{cfg.TEST.NUM_ENSEMBLE_VIEWS}x{cfg.TEST.NUM_SPATIAL_CROPS}"
    assert entry.rate in (0, cfg.DATA.SAMPLING_RATE) and (entry.rate == 0) == (cfg.TEST.DATASET == "SSv2")


@pytest.mark.parametrize(
    "entry", [entry for entry in zoo.ENTRIES.values() if entry.key_map == "vjepa2"], ids=lambda entry: entry.name
)
def test_recipes_of_v_jepa_2_build_the_models_of_their_rows(entry):
    cfg = load_config(ROOT / entry.config, shlex.split(entry.options))
    part = "PROBE" if entry.name.endswith("_probe") else "ENCODER"
    assert cfg.VJEPA2[f"{part}_FROM"] == f"zoo://{entry.name}"
    assert (entry.frames, entry.rate, entry.crop) == (
        cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.DATA.TEST_CROP_SIZE
    )  # fmt: skip
    size = next(word for word in ("vitb", "vitl", "vith", "vitgg", "vitg") if word in entry.name)
    width, depth, heads, hidden = {
        "vitb": (768, 12, 12, 3072), "vitl": (1024, 24, 16, 4096), "vith": (1280, 32, 16, 5120),
        "vitg": (1408, 40, 22, 6144), "vitgg": (1664, 48, 26, 8192),
    }[size]  # fmt: skip
    with torch.device("meta"):
        model = build_model(with_values(cfg, {"MODEL.NUM_CLASSES": entry.classes or 7}))
    encoder, node = model.encoder, cfg.VJEPA2
    assert encoder.blocks[0].mlp.fc1.weight.shape == (hidden, width) and encoder.blocks[0].attn.num_heads == heads
    assert len(encoder.blocks) == depth and (node.VERSION == "2.1") == entry.name.startswith("vjepa2_1")
    if part == "PROBE":
        assert entry.classes == cfg.MODEL.NUM_CLASSES and not cfg.TRAIN.ENABLE and model.assembled_from_parts
        words = {"ssv2": 2, "diving48": 4}
        assert next(count for word, count in words.items() if word in entry.name) == cfg.DATA.CLIPS_PER_VIEW
        assert len(node.OUT_LAYERS) == (4 if "diving48" in entry.name else 0)


def test_model_zoo_is_not_stale():
    page = (ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8")
    assert page == zoo.markdown(), "run `dust zoo table --out MODEL_ZOO.md`"


def test_command_line(site, home):
    def run(*arguments):
        process = start(["tools/zoo.py", *arguments], home, DUST_ZOO_MIRROR=site.url)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    site.pages[f"/{zoo.get(REAL).filename}"] = Page()
    code, out, err = run("download", "nonsense", f"zoo://{REAL}")
    assert code == 1 and "no weights named 'nonsense'" in err, "one failure does not stop the others"
    assert out.strip() == str(zoo.cached_path(zoo.get(REAL)))
    code, out, _ = run("list")
    lines = {line.split()[0]: line.split() for line in out.splitlines()}
    assert code == 0 and lines[REAL][-1] == "yes" and lines["deit_base_patch16_224.fb_in1k"][-1] == "no"
    code, out, _ = run("verify")
    assert (code, out) == (0, f"{SHA}  {REAL}\n")
    code, out, _ = run("table")
    assert code == 0 and out == zoo.markdown()


def test_every_row_that_is_built_has_its_figures_and_says_why_the_published_ones_differ():
    counted = figures()
    built = {
        name for name, entry in zoo.ENTRIES.items() if entry.config and (entry.frames > 1 or "CLIP" in entry.config)
    }
    assert set(counted) == built, "python benchmarks/zoo_figures.py"
    for name, entry in zoo.ENTRIES.items():
        if entry.published_gmacs is not None:
            differs = abs(counted[name]["gmacs"] / entry.published_gmacs - 1) > 0.01
            assert differs == bool(entry.gmacs_differ), name


@pytest.mark.parametrize("name", ["x3d_xs_k400", "clip_vit_b32", "videomae_s_k400", "r3d_18_tv_k400"])
def test_the_figures_are_those_of_the_counter(name):
    assert figures_of(zoo.get(name)) == figures()[name]
