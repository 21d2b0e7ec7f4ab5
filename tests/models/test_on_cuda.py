"""What a model does on a CUDA device, as far as a CPU shows it: all tensors are there, no convolution embeds patches,
no operation lacks a deterministic form."""

import contextlib
import re

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dust.models.layers import common
from tests.models.small_models import OTHERS, SMALL, inputs_of, make

#: An LSTM asks the driver for its kernels.
FAKED = [one for one in SMALL if one[0] != "PointTrackLSTM"]
#: Their patches do not overlap.
PATCHES = ("VideoMAE", "CLIPVisual", "VJEPA2", "CAST", "TimeSformer", "VideoSwin")


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def reduced():
    """Autocast as on a GPU; its own class asks the driver whether there is one."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if not torch.autocast_decrement_nesting():
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


@pytest.mark.parametrize(("name", "arguments", "shapes"), FAKED, ids=[name for name, _, _ in FAKED])
def test_all_tensors_of_a_model_are_on_its_device(monkeypatch, name, arguments, shapes):
    """Evaluated, and in training, with the types that autocast gives on a GPU."""
    # torch 2.10 can not fake the fast path of its transformer layers
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    model = make(name, arguments).eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.no_grad():
            model.to_empty(device="cuda")
        inputs = {key: torch.rand(shape, device="cuda") for key, shape in shapes.items()}
        with Operations() as operations, reduced():
            with torch.no_grad():
                outputs = [model(**inputs)]
            if name != "VideoMAEPretrain":  # draws a mask, in pinned memory
                outputs.append(model.train()(**inputs))
    for output in outputs:
        for value in output.values() if isinstance(output, dict) else [output]:
            assert value.device.type == "cuda"
    if name in PATCHES:
        assert not {one for one in operations.names if "convolution" in one}


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv2d(3, 7, 4, 4), (2, 3, 8, 12)),
        (nn.Conv2d(3, 7, 4, 4, bias=False), (2, 3, 10, 7)),
        (nn.Conv3d(2, 5, (2, 4, 4), (2, 4, 4)), (2, 2, 4, 8, 12)),
        (nn.Conv3d(2, 5, (2, 4, 3), (2, 4, 3)), (1, 2, 5, 9, 8)),
    ],
)
def test_patches_are_embedded_alike_by_a_product_and_by_a_convolution(monkeypatch, conv, shape):
    """Gradients too; a rest at an end counts for nothing in both."""
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    conv, found = conv.double(), []
    for product in (False, True):
        monkeypatch.setattr(common, "as_product", lambda x, product=product: product)
        out = common.embed_patches(x, conv)
        wanted = [x, *conv.parameters()]
        found.append([out, *torch.autograd.grad(out.square().sum(), wanted)])
    torch.testing.assert_close(found[0], found[1])


#: What raises on CUDA in strict mode, of what models might use; see torch.use_deterministic_algorithms.
NOT_REPEATABLE = re.compile(
    r"avg_pool3d_backward|_adaptive_avg_pool[23]d_backward|adaptive_max_pool2d_backward|max_unpool.*|put_|histc|median"
    r"|upsample_(linear1d|bilinear2d|bicubic2d|trilinear3d)_backward|reflection_pad.*_backward|grid_sampler.*_backward"
    r"|nll_loss2d_forward|_ctc_loss_backward"
)


@pytest.mark.parametrize(("name", "arguments", "shapes"), SMALL + OTHERS, ids=[name for name, _, _ in SMALL + OTHERS])
def test_every_operation_of_a_training_step_has_a_deterministic_form(monkeypatch, name, arguments, shapes):
    monkeypatch.setattr(common, "as_repeatable", lambda x: True)
    model = make(name, arguments).train()
    with Operations() as operations:
        outputs = model(**inputs_of(shapes))
        values = outputs.values() if isinstance(outputs, dict) else [outputs]
        learnt = [value.float().square().mean() for value in values if value.requires_grad]
        torch.stack(learnt).sum().backward()
    assert not [one for one in operations.names if NOT_REPEATABLE.fullmatch(one)]


@pytest.mark.parametrize(("window", "stride"), [((2, 3, 2), (1, 1, 1)), ((2, 1, 1), (2, 1, 1)), ((4, 5, 6), (1, 1, 1))])
def test_means_over_windows_are_those_of_torchs_pooling(monkeypatch, window, stride):
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for repeatable in (False, True):
        monkeypatch.setattr(common, "as_repeatable", lambda x, repeatable=repeatable: repeatable)
        means = common.window_means(x, window, stride)
        found.append([means, *torch.autograd.grad(means.square().sum(), x)])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("sizes", [(3,), (7,), (2, 4), (4, 9), (1, 2, 3)])
def test_means_over_shares_are_those_of_torchs_adaptive_pooling(monkeypatch, sizes):
    x = torch.randn(2, 3, *(4, 5, 7)[-len(sizes) :], dtype=torch.float64, requires_grad=True)
    found = []
    for repeatable in (False, True):
        monkeypatch.setattr(common, "as_repeatable", lambda x, repeatable=repeatable: repeatable)
        means = common.share_means(x, sizes)
        found.append([means, *torch.autograd.grad(means.square().sum(), x)])
    torch.testing.assert_close(found[0], found[1])
