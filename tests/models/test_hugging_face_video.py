"""transformers' video classifiers behind one adapter: the same numbers as by themselves, files, wrong input."""

import json

import pytest
import torch

from dust.config import get_cfg, with_values
from dust.models import build_model, hugging_face_video
from dust.models.hugging_face_video import HuggingFaceVideo
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError, DustError
from tests.models.small_models import VIVIT

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
#: Small ones of each kind.
KINDS = {
    "vivit": VIVIT["options"],
    "timesformer": {**SIZES, "patch_size": 8},
    "videomae": {**SIZES, "patch_size": 8},
    "vjepa2": {
        **SIZES, "patch_size": 8, "pred_hidden_size": 16, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2,
        "num_pooler_layers": 1,
    },
    "videoprism_vision_model": {
        **SIZES, "tubelet_size": [1, 8, 8], "num_spatial_layers": 1, "num_temporal_layers": 1,
        "num_auxiliary_layers": 1,
    },
}  # fmt: skip


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(hugging_face_video, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install dust-video\[huggingface\]"):
        HuggingFaceVideo(**VIVIT)


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason="needs the extra: pip install dust-video[huggingface]")


def known(kind):
    from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES

    if kind not in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES:
        pytest.skip(f"this version of transformers has no {kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_the_network_by_itself_with_its_own_file(transformers, kind, tmp_path):
    known(kind)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **KINDS[kind], num_labels=5)
    for name, value in (("image_size", 32), ("crop_size", 32), ("num_frames", 4), ("frames_per_clip", 4)):
        if hasattr(config, name):
            setattr(config, name, value)
    theirs = transformers.AutoModelForVideoClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)
    ours = HuggingFaceVideo(arch=str(tmp_path), num_classes=5, img_size=32, num_frames=4).eval()
    report = load_weights(ours, tmp_path, strict=True)
    assert report.complete
    video = torch.randn(2, 3, 4, 32, 32)
    expected = theirs(**{theirs.main_input_name: video.transpose(1, 2)}).logits
    torch.testing.assert_close(ours(video), expected.flatten(1), atol=1e-5, rtol=1e-5)
    features = ours.forward_features(video)
    assert features.shape == (2, ours.num_features) and torch.equal(ours.forward_head(features), ours(video))

    fresh = HuggingFaceVideo(arch=kind, num_classes=3, img_size=32, num_frames=4, options=KINDS[kind])
    report = load_weights(fresh, tmp_path)
    assert report.fresh_head and not report.absent_from_body, "another set of classes"
    trunk = {key.removeprefix(f"{theirs.base_model_prefix}."): value for key, value in theirs.state_dict().items()}
    assert not load_weights(fresh, {k: v for k, v in trunk.items() if "classifier" not in k}).absent_from_body


def test_a_configuration_builds_it(transformers, tmp_path):
    config = transformers.AutoConfig.for_model("vivit", **VIVIT["options"], image_size=32, num_frames=4)
    config.save_pretrained(tmp_path)
    values = {"MODEL.MODEL_NAME": "HuggingFaceVideo", "MODEL.ARCH": str(tmp_path), "MODEL.NUM_CLASSES": 3,
              "DATA.TRAIN_CROP_SIZE": 32, "DATA.NUM_FRAMES": 4}  # fmt: skip
    model = build_model(with_values(get_cfg(), values)).train()
    model.set_grad_checkpointing(True)
    logits = model(torch.randn(2, 3, 4, 32, 32))
    logits.sum().backward()
    assert logits.shape == (2, 3)
    with pytest.raises(ConfigError, match=r"config.json: num_frames 4, and DATA.NUM_FRAMES is 8"):
        build_model(with_values(get_cfg(), {**values, "DATA.NUM_FRAMES": 8}))
    with pytest.raises(DustError, match=r"built for \(B, 3, 4, 32, 32\)"):
        model(torch.randn(2, 3, 4, 40, 40))


def test_what_is_no_video_classifier(transformers, tmp_path):
    with pytest.raises(ConfigError, match="MODEL.ARCH vit: neither a folder .* has .*vivit"):
        HuggingFaceVideo(arch="vit")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match="its config.json is of bert"):
        HuggingFaceVideo(arch=str(tmp_path))
