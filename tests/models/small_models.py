"""A small model of every registered class, as many as it has variants, with the shapes of its inputs."""

from importlib.util import find_spec

import torch

from dust.models import MODEL_REGISTRY
from dust.models.mvit import block_table

_VIDEO = {"video": (2, 3, 4, 32, 32)}
_TIMESFORMER = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_frames": 4}
_VIDEO_SWIN = {"embed_dim": 16, "depths": [2, 1, 2], "num_heads": [2, 4, 4], "window_size": [2, 3, 3]}
_SERIES_SWIN = {"embed_dim": 16, "depths": [2, 3], "num_heads": [2, 4], "window_size": 4}
_FUSED_VIDEO = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": [2, 2, 2]}
_FUSION = {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4}
_FUSION |= {"video_feature_dim": 6, "fusion_dim": 8}

_TEMPORAL = {"seq_len": 6, "dim": 16, "depth": 2, "heads": 4, "dim_head": 8, "mlp_dim": 24}
_TRACKS = {"num_views": 2, "num_points": 12, "view_dim": 8}
_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "all_frames": 4}
_VJEPA2 = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "probe_depth": 2, "probe_heads": 4}
_VJEPA21 = {"version": "2.1", "embed_dim": 24, "depth": 12, "num_heads": 2, "probe_depth": 1, "probe_heads": 2}
_CLIP = {"input_resolution": 32, "patch_size": 8, "width": 48, "layers": 2, "heads": 4}
_RESNET = {"stage_depths": (1, 1, 1, 1), "width": 8, "img_size": 32, "dropout_rate": 0.0}
_RESNET |= {"num_block_temp_kernel": [[9, 9]] * 4, "zero_init_final_bn": False}
_X3D = {"width_factor": 0.5, "depth_factor": 1.0, "dim_c5": 64, "num_frames": 4, "img_size": 32, "dropout_rate": 0.0}
_MVIT = block_table(
    depth=3, embed_dim=8, num_heads=1, dim_mul=[[1, 2]], head_mul=[[1, 2]], pool_q_stride=[[0, 1, 1, 1], [1, 1, 2, 2]],
    pool_kv_stride_adaptive=[1, 2, 2], pool_kvq_kernel=[3, 3, 3], dim_mul_in_att=True,
)  # fmt: skip
_MVIT = {"blocks": _MVIT, "img_size": 32, "num_frames": 4, "dropout_rate": 0.0}
# name: (arguments for a small one, shapes of its inputs), as many as a model has variants
SMALL = [
    ("VideoMAE", {**_VIT, "init_scale": 1.0}, _VIDEO),
    ("VideoMAE", {**_VIT, "init_scale": 1.0, "init_values": 0.1, "tubelet_size": 4, "use_mean_pooling": False}, _VIDEO),
    ("CLIPVisual", {**_CLIP, "output_dim": 20}, _VIDEO),
    ("CLIPVisual", {**_CLIP, "output_dim": 0}, {"video": (2, 3, 32, 32)}),
    ("VJEPA2", _VJEPA2, _VIDEO),
    ("VJEPA2", {**_VJEPA21, "num_clips": 2, "mlp_ratio": 1.0}, _VIDEO),
    ("SlowFast", {**_RESNET, "alpha": 2, "beta_inv": 2, "num_frames": 4, "fusion_ratio": 1}, _VIDEO),
    ("ResNet", {**_RESNET, "arch": "i3d", "num_frames": 4}, _VIDEO),
    ("X3D", _X3D, _VIDEO),
    ("ClipMoments", {"width": 4, "grid": 2, "drop_rate": 0.0}, _VIDEO),
    ("TorchvisionVideo", {"arch": "s3d"}, {"video": (2, 3, 8, 32, 32)}),
    ("MViT", _MVIT, _VIDEO),
    ("MViT", {**_MVIT, "cls_embed_on": False, "use_abs_pos": True, "residual_pooling": False}, _VIDEO),
    ("CAST", _VIT, _VIDEO),
    ("TimeSformer", {**_TIMESFORMER, "attention_type": "divided_space_time"}, _VIDEO),
    ("TimeSformer", {**_TIMESFORMER, "attention_type": "joint_space_time"}, _VIDEO),
    ("TimeSformer", {**_TIMESFORMER, "attention_type": "space_only"}, _VIDEO),
    ("VideoSwin", _VIDEO_SWIN, _VIDEO),
    ("SeriesSwin", _SERIES_SWIN, {"series": (2, 3, 20)}),
    ("SeriesSwin", {**_SERIES_SWIN, "attention": "cosine", "seq_len": 20, "ape": True}, {"series": (2, 3, 20)}),
    ("SeriesSwin", {**_SERIES_SWIN, "norm": "pre", "mask": "legacy", "patch_size": 3}, {"series": (2, 3, 29)}),
    ("SeriesRocket", {"seq_len": 20, "num_features": 400}, {"series": (2, 3, 20)}),
    ("DualSwinFusion", {**_FUSION, "mode": "concat"}, {"series": (2, 3, 20), "video_features": (2, 6)}),
    ("DualSwinFusion", {**_FUSION, "mode": "gated"}, {"series": (2, 3, 20), "video_features": (2, 6)}),
    ("DualSwinFusion", {**_FUSION, "mode": "cross_attention"}, {"series": (2, 3, 20), "video_features": (2, 5, 6)}),
    ("DualSwinFusion", {**_FUSION, "video": _FUSED_VIDEO}, {"series": (2, 3, 20), "video": (2, 3, 4, 32, 32)}),
    ("TemporalEncoder", {**_TEMPORAL, "pool": "cls"}, {"embeddings": (2, 6, 16)}),
    ("TemporalEncoder", {**_TEMPORAL, "pool": "mean"}, {"embeddings": (2, 6, 16)}),
    ("PointTrackTransformer", {**_TRACKS, "embed_dim": 16, "heads": 2}, {"tracks": (2, 2, 4, 12, 2)}),
    ("PointTrackLSTM", {**_TRACKS, "hidden_dim": 16}, {"tracks": (2, 2, 4, 12, 2)}),
]
FRAMES = {"arch": "test_vit", "img_size": 32, "embed_dim": 16}
_PRETRAIN = {
    "img_size": 32, "patch_size": 8, "num_frames": 4, "encoder_embed_dim": 48, "encoder_depth": 2,
    "encoder_num_heads": 4, "decoder_embed_dim": 24, "decoder_depth": 1, "decoder_num_heads": 3, "mask_ratio": 0.75,
}  # fmt: skip
_TSTL = {"groups": ((4, 0), (1, 2), (3,)), "img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2,
         "num_heads": 2, "all_frames": 4}  # fmt: skip
_PROBE = {"backbone": "VJEPA2", "backbone_arguments": {**_VJEPA2, "num_classes": 0}, "num_classes": 5}
_HEAD = {"num_heads": 4, "depth": 2}
_WINDOWS = {"seq_len": 4, "depth": 2, "heads": 2, "dim_head": 8, "mlp_dim": 24}
_TEXT = {"vocab_size": 49408, "context_length": 12, "width": 16, "layers": 2, "heads": 2, "output_dim": 20}
ZERO_SHOT = {"visual": {**_CLIP, "output_dim": 20}, "text": _TEXT, "prompts": ["a video of {}.", "{}!"]}
#: Those whose answer is not (B, num_classes), CLIPZeroShot, which has the classes that it is told, and models that have
#: a forward pass and no more: what is asked of classifiers (features, a new head, layers) is not asked of them.
OTHERS = [
    ("VideoMAEPretrain", _PRETRAIN, _VIDEO),
    ("KeyStepFrameEncoder", {**FRAMES, "proj_dim": 8, "num_classes": 5}, {"video": (4, 3, 1, 32, 32)}),
    ("KeyStepFrameEncoder", {**FRAMES, "arch": "test_resnet", "proj_dim": 0}, {"video": (4, 3, 1, 32, 32)}),
    ("KeyStepVideo", {"frames": FRAMES, "temporal": _WINDOWS, "num_classes": 5}, _VIDEO),
    ("Probe", {**_PROBE, "head_arguments": _HEAD}, _VIDEO),
    ("Probe", {**_PROBE, "head": "linear", "grid": [(0.1, 0.0), (1.0, 0.1)], "unfreeze_blocks": 1}, _VIDEO),
    ("Probe", {**_PROBE, "head": "linear", "pooling": {"kind": "queries", "num_queries": 3}, "lora_rank": 2}, _VIDEO),
    ("TSTL", _TSTL, {"video": (3, 3, 4, 16, 16)}),
    ("CLIPZeroShot", ZERO_SHOT, _VIDEO),
]

#: Models that need a library of an extra; without it nothing is asked of them.
OPTIONAL = {"HuggingFaceVideo": "transformers"}
VIVIT = {
    "arch": "vivit", "img_size": 32, "num_frames": 4,
    "options": {"tubelet_size": [2, 8, 8], "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                "intermediate_size": 32},
}  # fmt: skip
SMALL += [("HuggingFaceVideo", VIVIT, _VIDEO)] if find_spec("transformers") else []


def make(name, arguments, **more):
    """One of 5 classes in which everything counts: parameters that start at zero too."""
    torch.manual_seed(0)
    classes = {"num_classes": 5} if any(name == one for one, *_ in SMALL) else {}
    model = MODEL_REGISTRY.get(name)(**{**classes, **arguments, **more})
    with torch.no_grad():
        if name == "KeyStepFrameEncoder":  # timm's versions draw in another order: here are the same weights for all
            torch.manual_seed(0)
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    if name == "CLIPZeroShot":  # as set_class_names leaves it; making tokens needs an extra
        model.class_embeddings = torch.nn.functional.normalize(torch.randn(5, model.num_features), dim=-1)
    return model


def inputs_of(shapes):
    """The same noise every time."""
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
