"""TSTL against its parts run one clip at a time; votes by hand; what it costs; parts that do not belong together."""

import pytest
import torch

from dust.models import tstl
from dust.models.cast import CAST
from dust.models.cast_weights import trained_names
from dust.models.tstl import TSTL, vote
from dust.utils.checkpoint import save_checkpoint
from dust.utils.errors import CheckpointError, ConfigError, DustError
from dust.utils.flops import flop_counter
from tests.models.test_cast import experts as expert_models

GROUPS = ((4, 0), (1, 2), (3, 5, 6))
SIZES = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "all_frames": 4}
INF = float("inf")


def tiny(**arguments):
    """A TSTL whose selector and experts all say something of their own."""
    torch.manual_seed(0)
    model = TSTL(**{"groups": GROUPS, **SIZES, **arguments}).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        model.selector.head.bias -= model.selector(video_of(16)).mean(dim=0)  # so that every group is chosen
    return model


def video_of(clips, seed=2):
    return torch.randn((clips, 3, 4, 16, 16), generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------------- routing


@pytest.mark.parametrize("expert_classes", ["group", "all"])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_batches_are_what_single_clips_are(top_k, expert_classes):
    model, video = tiny(top_k=top_k, expert_classes=expert_classes), video_of(7)
    with torch.no_grad():
        outputs = model(video)
        for i, clip in enumerate(video.split(1)):
            scores = model.selector(clip)[0]
            chosen = sorted(range(3), key=lambda g: -float(scores[g]))[:top_k]
            assert outputs["routes"][i].tolist() == chosen
            said = torch.full((top_k, 7), -INF)
            for place, g in enumerate(chosen):
                answer = model.experts[g](clip)[0]
                for n, logit in enumerate(answer):
                    said[place, GROUPS[g][n] if expert_classes == "group" else n] = logit
            torch.testing.assert_close(outputs["logits"][i], said.amax(0), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(outputs["selector"][i], scores, atol=1e-5, rtol=1e-5)
    assert outputs["forwards"].tolist() == [1.0 + top_k] * 7
    assert len({tuple(route) for route in outputs["routes"].tolist()}) > 1, "the case must route differently"


def test_classes_outside_a_group_can_be_masked():
    video = video_of(5)
    open_, masked = (tiny(expert_classes="all", mask_outside=flag) for flag in (False, True))
    with torch.no_grad():
        outputs, other = masked(video), open_(video)
    for logits, free, (route,) in zip(outputs["logits"], other["logits"], outputs["routes"].tolist(), strict=True):
        inside = sorted(GROUPS[route])
        assert logits.isfinite().nonzero().squeeze(1).tolist() == inside and free.isfinite().all()
        assert torch.equal(logits[inside], free[inside])


def test_the_oracle_is_the_clips_own_expert_and_changes_no_vote():
    model, video = tiny(), video_of(6)
    group = torch.tensor([0, 1, 2, -1, 2, 0])
    with torch.no_grad():
        outputs, without = model(video, group), model(video)
        for name, value in without.items():
            torch.testing.assert_close(outputs[name], value, atol=1e-5, rtol=1e-5)
        for i, g in enumerate(group.tolist()):
            if g < 0:
                assert outputs["oracle"][i].isneginf().all()
            else:
                torch.testing.assert_close(
                    outputs["oracle"][i], model.expert_logits(g, video[i : i + 1])[0], atol=1e-5, rtol=1e-5
                )
    assert set(outputs) - set(without) == {"oracle"}


def test_each_expert_runs_once_on_all_of_its_clips(monkeypatch):
    model, video = tiny(top_k=2), video_of(8)
    sizes = []
    forward = CAST.forward
    monkeypatch.setattr(CAST, "forward", lambda self, clips: (sizes.append(len(clips)), forward(self, clips))[1])
    with torch.no_grad():
        routes = model(video)["routes"]
        counts = [int((routes == g).sum()) for g in range(3)]
        assert sizes == [8, *(count for count in counts if count)]
        sizes.clear()
        model(video, torch.zeros(8, dtype=torch.int64))
        assert sizes == [8, 8, *(count for count in counts[1:] if count)]
        assert model(video[:0])["logits"].shape == (0, 7)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # CPUs alone: no CPU takes this way
@pytest.mark.parametrize("expert_classes", ["group", "all"])
@pytest.mark.parametrize(("top_k", "at_once"), [(1, 16), (2, 3), (3, 16)])
def test_all_experts_in_one_batch_say_what_each_says(monkeypatch, top_k, at_once, expert_classes):
    model, video = tiny(top_k=top_k, expert_classes=expert_classes, mask_outside=True), video_of(7)
    group = torch.tensor([0, 1, 2, -1, 2, 0, 1])
    with torch.no_grad():
        expected = [model(video), model(video, group)]
    monkeypatch.setattr(tstl, "as_one_batch", lambda video: not torch.is_grad_enabled())
    monkeypatch.setattr(tstl, "PAIRS_AT_ONCE", at_once)
    passes = []
    model.experts[0].blocks[0].attn.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        found = [model(video), model(video, group), model(video[:0])]
    for ours, theirs in zip(found, expected, strict=False):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-5)
    assert found[2]["logits"].shape == (0, 7)
    own = (expected[1]["routes"] == group[:, None]).any(1) | (group < 0)
    pairs = [7 * top_k, 7 * top_k + int((~own).sum())]
    # the frozen blocks are the same modules in selector and experts: the selector's three passes, and ours
    assert len(passes) == 3 + sum(-(-count // at_once) for count in pairs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_asks_all_experts_in_one_batch():
    model, video, group = tiny(top_k=2), video_of(7), torch.tensor([0, 1, 2, -1, 2, 0, 1])
    with torch.no_grad():
        expected = model(video, group)
        found = model.cuda()(video.cuda(), group.cuda())
        for name, value in expected.items():
            torch.testing.assert_close(found[name].cpu(), value, atol=1e-3, rtol=1e-3)
        with torch.autocast("cuda", torch.bfloat16):
            half = model(video.cuda(), group.cuda())
    assert half["logits"].isfinite().any() and not half["logits"].isnan().any()


def test_gradients_reach_the_selected_expert():
    model = tiny().train()
    outputs = model(video_of(4))
    outputs["logits"].masked_fill(outputs["logits"].isinf(), 0).square().sum().backward()
    used = set(outputs["routes"].flatten().tolist())
    for index, expert in enumerate(model.experts):
        assert (expert.head.weight.grad is not None) == (index in used)
    assert model.selector.blocks[0].attn.qkv.weight.grad is None


# ------------------------------------------------------------------------------------------------------------- votes


def scores_of(said, selector, method):
    said, selector = torch.tensor(said)[None], torch.tensor(selector)
    chosen, order = selector.sort(descending=True)
    assert order.tolist() == list(range(len(selector)))
    k = said.shape[1]
    return vote(said, chosen[None, :k], selector.logsumexp(0)[None], method)[0].tolist()


def test_maxlogit():
    assert scores_of([[1.0, -2.0, -INF], [0.5, -1.0, -INF]], [2.0, 1.0, 0.0], "maxlogit") == [1.0, -1.0, -INF]


def test_selector_weighted_takes_the_selectors_probability_over_all_groups():
    selector = torch.tensor([2.0, 1.0, 0.0])
    p = selector.softmax(0)
    scores = scores_of([[1.0, -2.0, -INF], [3.0, 4.0, -INF]], selector.tolist(), "selector_weighted")
    assert scores == pytest.approx([max(p[0] * 1, p[1] * 3).item(), (p[1] * 4).item(), -INF])
    sure = scores_of([[1.0, -INF], [-INF, 5.0]], [300.0, 0.0], "selector_weighted")  # 0 times -inf is not NaN
    assert sure == [1.0, 0.0]


def test_majority_and_ties():
    said = [[0.0, 9.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    assert max(range(4), key=scores_of(said, [3.0, 2.0, 1.0], "majority").__getitem__) == 2
    tied = scores_of(said[:2], [3.0, 2.9999999, 1.0], "majority")  # one vote each
    assert tied[1] > tied[2] > tied[0] == tied[3] == 0
    for order in ((0, 1, 2, 2, 1), (3, 1, 1, 3, 0)):  # two classes with two votes each: the earlier voter's
        rows = [[5.0 if n == c else 0.0 for n in range(4)] for c in order]
        best = max(c for c in (order.count(x) for x in order))
        winner = next(c for c in order if order.count(c) == best)
        scores = scores_of(rows, [5.0, 4.0, 3.0, 2.0, 1.0], "majority")
        assert max(range(4), key=scores.__getitem__) == winner
    with pytest.raises(ValueError, match="maxlogit, selector_weighted, majority"):
        scores_of(said, [3.0, 2.0, 1.0], "mean")


# -------------------------------------------------------------------------------------------------------------- cost


def test_one_trunk_in_memory():
    model = tiny()
    trained = set(trained_names(model.selector))
    for expert in model.experts:
        for name, parameter in expert.named_parameters():
            shared = parameter is model.selector.get_parameter(name)
            assert shared == (name not in trained), name
        assert expert.positions.table is model.selector.positions.table
    heads = sum(p.numel() for e in (model.selector, *model.experts) for p in e.head.parameters())
    body = sum(model.selector.get_parameter(name).numel() for name in trained if not name.startswith("head."))
    trunk = sum(p.numel() for name, p in model.selector.named_parameters() if name not in trained)
    assert sum(p.numel() for p in model.parameters()) == trunk + 4 * body + heads


def held(model):
    """Bytes of memory behind a model's parameters and buffers, each piece counted once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("expert_classes", ["group", "all"])
def test_memory_is_that_of_one_trunk_and_of_what_is_trained(expert_classes):
    sizes = {**SIZES, "embed_dim": 64, "depth": 3}
    groups = [range(g, 80, 5) for g in range(5)]
    one = CAST(**sizes, num_classes=80)
    trained = sum(one.get_parameter(name).nbytes for name in trained_names(one))
    model = TSTL(groups=groups, expert_classes=expert_classes, **sizes).eval()
    with torch.no_grad():
        model(video_of(6))
    assert held(model) <= held(one) - trained + 6 * trained
    # no more than that: each part in one piece, and all of them different
    parts = [model.selector, *model.experts]
    own = {part.blocks[2].S_Adapter.D_fc1.weight.untyped_storage().data_ptr() for part in parts}
    assert len(own) == 6 and held(model.experts[1]) <= held(one)


def test_size_of_the_published_model():
    with torch.device("meta"):
        model = TSTL(groups=[range(g, 174, 15) for g in range(15)], expert_classes="all")
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx((172_023_552 + 16 * 45_205_038 - (174 - 15) * 769) / 1e6)


def test_gflops_count_multiplications_and_additions():
    model = tiny()
    with flop_counter() as counter:  # real tensors, and fused attention where there is a kernel
        model.selector(video_of(3))
    assert model.gflops() == counter.get_total_flops() / 3 / 1e9
    assert model.gflops() == 866_448 / 1e9  # on every version of torch
    assert model.selector.clip_conv1.weight.device.type == "cpu"


# ------------------------------------------------------------------------------------------------- put together


@pytest.fixture
def stages(tmp_path):
    """Checkpoints of a selector and of three experts, which hold what is trained, and the two files of their trunk."""
    clip, videomae = expert_models(**SIZES)
    paths = {}
    for part, expert in (("spatial", clip), ("temporal", videomae)):
        paths[part] = tmp_path / f"{part}.pyth"
        save_checkpoint(paths[part], {"model_state": expert.state_dict()})
    wholes = {}
    for number, (part, classes) in enumerate(
        [("selector", 3), *((f"experts.{g}", len(c)) for g, c in enumerate(GROUPS))]
    ):
        torch.manual_seed(number)
        model = CAST(**SIZES, num_classes=classes, init_from={"spatial": ("", ""), "temporal": ("", "")}).eval()
        model.load_parts({key: paths[key] for key in ("spatial", "temporal")})
        with torch.no_grad():
            for name in trained_names(model):
                model.get_parameter(name).add_(0.1 * torch.randn(model.get_parameter(name).shape))
        paths[part] = tmp_path / f"{part}.pyth"
        save_checkpoint(paths[part], {"model_state": model.partial_state_dict()})
        wholes[part] = model
    return paths, wholes


def same(model, wholes, clips):
    with torch.no_grad():
        outputs = model(clips)
        torch.testing.assert_close(outputs["selector"], wholes["selector"](clips), atol=1e-5, rtol=1e-5)
        for g in range(3):
            own = model.expert_logits(g, clips)[:, list(GROUPS[g])]
            torch.testing.assert_close(own, wholes[f"experts.{g}"](clips), atol=1e-5, rtol=1e-5)


def test_from_files_of_what_was_trained(stages):
    paths, wholes = stages
    model = TSTL(groups=GROUPS, **SIZES).eval()
    before = held(model)
    model.load_parts(paths)
    same(model, wholes, video_of(4))
    assert held(model) == before
    assert model.selector.patch_embed is model.experts[0].patch_embed  # a part that is all trunk is there once


def test_from_whole_checkpoints_without_files_of_the_trunk(stages, tmp_path):
    _, wholes = stages
    paths = {}
    for part, whole in wholes.items():
        paths[part] = tmp_path / f"whole_{part}.pyth"
        torch.save({"module": {f"module.{key}": value for key, value in whole.state_dict().items()}}, paths[part])
    model = TSTL(groups=GROUPS, **SIZES).eval()
    model.load_parts(paths)
    same(model, wholes, video_of(4))


def test_everything_that_does_not_belong_together_is_named(stages, tmp_path):
    paths, wholes = stages
    other = tiny().experts[0]
    save_checkpoint(tmp_path / "other.pyth", {"model_state": other.state_dict()})
    wide = {**wholes["experts.1"].partial_state_dict(), "head.bias": torch.zeros(9)}
    save_checkpoint(tmp_path / "wide.pyth", {"model_state": wide})
    wrong = {**paths, "experts.0": tmp_path / "other.pyth", "experts.1": tmp_path / "wide.pyth"}
    wrong["experts.2"] = tmp_path / "none.pyth"
    with pytest.raises(CheckpointError) as error:
        TSTL(groups=GROUPS, **SIZES).load_parts(wrong)
    said = str(error.value)
    assert "experts.0" in said and "other.pyth was trained on another trunk" in said
    assert "experts.1" in said and "head.bias is (9,), in the model (2,)" in said
    assert "experts.2" in said and "none.pyth" in said
    with pytest.raises(CheckpointError, match="experts.1: no file is named for it"):
        TSTL(groups=GROUPS, **SIZES).load_parts({key: path for key, path in paths.items() if key != "experts.1"})
    without = {key: path for key, path in paths.items() if key not in ("spatial", "temporal")}
    with pytest.raises(CheckpointError) as error:  # a selector that is not there is one problem, not one per expert
        TSTL(groups=GROUPS, **SIZES).load_parts({**without, "selector": tmp_path / "none.pyth"})
    assert "none.pyth" in str(error.value) and "another trunk" not in str(error.value)


def test_the_trunk_is_needed(stages):
    paths, _ = stages
    alone = {key: path for key, path in paths.items() if key not in ("spatial", "temporal")}
    with pytest.raises(CheckpointError, match="(?s)selector.pyth does not give CAST's experts.*only what was trained"):
        TSTL(groups=GROUPS, **SIZES).load_parts(alone)


def test_from_config(tmp_path):
    from dust.config import get_cfg
    from dust.utils.tstl_grouping import Grouping, write_grouping

    write_grouping(tmp_path / "g.json", Grouping(GROUPS))
    cfg = get_cfg()
    cfg.MODEL.NUM_CLASSES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.NUM_FRAMES = 7, 16, 4
    node = cfg.CAST
    node.PATCH_SIZE, node.EMBED_DIM, node.DEPTH, node.NUM_HEADS, node.TRUNK_FROM = 8, 24, 2, 2, "selector"
    tstl = cfg.TSTL
    tstl.GROUPING, tstl.TOP_K, tstl.VOTE = str(tmp_path / "g.json"), 2, "majority"
    tstl.SELECTOR_FROM, tstl.EXPERTS_FROM = "tstl_selector", "tstl_experts"
    model = TSTL(**TSTL.from_config(cfg))
    assert (model.num_classes, model.top_k, model.vote) == (7, 2, "majority") and len(model.experts) == 3
    assert model.init_from == {
        "trunk": ("CAST.TRUNK_FROM", "selector"),
        "selector": ("TSTL.SELECTOR_FROM", "tstl_selector"),
        **{f"experts.{g}": ("TSTL.EXPERTS_FROM", f"tstl_experts/experts/group_{g}") for g in range(3)},
    }
    tstl.EXPERTS_FROM = "expert_models/expert-{group}.pth"
    assert TSTL(**TSTL.from_config(cfg)).init_from["experts.2"] == ("TSTL.EXPERTS_FROM", "expert_models/expert-2.pth")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"groups": ((0, 1), (1, 3))}, "classes in no group: 2; classes in more than one place: 1"),
        ({"num_classes": 9}, "classes in no group: 7, 8"),
        ({"top_k": 4, "vote": "mean"}, "vote is 'mean'.*top_k is 4, it must be from 1 to 3"),
        ({"expert_classes": "own", "composition": True}, "expert_classes is 'own'.*composition is True"),
        ({"depth": 0}, "CAST: depth is 0"),
    ],
)
def test_impossible_arguments(arguments, words):
    with pytest.raises(ConfigError, match=words):
        tiny(**arguments)


def test_impossible_groups_of_clips():
    model = tiny()
    for group in (torch.zeros(3, dtype=torch.int64), torch.tensor([0, 3])):
        with pytest.raises(DustError, match=r"must be \(2,\), numbers below 3"):
            model(video_of(2), group)
