"""SlowFast, Slow, C2D and I3D against SlowFast's and pytorchvideo's numbers (slowfast_*), and by laws."""

import pickle

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from dust.config import get_cfg, load_config, with_values
from dust.models import build_model
from dust.models.layers.resnet3d import NonLocal, pool_positions
from dust.models.slowfast import NonLocalSpec, ResNet, SlowFast
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError, DustError
from tests.helpers import golden_tensors, part, randomised

TINY = {"stage_depths": (1, 1, 1, 1), "width": 8, "img_size": 32, "num_classes": 7}
ATTENDING = {"NONLOCAL.LOCATION": [[[]], [[1]], [[]], [[]]]}
EVERY_BLOCK = [[9, 9]] * 4  # pytorchvideo's builders have no NUM_BLOCK_TEMP_KERNEL: all blocks have the stage's kernel


# ------------------------------------------------------------------------------------------- golden numbers


def of_pytorchvideo(args):
    """The arguments of its create_slowfast, as ours."""
    alpha, ratio = args["slowfast_fusion_conv_stride"][0], args["slowfast_channel_reduction_ratio"][0]
    frames, side = args["head_pool_kernel_sizes"][1][:2]
    return {
        "stage_depths": args["stage_depths"], "width": args["stem_dim_outs"][0], "beta_inv": ratio, "alpha": alpha,
        "fusion_ratio": args["slowfast_conv_channel_fusion_ratio"],
        "fusion_kernel": args["slowfast_fusion_conv_kernel_size"][0], "num_frames": frames, "img_size": 32 * side,
        "num_classes": args["model_num_class"], "dropout_rate": args["dropout_rate"],
        "num_block_temp_kernel": EVERY_BLOCK,
    }  # fmt: skip


def one_pathway_of_pytorchvideo(args, arch):
    """The arguments of its create_resnet, as ours."""
    frames = args["head_pool_kernel_size"][0] * (2 if arch in ("i3d", "c2d") else 1)
    return {
        "arch": arch, "stage_depths": args["stage_depths"], "width": args["stem_dim_out"], "num_frames": frames,
        "img_size": 32 * args["head_pool_kernel_size"][1], "num_classes": args["model_num_class"],
        "dropout_rate": args["dropout_rate"], "num_block_temp_kernel": EVERY_BLOCK,
    }  # fmt: skip


def of_slowfast(args):
    """The arguments of SlowFast's own configuration, by its keys alone."""
    theirs = {key.replace("__", "."): value for key, value in args["cfg"].items()}
    known = get_cfg()
    known = with_values(known, {key: value for key, value in theirs.items() if key.split(".")[0] in known})
    return {**SlowFast.from_config(known), "stage_depths": args["stage_depths"]}


def loaded(model, tensors):
    report = load_weights(model, part(tensors, "weight"))
    assert report.complete and not report.unexpected, report
    return model


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def check_exactly(function, inputs, wanted):
    """float64: to 1e-9 of the largest output."""
    with torch.no_grad():
        found = function(inputs)
    assert (found - wanted).abs().max() <= 1e-9 * wanted.abs().max()


def check_gradients(model, logits, facts, tensors):
    nn.functional.cross_entropy(logits, torch.tensor(facts["gradient"]["labels"])).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    wanted = part(tensors, "grad")
    # the file's names are translated beside all the others of the layout, as they tell the stages apart
    whole = {**{key: value.clone() for key, value in part(tensors, "weight").items()}, **wanted}
    ours = {name: value for name, value in model.adapt_state_dict(whole, []).items() if not name.endswith("_tracked")}
    same = [name for name, value in ours.items() if any(value is given for given in wanted.values())]
    assert len(same) == len(wanted)
    for name in same:
        torch.testing.assert_close(found[name], ours[name], atol=1e-4 * float(ours[name].abs().max()), rtol=1e-4)


def check_statistics(model, tensors):
    after = model.adapt_state_dict(part(tensors, "after"), [])
    state = model.state_dict()
    assert after and after.keys() <= state.keys()
    for name, value in after.items():
        torch.testing.assert_close(state[name], value, atol=1e-5, rtol=1e-5)


def pair_of(tensors):
    return [tensors["input_slow"], tensors["input_fast"]]


def test_golden_slowfast():
    facts, tensors = golden_tensors("slowfast_a")
    model = loaded(SlowFast(**of_pytorchvideo(facts["args"])), tensors).eval()
    features = model.forward_features(pair_of(tensors))
    close(features[0], tensors["output.features_slow"])
    close(features[1], tensors["output.features_fast"])
    close(model.forward_head(features, pre_logits=True), tensors["output.pooled"].flatten(1))
    logits = model(pair_of(tensors))
    close(logits, tensors["output.logits"])
    check_gradients(model, logits, facts, tensors)
    check_exactly(model.double(), [x.double() for x in pair_of(tensors)], tensors["output64.logits"])


def test_golden_slowfast_where_several_positions_vote():
    facts, tensors = golden_tensors("slowfast_fullconv")
    model = loaded(SlowFast(**of_pytorchvideo(facts["args"])), tensors).eval()
    close(model(pair_of(tensors)).softmax(dim=-1), tensors["output.logits"])
    probabilities = model.double()([x.double() for x in pair_of(tensors)]).softmax(dim=-1)
    check_exactly(lambda x: x, probabilities, tensors["output64.logits"])


def test_golden_slowfast_in_training():
    facts, tensors = golden_tensors("slowfast_train_bn")
    model = loaded(SlowFast(**of_pytorchvideo(facts["args"])), tensors).train()
    logits = model(pair_of(tensors))
    close(logits, tensors["output.logits"])
    check_statistics(model, tensors)
    check_gradients(model, logits, facts, tensors)


@pytest.mark.parametrize(("case", "arch"), [("slowfast_slowonly_a", "slow"), ("slowfast_i3d_a", "i3d")])
def test_golden_of_one_pathway(case, arch):
    facts, tensors = golden_tensors(case)
    model = loaded(ResNet(**one_pathway_of_pytorchvideo(facts["args"], arch)), tensors).eval()
    close(model.forward_features(tensors["input"]), tensors["output.features"])
    logits = model(tensors["input"])
    close(logits, tensors["output.logits"])
    if "gradient" in facts:
        check_gradients(model, logits, facts, tensors)
    check_exactly(model.double(), tensors["input"].double(), tensors["output64.logits"])


def test_golden_of_slowfasts_own_code():
    facts, tensors = golden_tensors("slowfast_pysf_a")
    model = loaded(SlowFast(**of_slowfast(facts["args"])), tensors).eval()
    close(model(pair_of(tensors)).softmax(dim=-1), tensors["output.probs"])
    probabilities = model.double()([x.double() for x in pair_of(tensors)]).softmax(dim=-1)
    check_exactly(lambda x: x, probabilities, tensors["output64.probs"])


@pytest.mark.parametrize(
    ("model", "arguments", "parameters"),
    [
        (ResNet, {"arch": "slow"}, 32_454_096),
        (ResNet, {"arch": "c2d"}, 24_327_632),
        (ResNet, {"arch": "i3d"}, 28_043_472),
        (SlowFast, {"alpha": 4, "fusion_kernel": 7}, 34_566_488),
        (SlowFast, {"alpha": 8, "fusion_kernel": 5}, 34_480_216),
        (SlowFast, {"stage_depths": (3, 4, 23, 3), "fusion_kernel": 5, "num_block_temp_kernel": [[3], [4], [23], [3]]},
         62_826_968),
        (SlowFast, {"stage_depths": (3, 4, 23, 3), "fusion_kernel": 5, "num_frames": 64}, 53_774_808),
    ],
)  # fmt: skip
def test_published_sizes(model, arguments, parameters):
    table = arguments.get("num_block_temp_kernel")
    if table:
        arguments = {**arguments, "num_block_temp_kernel": [row * 2 for row in table]}
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in model(**arguments).parameters()) == parameters


def test_groups_widen_the_inside_of_blocks_alone():
    """ResNeXt-50 32x4d: a stem of 4 channels as SlowFast has it, 32 groups of 4, 8, 16 and 32 within the stages."""
    values = {"MODEL.MODEL_NAME": "ResNet", "MODEL.ARCH": "slow", "DATA.NUM_FRAMES": 4, "RESNET.NUM_GROUPS": 32}
    with torch.device("meta"):
        model = build_model(load_config(None, {**values, "RESNET.WIDTH_PER_GROUP": 4}))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes["s1.pathway0_stem.conv.weight"] == (4, 3, 1, 7, 7)
    for stage in range(4):
        inner = 128 * 2**stage
        block = f"s{stage + 2}.pathway0_res1.branch2"
        assert shapes[f"{block}.a.weight"][:2] == (inner, 16 * 2**stage)
        assert shapes[f"{block}.b.weight"] == (inner, inner // 32, 1, 3, 3)
        assert shapes[f"{block}.c.weight"][:2] == (16 * 2**stage, inner)
    with torch.device("meta"):
        pair = SlowFast(width=8, beta_inv=4, num_groups=2, alpha=4)
    assert pair.s3["pathway1_res0"].branch2.b.weight.shape[:2] == (2 * 2 * 2, 4)
    assert pair.s3["pathway0_res0"].branch2.b.weight.shape[:2] == (8 * 2 * 2, 16)


# --------------------------------------------------------------------------------------------------- laws


def test_the_slow_pathway_takes_the_published_frames():
    model = SlowFast(**TINY, num_frames=32, alpha=4)
    video = torch.arange(32.0).view(1, 1, 32, 1, 1).expand(2, 3, 32, 8, 8)
    slow, fast = model.pathways_of(video)
    assert slow[0, 0, :, 0, 0].tolist() == [0, 4, 8, 13, 17, 22, 26, 31] and fast is video
    model = randomised(model)
    video = torch.randn(2, 3, 32, 32, 32)
    torch.testing.assert_close(model(video), model(model.pathways_of(video)), atol=0, rtol=0)


def test_positions_vote_by_the_mean_of_their_probabilities():
    model = randomised(ResNet(**TINY, num_frames=2))
    video = torch.randn(2, 3, 2, 64, 32)
    features = model.forward_features(video)
    halves = [model.forward_head(features[:, :, :, row : row + 1]).softmax(dim=-1) for row in range(2)]
    torch.testing.assert_close(model(video).softmax(dim=-1), (halves[0] + halves[1]) / 2, atol=1e-6, rtol=1e-5)
    with pytest.raises(DustError, match="in training a clip leaves one position: crop to DATA.TRAIN_CROP_SIZE"):
        model.train()(video)


def test_checkpointed_activations_count_a_batch_once():
    states = []
    for act_checkpoint in (False, True):
        torch.manual_seed(0)
        model = ResNet(**TINY, num_frames=2, act_checkpoint=act_checkpoint).train()
        model(torch.randn(2, 3, 2, 32, 32, generator=torch.Generator().manual_seed(1))).square().sum().backward()
        states.append(dict(model.named_buffers()))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert states[1]["s2.pathway0_res0.branch2.a_bn.num_batches_tracked"] == 1


def test_a_still_video_is_the_image_that_was_inflated(tmp_path):
    torch.manual_seed(0)
    image = randomised(torchvision.models.resnet50())
    torch.save(image.state_dict(), tmp_path / "resnet50.pth")
    model = ResNet(arch="slow_i3d", num_frames=5, img_size=32, num_classes=3).eval()
    report = load_weights(model, tmp_path / "resnet50.pth")
    assert report.absent_from_body == [] and report.absent == ["head.weight", "head.bias"] and not report.unexpected
    assert "kernels of images inflated over time" in str(report)
    frame = torch.randn(1, 3, 32, 32)
    video = frame.unsqueeze(2).expand(-1, -1, 25, -1, -1)  # its middle does not see the zeros before and behind it
    with torch.no_grad():
        found = model.forward_features(video)[:, :, 12].mean(dim=(2, 3))
        wanted = nn.Sequential(*list(image.children())[:-1])(frame).flatten(1)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_a_non_local_block_by_a_slow_loop():
    torch.manual_seed(0)
    for softmax in (False, True):
        block = randomised(NonLocal(4, 2, pool=(1, 2, 2), softmax=softmax))
        block.bn.running_mean.normal_()
        x = torch.randn(1, 4, 2, 4, 4)
        pooled = nn.functional.max_pool3d(x, (1, 2, 2))
        query, key, value = (
            conv(given)[0].flatten(1)
            for conv, given in ((block.conv_theta, x), (block.conv_phi, pooled), (block.conv_g, pooled))
        )
        out = torch.empty(2, 32)
        for i in range(32):
            scores = torch.stack([query[:, i] @ key[:, j] for j in range(8)])
            weights = (scores / 2**0.5).softmax(0) if softmax else scores / 8
            out[:, i] = (value * weights).sum(dim=1)
        wanted = x + block.bn(block.conv_out(out.view(1, 2, 2, 4, 4)))
        torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-4)


def test_non_local_parts_of_the_time_do_not_see_each_other():
    block = randomised(NonLocal(4, 2, pool=(1, 1, 1), softmax=True, groups=2))
    x = torch.randn(2, 4, 6, 3, 3)
    parts = [x[:, :, :3], x[:, :, 3:]]
    block.groups = 1
    wanted = torch.cat([block(half) for half in parts], dim=2)
    block.groups = 2
    torch.testing.assert_close(block(x), wanted)
    with pytest.raises(DustError, match=r"cuts 5 frames into 2 parts \(NONLOCAL.GROUP\)"):
        block(x[:, :, :5])


# ------------------------------------------------------------------------------------------------- weights


def caffe2_name(key):
    """The name that Caffe2's files have for a tensor of SlowFast's: the map of the released files, backwards."""
    prefix = "t_" if "pathway1" in key else ""
    leaf = {"weight": "w", "bias": "b"}
    norm = {"weight": "bn_s", "bias": "bn_b", "running_mean": "bn_rm", "running_var": "bn_riv"}
    parts = key.split(".")
    if parts[0] == "head":
        return f"pred_{leaf[parts[1]]}"
    if parts[0].endswith("_fuse"):
        stage = int(parts[0][1])
        name = "t_pool1_subsample" if stage == 1 else f"t_res{stage}_0_branch2c_bn_subsample"
        return f"{name}_{norm[parts[2]] if parts[1] == 'bn' else 'w'}"
    if parts[1].endswith("_stem"):
        return f"{prefix}res_conv1_{norm[parts[3]]}" if parts[2] == "bn" else f"{prefix}conv1_w"
    block = parts[1].rsplit("_", 1)[1]
    if block.startswith("nonlocal"):
        layer = parts[2].removeprefix("conv_")
        suffix = norm[parts[3]][3:] if layer == "bn" else leaf[parts[3]]
        return f"nonlocal_conv{parts[0][1]}_{block[8:]}_{layer}_{suffix}"
    branch = "branch1" if parts[2].startswith("branch1") else f"branch2{parts[3][0]}"
    name = f"{prefix}res{parts[0][1]}_{block[3:]}_{branch}"
    is_norm = parts[-2].endswith("_bn")
    return f"{name}_{norm[parts[-1]] if is_norm else 'w'}"


def write_caffe2(path, model):
    """A model's tensors as one of Caffe2's files."""
    blobs = {"model_iter": np.array([7.0]), "lr": np.array([0.1], np.float32)}
    for key, tensor in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        array = tensor.numpy()
        while array.ndim > 2 and array.shape[-1] == 1:  # as the files have them
            array = array[..., 0]
        blobs[caffe2_name(key)] = array
        blobs[caffe2_name(key) + "_momentum"] = array
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))


def test_caffe2_files_are_read_whole(tmp_path):
    spec = NonLocalSpec([[[], []], [[0], []], [[], []], [[], []]], [[1, 1]] * 4, [[[1, 2, 2]] * 2] * 4)
    torch.manual_seed(0)
    model = randomised(SlowFast(**TINY, num_frames=8, alpha=4, nonlocal_blocks=spec))
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    write_caffe2(tmp_path / "model.pkl", model)
    other = SlowFast(**TINY, num_frames=8, alpha=4, nonlocal_blocks=spec).eval()
    report = load_weights(other, tmp_path / "model.pkl")
    assert report.complete and not report.unexpected, report
    assert "counters of batches that the file goes without are zero" in str(report)
    video = torch.randn(1, 3, 8, 32, 32)
    assert torch.equal(other(video), model(video))


# --------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"DATA.NUM_FRAMES": 30, "SLOWFAST.ALPHA": 4}, "DATA.NUM_FRAMES 30: must be a multiple of SLOWFAST.ALPHA 4"),
        ({"SLOWFAST.FUSION_KERNEL_SZ": 4}, "SLOWFAST.FUSION_KERNEL_SZ 4: must be odd"),
        ({"RESNET.WIDTH_PER_GROUP": 60}, "RESNET.WIDTH_PER_GROUP 60: must be a multiple of SLOWFAST.BETA_INV 8"),
        ({"RESNET.SPATIAL_STRIDES": [[1, 2]] * 4}, "must be alike in both pathways"),
        (
            {"RESNET.SPATIAL_STRIDES": [[0]] * 4},
            r"SPATIAL_STRIDES \[\[0\], .*with a whole number of 1 or more for each",
        ),
        ({"RESNET.SPATIAL_DILATIONS": [["a"]] * 4}, r"RESNET.SPATIAL_DILATIONS \[\['a'\], .*: needs four rows"),
        ({"RESNET.NUM_BLOCK_TEMP_KERNEL": [[-1]] * 4}, r"NUM_BLOCK_TEMP_KERNEL .*with a whole number of 0 or more"),
        ({"NONLOCAL.GROUP": [[0]] * 4}, "NONLOCAL.GROUP .*with a whole number of 1 or more"),
        ({"NONLOCAL.LOCATION": [[[3]], [[]], [[]], [[]]]}, "NONLOCAL.LOCATION .*RESNET.DEPTH 50 has 3, 4, 6, 3"),
        ({"NONLOCAL.LOCATION": [[0], [1], [2], [3]]}, "NONLOCAL.LOCATION .*with a list of blocks for each pathway"),
        ({"NONLOCAL.POOL": [[[1, 2]]] * 4}, "NONLOCAL.POOL .*with time, height and width, of 1 or more"),
        (
            {"NONLOCAL.POOL": [[[9, 1, 1]]] * 4, **ATTENDING},
            r"NONLOCAL.POOL .*pools over \[9, 1, 1\], and at stage 2 "
            "pathway 0 has 4 frames of 28 x 28",
        ),
        (
            {"NONLOCAL.GROUP": [[3]] * 4, **ATTENDING},
            "NONLOCAL.GROUP .*must divide the frames, and at stage 2 pathway 0",
        ),
        ({"DATA.TEST_CROP_SIZE": 128}, "DATA.TEST_CROP_SIZE 128: the head of SlowFast pools over what"),
        ({"MODEL.ARCH": "c2d"}, "MODEL.ARCH c2d: for MODEL.MODEL_NAME SlowFast write slowfast"),
        ({"RESNET.DEPTH": 34}, "RESNET.DEPTH 34: choose 50 or 101"),
        ({"RESNET.TRANS_FUNC": "x3d_transform"}, "SlowFast is built of bottleneck_transform"),
        ({"RESNET.SPATIAL_STRIDES": [[1], [2]]}, "needs four rows, one for each stage"),
        ({"BN.NORM_TYPE": "sub_batchnorm"}, "BN.NORM_TYPE sub_batchnorm: split batch norms are not in dust"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(values, says):
    with pytest.raises(ConfigError, match=says):
        load_config(None, {"MODEL.MODEL_NAME": "SlowFast", "DATA.NUM_FRAMES": 32, **values})


@pytest.mark.parametrize(
    ("model", "arguments", "says"),
    [
        (SlowFast, {"fusion_kernel": 4}, "fusion_kernel is 4, it must be odd"),
        (SlowFast, {"stage_depths": (1, 1, 1)}, r"stage_depths \(1, 1, 1\): there are four stages"),
        (ResNet, {"spatial_strides": (1, 0, 2, 2)}, r"spatial_strides \(1, 0, 2, 2\): there are four stages"),
        (ResNet, {"spatial_dilations": (1, 1.5, 1, 1)}, "spatial_dilations"),
        (ResNet, {"num_block_temp_kernel": [[1]] * 3}, "num_block_temp_kernel"),
        (ResNet, {"num_groups": 0}, "num_groups is 0"),
        (ResNet, {"arch": "i3d", "num_frames": 1}, "num_frames is 1, i3d halves the time"),
        (SlowFast, {"num_block_temp_kernel": [[1]] * 4}, "a value in each for 2 pathways"),
        (
            ResNet,
            {"nonlocal_blocks": NonLocalSpec([[[5]]] * 4, [[1]] * 4, [[[1, 1, 1]]] * 4)},
            "nonlocal_blocks.location",
        ),
        (ResNet, {"nonlocal_blocks": NonLocalSpec([[[]]] * 4, [[0]] * 4, [[[1, 1]]] * 4)}, "(?s)group.*blocks.pool"),
    ],
)
def test_arguments_that_cannot_be(model, arguments, says):
    with pytest.raises(ConfigError, match=says):
        model(**{**TINY, "num_frames": 8, **arguments})


@pytest.mark.parametrize(("crop", "test", "positions"), [(200, 200, 1), (224, 256, 4), (224, 224, 1), (112, 112, 1)])
def test_training_crops_leave_one_position_and_larger_ones_vote(crop, test, positions):
    """256 after 224 is the published test (7 x 7 of 8 x 8); sizes that 32 does not divide are rounded up."""
    keys = {"MODEL.MODEL_NAME": "ResNet", "MODEL.ARCH": "slow", "DATA.NUM_FRAMES": 2, "RESNET.WIDTH_PER_GROUP": 8}
    cfg = load_config(None, {**keys, "DATA.TRAIN_CROP_SIZE": crop, "DATA.TEST_CROP_SIZE": test, "MODEL.NUM_CLASSES": 5})
    with torch.device("meta"):
        model = build_model(cfg)
        assert model.train()(torch.zeros(2, 3, 2, crop, crop)).shape == (2, 5)
        features = model.forward_features(torch.zeros(2, 3, 2, test, test))
        assert model.eval()(torch.zeros(2, 3, 2, test, test)).shape == (2, 5)
    assert pool_positions(features, model.window, "").shape[2:].numel() == positions


def test_strides_and_dilations_of_the_last_stage_leave_one_position_too():
    with torch.device("meta"):
        model = ResNet(**{**TINY, "num_frames": 2, "img_size": 64, "spatial_strides": (1, 2, 2, 1),
                          "spatial_dilations": (1, 1, 1, 2)})  # fmt: skip
        assert model.window == (2, 4, 4) and model.train()(torch.zeros(2, 3, 2, 64, 64)).shape == (2, 7)


def test_pathways_and_clips_that_do_not_fit():
    with pytest.raises(ConfigError, match="num_frames 30 is not a multiple of alpha 4"):
        SlowFast(**TINY, num_frames=30, alpha=4)
    model = randomised(SlowFast(**TINY, num_frames=8, alpha=4))
    with pytest.raises(DustError, match="SlowFast got 3 slow and 8 fast frames; SLOWFAST.ALPHA is 4"):
        model([torch.zeros(1, 3, 3, 32, 32), torch.zeros(1, 3, 8, 32, 32)])
    with pytest.raises(DustError, match="test with as many frames as it was built for"):
        model(torch.zeros(1, 3, 16, 32, 32))
    with pytest.raises(DustError, match="crop and sample at least as large as the model was built for"):
        randomised(ResNet(**TINY, num_frames=8))(torch.zeros(1, 3, 4, 32, 32))


def test_built_from_a_configuration():
    keys = {"MODEL.MODEL_NAME": "ResNet", "MODEL.ARCH": "i3d", "DATA.NUM_FRAMES": 4, "DATA.TRAIN_CROP_SIZE": 32}
    keys |= {"RESNET.WIDTH_PER_GROUP": 8, "MODEL.NUM_CLASSES": 5, "NONLOCAL.LOCATION": [[[]], [[1, 3]], [[]], [[]]]}
    keys |= {
        "NONLOCAL.INSTANTIATION": "softmax",
        "RESNET.ZERO_INIT_FINAL_BN": True,
        "DATA.TRAIN_JITTER_SCALES": [32, 40],
    }
    model = build_model(load_config(None, {**keys, "DATA.TEST_CROP_SIZE": 32}))
    assert [name for name in model.s3 if "nonlocal" in name] == ["pathway0_nonlocal1", "pathway0_nonlocal3"]
    assert model.s3["pathway0_nonlocal1"].softmax and not model.s2["pathway0_res0"].branch2.c_bn.weight.any()
    assert model(torch.zeros(2, 3, 4, 32, 32)).shape == (2, 5)
