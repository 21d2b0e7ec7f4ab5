"""X3D against SlowFast's and pytorchvideo's numbers (x3d_*), and by laws."""

import pytest
import torch

from dust.config import get_cfg, load_config, with_values
from dust.models.x3d import X3D
from dust.utils.checkpoint import load_weights
from dust.utils.errors import ConfigError, DustError
from tests.helpers import golden_tensors, randomised
from tests.models.test_slowfast import check_exactly, check_gradients, check_statistics, close, loaded


def of_pytorchvideo(args, **more):
    """The arguments of its create_x3d, as ours; without the norm that it lacks, unless said otherwise."""
    same = ("width_factor", "depth_factor", "bottleneck_factor", "se_ratio", "dropout_rate")
    ours = {name: args[name] for name in same}
    return {
        **ours, "dim_c1": args["stem_dim_in"], "dim_c5": args["head_dim_out"], "num_frames": args["input_clip_length"],
        "img_size": args["input_crop_size"], "num_classes": args["model_num_class"], "shortcut_bn": False,
        "width_divisor": 8, **more,
    }  # fmt: skip


def of_slowfast(args):
    """The arguments of SlowFast's own configuration, by its keys alone."""
    theirs = {key.replace("__", "."): value for key, value in args["cfg"].items()}
    known = get_cfg()
    return X3D.from_config(with_values(known, {key: theirs[key] for key in theirs if key.split(".")[0] in known}))


def test_golden_of_pytorchvideo():
    facts, tensors = golden_tensors("x3d_a")
    model = loaded(X3D(**of_pytorchvideo(facts["args"])), tensors).eval()
    close(model.forward_features(tensors["input"]), tensors["output.features"])
    logits = model(tensors["input"])
    close(logits, tensors["output.logits"])
    check_gradients(model, logits, facts, tensors)
    check_exactly(model.double(), tensors["input"].double(), tensors["output64.logits"])


def test_golden_where_several_positions_vote():
    facts, tensors = golden_tensors("x3d_fullconv")
    model = loaded(X3D(**of_pytorchvideo(facts["args"])), tensors).eval()
    close(model(tensors["input"]).softmax(dim=-1), tensors["output.logits"])
    exact = model.double()(tensors["input"].double()).softmax(dim=-1)
    check_exactly(lambda x: x, exact, tensors["output64.logits"])


def test_golden_in_training():
    """The reference ran its head twice on the features of one pass."""
    facts, tensors = golden_tensors("x3d_train_bn")
    model = loaded(X3D(**of_pytorchvideo(facts["args"])), tensors).train()
    features = model.forward_features(tensors["input"])
    model.forward_head(features.detach())
    logits = model.forward_head(features)
    close(logits, tensors["output.logits"])
    check_statistics(model, tensors)
    check_gradients(model, logits, facts, tensors)


def test_golden_of_slowfasts_own_code():
    facts, tensors = golden_tensors("x3d_pysf_a")
    model = loaded(X3D(**of_slowfast(facts["args"])), tensors).eval()
    close(model(tensors["input"]).softmax(dim=-1), tensors["output.probs"])
    exact = model.double()(tensors["input"].double()).softmax(dim=-1)
    check_exactly(lambda x: x, exact, tensors["output64.probs"])


def test_pytorchvideos_files_fit_the_network_with_all_norms():
    facts, tensors = golden_tensors("x3d_train_bn")
    model = X3D(**of_pytorchvideo(facts["args"], shortcut_bn=True)).eval()
    plain = loaded(X3D(**of_pytorchvideo(facts["args"])), tensors).eval()
    report = load_weights(model, {key[7:]: value for key, value in tensors.items() if key.startswith("weight.")})
    assert report.complete and "pytorchvideo's X3D has no norm there" in str(report)
    close(model(tensors["input"]), plain(tensors["input"]))


@pytest.mark.parametrize(
    ("depth", "shortcut_bn", "parameters"),
    [(2.2, True, 3_794_322), (2.2, False, 3_794_274), (5.0, True, 6_153_432), (5.0, False, 6_153_384)],
)
def test_published_sizes(depth, shortcut_bn, parameters):
    with torch.device("meta"):
        model = X3D(depth_factor=depth, shortcut_bn=shortcut_bn)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_head_pools_over_what_training_left():
    tiny = {"width_factor": 1.0, "depth_factor": 1.0, "dim_c1": 8, "dim_c5": 16, "num_classes": 3, "num_frames": 2}
    model = randomised(X3D(**tiny, img_size=40))  # leaves 2 x 2, as crops of 34 to 64 do
    assert model.window == (2, 2, 2) and model(torch.randn(1, 3, 2, 40, 64)).shape == (1, 3)
    with pytest.raises(DustError, match=r"leaves features of \(2, 1, 1\), its head pools over \(2, 2, 2\)"):
        model(torch.randn(1, 3, 2, 32, 32))
    with pytest.raises(DustError, match=r"X3D got video of shape \(1, 1, 2, 40, 40\); it takes \(B, 3, T, H, W\)"):
        model(torch.randn(1, 1, 2, 40, 40))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"DATA.TRAIN_CROP_SIZE": 161}, "DATA.TRAIN_CROP_SIZE 161: the first stride of X3D is 2; take an even number"),
        ({"DATA.TEST_CROP_SIZE": 161}, "DATA.TEST_CROP_SIZE 161: the first stride of X3D is 2"),
        ({"DATA.TEST_CROP_SIZE": 128}, "DATA.TEST_CROP_SIZE 128: the head of X3D pools over what DATA.TRAIN_CROP_SIZE"),
        ({"MODEL.ARCH": "slowfast"}, "MODEL.ARCH slowfast: for MODEL.MODEL_NAME X3D write x3d"),
        ({"X3D.WIDTH_FACTOR": 0}, "X3D.WIDTH_FACTOR 0.0: must be more than 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(values, says):
    with pytest.raises(ConfigError, match=says):
        load_config(
            None, {"MODEL.MODEL_NAME": "X3D", "DATA.TRAIN_CROP_SIZE": 160, "DATA.TEST_CROP_SIZE": 182, **values}
        )


def test_a_bottleneck_without_channels_is_an_error():
    with pytest.raises(ConfigError, match="X3D: bottleneck_factor 0.01 leaves nothing of 24 channels"):
        X3D(bottleneck_factor=0.01)


def test_published_crops_are_taken():
    for train, test in ((160, 182), (224, 256), (312, 356)):
        load_config(None, {"MODEL.MODEL_NAME": "X3D", "DATA.TRAIN_CROP_SIZE": train, "DATA.TEST_CROP_SIZE": test,
                           "DATA.TRAIN_JITTER_SCALES": [test, 2 * test]})  # fmt: skip
