"""The golden files in this repository: each fact has a case, and they are parts of the whole set."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import ALL_GOLDEN, DATA

#: {case in tests/data: the facts for which it is there}. ../shared/golden has more cases of the same facts.
HOLDS = {
    "cast_a": "CAST with one head",
    "cast_b_composition": "CAST with heads for verbs and nouns",
    "clip_text_hf_a": "CLIP's text tower under Hugging Face's names, both ways of padding, gradients",
    "clip_text_openclip_a": "the whole CLIP under OpenAI's names, four rules of joining frames",
    "clip_visual_a": "CLIP's visual tower, with and without its projection",
    "dust_fusion_len51": "DUST's fusion of series and video features, four stages of series with the legacy mask",
    "dust_series_len100_p2": "DUST's series model: patches of two, positions, the legacy mask",
    "dust_video_w244": "DUST's video model under its own names, padded, pooled features",
    "eca": "efficient channel attention",
    "inflate_bicubic": "an image Swin inflated, tables resized",
    "inflate_same_window": "an image Swin inflated, tables as they are",
    "psr_kcas": "whole densities of key frames",
    "psr_temporal_encoder": "the temporal encoder, pooled both ways",
    "mvit_v2_rect": "MViTv2 under torchvision's names, an oblong picture, strides in time, gradients",
    "slowfast_i3d_a": "I3D under pytorchvideo's names: the pool over time, kernels in turns",
    "slowfast_pysf_a": "SlowFast under its own names, where several positions vote",
    "supcon": "supervised contrastive losses",
    "swin1d_v1_len120_w7": "Swin 1D, norms before, no norm of patches, the legacy mask",
    "swin3d_w233_3stage_nopatchnorm": "Video Swin under its official names, padded, three stages, no norm of patches",
    "timesformer_divst_nobias_gray": "one channel, no biases",
    "timesformer_divst_runtime_frames_4to8": "more frames than the model was built for",
    "timesformer_divst_runtime_img_32to32x48": "an oblong picture for a square model",
    "timesformer_grad_divst": "divided attention and the gradient of every parameter",
    "timesformer_joint_load_img_48to32": "joint attention; loading for another picture size",
    "timesformer_vitimage_to_divst": "loading an image ViT into divided attention (without what keeps its name)",
    "tracks_viewaware_b": "the point track models (case b of tracks_viewaware)",
    "tstl_triplet_a": "TSTL's triplet loss, margin 1.0",
    "tstl_triplet_b": "TSTL's triplet loss, margin 0.3",
    "tv_swin3d_w877_clamp": "torchvision's names; windows larger than the clip (without the tables that are computed)",
    "x3d_pysf_a": "X3D under SlowFast's names, where several positions vote",
    "x3d_train_bn": "X3D under pytorchvideo's names in training: running statistics, gradients",
    "videomae_ft_a": "VideoMAE's classifier",
    "videomae_ft_b": "VideoMAE's classifier with layer scale, tubelets of four",
    "videomae_pretrain_a": "VideoMAE's pre-training: prediction, targets, loss",
    "vjepa2_orig_rect": "V-JEPA 2 and its probe under the authors' names, an oblong picture",
}
#: What lies here only.
OURS = {"numpy1_pickles.json", "segment_metrics.json", "slowfast_keys.json", "slowfast_yamls.json"}
#: {file here that holds a part: the file of ../shared/golden that holds the whole}
PARTS = {
    "timesformer_vitimage_to_divst.safetensors": "timesformer_vitimage_to_divst.safetensors",
    "tracks_viewaware_b.safetensors": "tracks_viewaware.safetensors",
    "tv_swin3d_w877_clamp.safetensors": "tv_swin3d_w877_clamp.safetensors",
}


def test_each_fact_has_its_case():
    assert sorted(path.stem for path in DATA.glob("*.safetensors")) == sorted(HOLDS)
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 17.7e6, "a new case is as small as its fact allows"


@pytest.mark.skipif(not ALL_GOLDEN.is_dir(), reason="needs ../shared/golden")
def test_files_here_are_of_the_whole_set():
    for path in sorted(DATA.iterdir()):
        if path.name in OURS:
            assert not (ALL_GOLDEN / path.name).exists(), path.name
        elif path.name in PARTS:
            whole = load_file(ALL_GOLDEN / PARTS[path.name])
            for key, value in load_file(path).items():
                assert torch.equal(value, whole[key]), (path.name, key)
        elif path.name == "tracks_viewaware_b.json":
            whole = json.loads((ALL_GOLDEN / "tracks_viewaware.json").read_text(encoding="utf-8"))
            whole["cases"] = {"b": whole["cases"]["b"]}
            assert json.loads(path.read_text(encoding="utf-8")) == whole
        else:
            assert path.read_bytes() == (ALL_GOLDEN / path.name).read_bytes(), path.name
