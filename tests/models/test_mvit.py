"""MViT v1 and v2 against torchvision's and SlowFast's numbers (mvit_*), and by laws."""

import pytest
import torch
import torchvision

from dust.config import get_cfg, load_config, with_values
from dust.models import build_model
from dust.models.layers.pooling_attention import relative_rows
from dust.models.mvit import MViT, MViTBlockSpec, block_table
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError, DustError
from tests.helpers import golden_tensors, randomised
from tests.models.test_slowfast import check_exactly, check_gradients, close, loaded

TINY = {"depth": 2, "embed_dim": 8, "num_heads": 1, "dim_mul": [[1, 2.0]], "head_mul": [[1, 2.0]]}
TINY |= {"pool_q_stride": [[0, 1, 1, 1], [1, 1, 2, 2]], "pool_kv_stride_adaptive": [1, 2, 2]}
V2 = block_table(**TINY, pool_kvq_kernel=[3, 3, 3], dim_mul_in_att=True)


def of_torchvision(args):
    """The arguments of its MViT, as ours."""
    names = ("num_heads", "kernel_q", "kernel_kv", "stride_q", "stride_kv")
    blocks = [
        MViTBlockSpec(
            dim_in=one["input_channels"], dim_out=one["output_channels"], **{name: one[name] for name in names}
        )
        for one in args["block_setting"]
    ]
    relative = args["rel_pos_embed"]
    return {
        "blocks": blocks, "img_size": tuple(args["spatial_size"]), "num_frames": args["temporal_size"],
        "num_classes": args["num_classes"], "dim_mul_in_att": args["proj_after_attn"],
        "residual_pooling": args["residual_pool"], "rel_pos_spatial": relative, "rel_pos_temporal": relative,
        "use_abs_pos": not relative,
    }  # fmt: skip


def of_slowfast(args, crop):
    """The arguments of SlowFast's own configuration, by its keys alone, for another crop."""
    theirs = {key.replace("__", "."): value for key, value in args["cfg"].items()}
    known = get_cfg()
    known = with_values(known, {key: theirs[key] for key in theirs if key.split(".")[0] in known})
    return MViT.from_config(with_values(known, {"DATA.TRAIN_CROP_SIZE": crop}))


@pytest.mark.parametrize("case", ["mvit_v2_a", "mvit_v1_a", "mvit_v2_rect"])
def test_golden_of_torchvision(case):
    facts, tensors = golden_tensors(case)
    model = loaded(MViT(**of_torchvision(facts["args"])), tensors).eval()
    tokens = model.forward_features(tensors["input"])
    close(tokens, tensors["output.last_block"])
    close(model.forward_head(tokens, pre_logits=True), tensors["output.features"])
    logits = model(tensors["input"])
    close(logits, tensors["output.logits"])
    if "gradient" in facts:
        check_gradients(model, logits, facts, tensors)
    check_exactly(model.double(), tensors["input"].double(), tensors["output64.logits"])


@pytest.mark.parametrize(("given", "wanted"), [("input", "logits"), ("input_other_crop", "logits_other_crop")])
def test_golden_of_slowfasts_own_code(given, wanted):
    facts, tensors = golden_tensors("mvit_v2_pysf_a")
    video = tensors[given]
    model = loaded(MViT(**of_slowfast(facts["args"], video.shape[-1])), tensors).eval()
    close(model(video), tensors[f"output.{wanted}"])


S = {"depth": 16, "embed_dim": 96, "num_heads": 1, "pool_kv_stride_adaptive": [1, 8, 8], "pool_kvq_kernel": [3, 3, 3]}
S |= {"dim_mul": [[1, 2], [3, 2], [14, 2]], "head_mul": [[1, 2], [3, 2], [14, 2]]}
S_Q = [[block, 1, 2, 2] if block in (1, 3, 14) else [block, 1, 1, 1] for block in range(16)]
B = {**S, "depth": 24, "dim_mul": [[2, 2], [5, 2], [21, 2]], "head_mul": [[2, 2], [5, 2], [21, 2]]}
B_Q = [[block, 1, 2, 2] if block in (2, 5, 21) else [block, 1, 1, 1] for block in range(24)]


@pytest.mark.parametrize(
    ("table", "frames", "parameters"),
    [({**S, "pool_q_stride": S_Q}, 16, 34_537_744), ({**B, "pool_q_stride": B_Q}, 32, 51_230_128)],
)
def test_published_sizes_of_v2(table, frames, parameters):
    with torch.device("meta"):
        model = MViT(blocks=block_table(**table, dim_mul_in_att=True), num_frames=frames)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_published_size_of_v1():
    strides = [[block, 1, 2, 2] for block in (1, 3, 14)]
    with torch.device("meta"):
        blocks = block_table(**S, pool_q_stride=strides)
        plain = {"residual_pooling": False, "rel_pos_spatial": False, "rel_pos_temporal": False, "use_abs_pos": True}
        model = MViT(blocks=blocks, dim_mul_in_att=False, **plain)
    assert sum(parameter.numel() for parameter in model.parameters()) == 36_610_672


def test_torchvisions_file_fits_the_published_recipe():
    """As the YAML has it: every tensor, and none is left over."""
    model = build_model(load_config("configs/Kinetics/MVITv2_S_16x4.yaml"))
    with torch.device("meta"):
        theirs = torchvision.models.video.mvit_v2_s().state_dict()
    adapted = model.adapt_state_dict({key: torch.empty(value.shape) for key, value in theirs.items()}, [])
    own = model.state_dict()
    assert {key: value.shape for key, value in adapted.items()} == {key: value.shape for key, value in own.items()}


# --------------------------------------------------------------------------------------------------- laws


def test_relative_rows_by_a_slow_loop():
    """Places on two grids over the same extent: where one is finer, the other's steps are longer."""
    torch.manual_seed(0)
    for queries, keys in ((4, 4), (2, 4), (4, 2), (1, 3)):
        table = torch.randn(2 * max(queries, keys) - 1, 3)
        rows = relative_rows(table, queries, keys)
        for i in range(queries):
            for j in range(keys):
                fine_q, fine_k = max(keys / queries, 1.0), max(queries / keys, 1.0)
                place = int(i * fine_q - j * fine_k + (keys - 1) * fine_k)
                assert torch.equal(rows[i, j], table[place])


def test_scores_with_appended_places_are_scores_plus_a_bias():
    """The fused attention against the published formula, with a matrix of biases."""
    torch.manual_seed(0)
    model = randomised(MViT(blocks=V2, img_size=16, num_frames=4, num_classes=3))
    attention, grid = model.blocks[1].attn, (2, 4, 4)
    x = torch.randn(1, 33, 8)
    q, k, v = attention.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    (q, grid_q), (k, grid_k), (v, _) = (
        attention._pool(name, part_, grid) for name, part_ in zip("qkv", (q, k, v), strict=True)
    )
    bias = torch.zeros(1, 2, q.shape[2], k.shape[2])
    for axis, table in enumerate((attention.rel_pos_t, attention.rel_pos_h, attention.rel_pos_w)):
        rows = relative_rows(table, grid_q[axis], grid_k[axis])
        for i in range(q.shape[2] - 1):
            for j in range(k.shape[2] - 1):
                place_q, place_k = (
                    torch.unravel_index(torch.tensor(n), g)[axis] for n, g in ((i, grid_q), (j, grid_k))
                )
                bias[:, :, i + 1, j + 1] += q[:, :, i + 1] @ rows[place_q, place_k]
    weights = (q @ k.transpose(-1, -2) * attention.scale + bias).softmax(dim=-1)
    out = weights @ v
    out[:, :, 1:] += q[:, :, 1:]
    torch.testing.assert_close(
        attention(x, grid)[0], attention.proj(out.transpose(1, 2).flatten(2)), atol=1e-5, rtol=1e-4
    )


def test_more_frames_and_larger_pictures_than_it_was_built_for():
    model = randomised(MViT(blocks=V2, img_size=16, num_frames=4, num_classes=3, use_abs_pos=True))
    assert model(torch.randn(1, 3, 8, 24, 32)).shape == (1, 3)
    joint = randomised(MViT(blocks=V2, img_size=16, num_frames=4, num_classes=3, use_abs_pos=True, sep_pos_embed=False))
    with pytest.raises(DustError, match=r"one joint table of positions was built for a grid of \(2, 4, 4\)"):
        joint(torch.randn(1, 3, 8, 16, 16))


def test_decay_of_tables_is_a_choice():
    model = MViT(blocks=V2, img_size=16, num_frames=4)
    assert "cls_token" in model.no_weight_decay() and "blocks.0.attn.rel_pos_t" in model.no_weight_decay()
    assert MViT(blocks=V2, img_size=16, num_frames=4, zero_decay_pos_cls=False).no_weight_decay() == set()
    zero = MViT(blocks=V2, img_size=16, num_frames=4, rel_pos_zero_init=True)
    assert not any(value.any() for name, value in zero.named_parameters() if ".rel_pos_" in name)


def test_without_a_class_token():
    model = randomised(MViT(blocks=V2, img_size=16, num_frames=4, num_classes=3, cls_embed_on=False))
    tokens = model.forward_features(torch.randn(2, 3, 4, 16, 16))
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), model.norm(tokens).mean(dim=1))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"DATA.NUM_FRAMES": 15}, "DATA.NUM_FRAMES 15: must be a multiple of 2, of MVIT.PATCH_STRIDE"),
        ({"DATA.TRAIN_CROP_SIZE": 222}, "DATA.TRAIN_CROP_SIZE 222: must be a multiple of 4, of MVIT.PATCH_STRIDE"),
        ({"MVIT.REV.ENABLE": True}, "MVIT.REV.ENABLE True: reversible MViT is not in dust; take an MViT"),
        ({"MVIT.MODE": "avg"}, "MVIT.MODE avg: MViT pools by depthwise convolutions only; write conv"),
        ({"MVIT.POOL_FIRST": True}, "MVIT.POOL_FIRST True: MViT pools behind the linear layers only"),
        ({"MVIT.DIM_MUL": [[1, 2, 3]]}, r"MVIT.DIM_MUL \[\[1, 2, 3\]\]: each entry is \[block, factor\]"),
        ({"MVIT.POOL_KVQ_KERNEL": [3]}, r"MVIT.POOL_KVQ_KERNEL \[3\]: give time, height and width, or \[\]"),
        ({"MVIT.POOL_KVQ_KERNEL": [2, 3, 3]}, r"MVIT.POOL_KVQ_KERNEL \[2, 3, 3\]: must be odd"),
        ({"MVIT.POOL_KV_STRIDE_ADAPTIVE": [0, 8, 8]}, "as whole numbers of 1 or more"),
        (
            {"MVIT.PATCH_STRIDE": [2, 0, 4]},
            r"MVIT.PATCH_STRIDE \[2, 0, 4\]: time, height and width are whole numbers of 1",
        ),
        ({"MVIT.PATCH_PADDING": [1, -1, 3]}, r"MVIT.PATCH_PADDING \[1, -1, 3\]: .* of 0 or more"),
        ({"MVIT.DIM_MUL": [[1, "a"]]}, r"each entry is \[block, factor\], a number above 0"),
        ({"MVIT.DIM_MUL": [["a", 2]]}, r"its blocks are of 1 to 16, each once \(MVIT.DEPTH 16\)"),
        ({"MVIT.DIM_MUL": [[0, 2]]}, "of 1 to 16"),
        ({"MVIT.DIM_MUL": [[16, 2]], "MVIT.DIM_MUL_IN_ATT": True}, "of 0 to 15"),
        ({"MVIT.HEAD_MUL": [[1, 0]]}, r"MVIT.HEAD_MUL \[\[1, 0\]\]: each entry is \[block, factor\], a number above 0"),
        ({"MVIT.HEAD_MUL": [[1, 2], [1, 2]]}, "each once"),
        ({"MVIT.POOL_Q_STRIDE": [[1, 1, 0, 2]]}, "MVIT.POOL_Q_STRIDE .*: each entry .*, whole numbers of 1 or more"),
        ({"MVIT.POOL_KV_STRIDE": [[99, 1, 2, 2]]}, "MVIT.POOL_KV_STRIDE .*: its blocks are of 0 to 15"),
        ({"MVIT.POOL_KV_STRIDE": [[0, 1, 8, 8]], "MVIT.POOL_KV_STRIDE_ADAPTIVE": [1, 8, 8]}, "set one of them"),
        ({"MODEL.ARCH": "slow"}, "MODEL.ARCH slow: for MODEL.MODEL_NAME MViT write mvit"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(values, says):
    with pytest.raises(ConfigError, match=says):
        load_config(None, {"MODEL.MODEL_NAME": "MViT", **values})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"blocks": []}, "there are no blocks"),
        ({"patch_stride": (2, 0, 4)}, r"patch_stride \(2, 0, 4\): three whole numbers of 1 or more"),
        ({"patch_padding": (1, 3)}, r"patch_padding \(1, 3\): three whole numbers of 0 or more"),
        ({"patch_kernel": (30, 7, 7)}, r"patch_kernel \(30, 7, 7\), .* leave nothing of 4 x 16 x 16"),
        ({"num_frames": 1}, "leave nothing of 1 x 16 x 16"),
        ({"img_size": 0}, "img_size height is 0"),
        ({"mlp_ratio": 0.01}, "mlp_ratio 0.01 leaves nothing of 8 channels"),
        ({"blocks": [MViTBlockSpec(0, 8, 8)]}, "block 0: num_heads, dim_in and dim_out must be above 0"),
        (
            {"blocks": [MViTBlockSpec(1, 8, 8, (), (2, 2, 2), (), (0, 1, 1))]},
            "block 0: kernel_kv .* whole numbers of 1",
        ),
        ({"blocks": [MViTBlockSpec(1, 8, 8, (3, 3, 3), (), (1, 8, 8), ())]}, r"stride_q \(1, 8, 8\) leaves nothing"),
        (
            {"blocks": [MViTBlockSpec(1, 8, 8, (2, 2, 2), (), (1, 1, 1), ())]},
            r"another grid of \(2, 4, 4\) than the sho",
        ),
    ],
)
def test_arguments_that_cannot_be(arguments, says):
    with pytest.raises(ConfigError, match=says):
        MViT(**{"blocks": V2, "img_size": 16, "num_frames": 4, **arguments})


def test_slowfasts_own_default_padding_makes_a_table_that_fits():
    model = MViT(blocks=V2, img_size=16, num_frames=4, num_classes=3, use_abs_pos=True, sep_pos_embed=False,
                 patch_padding=(2, 4, 4))  # fmt: skip
    assert model(torch.zeros(1, 3, 4, 16, 16)).shape == (1, 3)


def test_blocks_that_do_not_fit_are_all_named():
    blocks = [MViTBlockSpec(3, 8, 8), MViTBlockSpec(1, 16, 16, kernel_q=(3,), stride_q=(1, 1, 1))]
    with pytest.raises(
        ConfigError, match=r"(?s)block 0: dim_in 8 .* num_heads 3.*block 1: kernel_q .* need 3 each.*not dim_out 8"
    ):
        MViT(blocks=blocks)


def test_a_file_of_another_size_is_resampled_and_says_so():
    model, larger = (MViT(blocks=V2, img_size=size, num_frames=4, num_classes=3, use_abs_pos=True) for size in (16, 32))
    report = load_weights(larger, model.state_dict())
    assert report.complete and "blocks.0.attn.rel_pos_h: resampled" in str(report)
    assert "pos_embed_spatial: resampled from (1, 16, 8) to (1, 64, 8)" in str(report)
