"""Maps: attention by hand is the fused one's, rollout keeps its laws, every classifier has a map or says why not."""

import statistics

import pytest
import torch
import torch.nn.functional as F

from dust.analysis.explain.attention import Attention, KeptAttention, TokenGrid, last_attention, roll_out, step_of
from dust.analysis.explain.maps import make_map
from dust.models import MODEL_REGISTRY
from dust.models.videomae_vit import VideoMAE
from dust.utils.errors import ConfigError
from tests.models.small_models import SMALL

#: How each model of video is mapped; None: it says that it cannot be.
METHODS = {
    "VideoMAE": "attention", "CLIPVisual": "attention", "VJEPA2": "attention", "TimeSformer": "attention",
    "MViT": "attention of the last layer", "SlowFast": "gradcam", "ResNet": "gradcam", "X3D": "gradcam",
    "TorchvisionVideo": "gradcam", "VideoSwin": "gradcam", "ClipMoments": "gradcam",
    "HuggingFaceVideo": None, "CAST": None, "DualSwinFusion": None,
}  # fmt: skip


def small(name, arguments, shapes):
    torch.manual_seed(0)
    model = MODEL_REGISTRY.get(name)(num_classes=5, **arguments).eval()
    inputs = {key: torch.randn(1, *shape[1:]) for key, shape in shapes.items()}
    return model, inputs


def logit(outputs):
    return (outputs["logits"] if isinstance(outputs, dict) else outputs)[0, 2]


def forward(model, inputs):
    return model(**inputs)


@pytest.mark.parametrize(
    ("name", "arguments", "shapes"), [case for case in SMALL if "video" in case[2] and len(case[2]["video"]) == 5]
)
def test_every_model_of_video_has_a_map_or_says_why_not(name, arguments, shapes):
    model, inputs = small(name, arguments, shapes)
    before = model(**inputs)
    wanted = METHODS[name]
    if wanted is None:
        with pytest.raises(ConfigError, match=f"{name} has no map.*occlusion works"):
            make_map(model, inputs, forward, logit)
        return
    found = make_map(model, inputs, forward, logit)
    assert found.method == wanted and found.values.ndim == 3
    assert (found.values >= 0).all() and found.values.isfinite().all()
    assert found.values.max() > 0 or found.values.shape[1:] == (1, 1)  # of one place nothing may speak for it
    after = model(**inputs)
    assert torch.equal(*((one["logits"] if isinstance(one, dict) else one) for one in (before, after)))
    assert all(one.grad is None for one in model.parameters())


@pytest.mark.parametrize("masked", ["", "causal", "bool", "float"])
def test_attention_by_hand_is_the_fused_one(masked):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8) for _ in range(3))
    mask = {"bool": torch.rand(5, 5) > 0.3, "float": torch.randn(5, 5)}.get(masked)
    if masked == "bool":
        mask[:, 0] = True
    options = {"attn_mask": mask, "is_causal": masked == "causal"}
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    with KeptAttention() as kept:
        found = F.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(found, expected)
    assert len(kept.found) == 1 and kept.found[0].mean.shape == (2, 5, 5)
    F.scaled_dot_product_attention(q, k, v)
    assert len(kept.found) == 1, "only while it is open"


@pytest.mark.parametrize(
    ("extra", "shape"),
    [(1, (1, 13, 13)), (0, (1, 12, 12)), (1, (2, 7, 7)), (2, (2, 7, 7)), (0, (2, 6, 6)), (1, (6, 2, 2))],
)
def test_what_a_token_looks_at_sums_to_one(extra, shape):
    grid = TokenGrid(extra, 2, 2, 3)
    step = step_of(torch.rand(shape).softmax(dim=-1), grid, grid.count, alone=1.0)
    torch.testing.assert_close(step.sum(dim=1), torch.ones(grid.count))


def test_divided_attention_by_a_slow_loop():
    """Time, then places: what a patch looks at over both is the product of the two."""
    grid = TokenGrid(1, 2, 2, 3)
    time, place = torch.rand(6, 2, 2).softmax(-1), torch.rand(2, 7, 7).softmax(-1)
    steps = [step_of(one, grid, 13, alone=1.0) for one in (time, place)]
    both = steps[1] @ steps[0]
    for t in range(2):
        for n in range(6):
            for u in range(2):
                for m in range(6):
                    slow = place[t, 1 + n, 1 + m] * time[m, t, u]
                    assert both[1 + 6 * t + n, 1 + 6 * u + m] == pytest.approx(float(slow), abs=1e-6)


def test_windows_are_no_grid():
    grid = TokenGrid(0, 2, 4, 4)
    assert step_of(torch.rand(8, 4, 4), grid, 32, alone=0.0) is None
    assert step_of(torch.rand(2, 16, 4), grid, 32, alone=0.0) is None
    assert last_attention([], grid) is None


def test_queries_that_were_pooled_leave_a_finer_map():
    """MViT's last layer may halve the queries of a side: its keys lie on a grid of twice as many rows and columns."""
    grid = TokenGrid(1, 2, 2, 3)
    kept = Attention(torch.empty(0), weighted=torch.rand(1, 13, 1 + 2 * 4 * 6))
    found = last_attention([kept], grid)
    assert found.shape == (2, 4, 6)
    assert found[1, 2, 3] == pytest.approx(float(kept.weighted[0, :, 1 + 24 + 2 * 6 + 3].sum()))
    assert last_attention([Attention(torch.empty(0), weighted=torch.rand(1, 13, 1 + 2 * 5 * 6))], grid) is None


@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_a_probe_of_a_frozen_backbone(head):
    """Its backbone keeps no gradient in training and for answers, but it does while a video is explained."""
    encoder = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "all_frames": 4}
    arguments = {"backbone": "VideoMAE", "backbone_arguments": {**encoder, "num_classes": 0}, "head": head}
    arguments["head_arguments"] = {"num_heads": 4, "depth": 1} if head == "attentive" else {}
    model, inputs = small("Probe", arguments, {"video": (1, 3, 4, 32, 32)})
    assert model.frozen and not model.forward_features(**inputs).requires_grad
    found = make_map(model, inputs, forward, logit)
    assert found.method == "attention" and found.values.shape == (2, 4, 4) and found.values.max() > 0


def test_a_part_alone_is_refused_by_name():
    model, inputs = small("VideoMAE", {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 4,
                                       "all_frames": 4}, {"video": (1, 3, 4, 32, 32)})  # fmt: skip
    with pytest.raises(ConfigError, match="no map by gradcam"):
        make_map(model, inputs, forward, logit, "gradcam")
    assert make_map(model, inputs, forward, logit, "rollout").method == "rollout"
    with pytest.raises(ConfigError, match="takes no video"):
        make_map(model, {"series": torch.zeros(1, 3, 20)}, forward, logit)


def scenes(count, generator):
    """A square of one of two colours that moves over still noise; where it is at each time, on a grid of 8 x 8."""
    size, frames = 32, 4
    background = torch.rand(count, 1, 1, size, size, generator=generator).expand(-1, 3, frames, -1, -1) * 0.6 - 0.3
    video, where = background.clone(), torch.zeros(count, frames // 2, 8, 8)
    labels = torch.randint(0, 2, (count,), generator=generator)
    for index in range(count):
        x, y = torch.randint(0, 5, (2,), generator=generator).tolist()
        for frame in range(frames):
            left, top = 4 * x, 4 * (y + (frame // 2))
            colour = torch.tensor([1.5, 0.0, -1.5] if labels[index] else [-1.5, 0.0, 1.5])[:, None, None]
            video[index, :, frame, top : top + 8, left : left + 8] = colour
            where[index, frame // 2, top // 4 : top // 4 + 2, left // 4 : left // 4 + 2] = 1
    return video, labels, where > 0


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_trained_models_look_at_what_moves_and_random_ones_do_not(depth):
    """At least three times as much on the mover as on the background, the mean of three trainings (single ones differ
    by a factor of two); of random models less than 1.5, their median (single ones give up to 3)."""
    options = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": depth, "num_heads": 2, "all_frames": 4}
    video, labels, where = scenes(16, torch.Generator().manual_seed(99))

    def trained(seed):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed + 1)
        model = VideoMAE(num_classes=2, **options)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for _ in range(120):
            clips, answers, _ = scenes(16, generator)
            loss = F.cross_entropy(model(clips), answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert (model.eval()(video).argmax(1) == labels).float().mean() > 0.9
        return model

    def ratio(one):
        maps = [
            make_map(one, {"video": clip[None]}, forward, lambda out, label=label: out[0, label]).values
            for clip, label in zip(video, labels, strict=True)
        ]
        values = torch.stack([found / found.mean() for found in maps])
        return float(values[where].mean() / values[~where].mean())

    found = [ratio(trained(seed)) for seed in range(3)]
    assert sum(found) / 3 >= 3, found
    torch.manual_seed(100)
    random = [ratio(VideoMAE(num_classes=2, **options).eval()) for _ in range(24)]
    assert statistics.median(random) < 1.5, random


def test_plain_rollout_sums_to_one():
    model, inputs = small("TimeSformer", {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4,
                                          "num_frames": 4}, {"video": (1, 3, 4, 32, 32)})  # fmt: skip
    with KeptAttention() as kept:
        model(inputs["video"].requires_grad_())[0, 1].backward()
    values = roll_out(kept.found, TokenGrid(1, 4, 4, 4), weighted=False)
    assert 0.3 < float(values.sum()) <= 1 + 1e-5  # the rest is the class token's
