"""The hidden layer of a frozen MLP: the same numbers and gradients as the plain one, and nothing kept but its input."""

import pytest
import torch
import torch.nn.functional as F

from dust.models.layers.frozen import frozen_hidden

PLAIN = {"gelu": F.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}
each_activation = pytest.mark.parametrize("activation", PLAIN)


def parts(dtype=torch.float32, frozen=True):
    torch.manual_seed(0)
    linear = torch.nn.Linear(6, 40, dtype=dtype).requires_grad_(not frozen)
    return linear, torch.randn(2, 5, 6, dtype=dtype, requires_grad=True)


@each_activation
def test_numbers_and_gradients_are_those_of_the_plain_form(activation):
    linear, x = parts(torch.float64)
    weights = torch.randn(2, 5, 40, dtype=torch.float64)
    plain = PLAIN[activation](linear(x))
    ours = frozen_hidden(linear, activation, x)
    torch.testing.assert_close(ours, plain)
    (expected,) = torch.autograd.grad((plain * weights).sum(), x)
    torch.testing.assert_close(torch.autograd.grad((ours * weights).sum(), x)[0], expected)
    assert torch.autograd.gradcheck(lambda x: frozen_hidden(linear, activation, x), x)


@each_activation
def test_only_the_input_is_kept(activation):
    linear, x = parts()
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        frozen_hidden(linear, activation, x)
    own = [x, linear.weight, linear.bias]
    assert kept and all(any(tensor.data_ptr() == mine.data_ptr() for mine in own) for tensor in kept)


@each_activation
def test_a_layer_that_learns_gets_its_gradients(activation):
    linear, x = parts(frozen=False)
    frozen_hidden(linear, activation, x).square().sum().backward()
    ours = [linear.weight.grad, linear.bias.grad, x.grad]
    linear, x = parts(frozen=False)
    PLAIN[activation](linear(x)).square().sum().backward()
    for one, other in zip(ours, [linear.weight.grad, linear.bias.grad, x.grad], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@each_activation
def test_without_gradients_it_is_the_plain_form(activation):
    linear, x = parts()
    with torch.no_grad():
        torch.testing.assert_close(frozen_hidden(linear, activation, x), PLAIN[activation](linear(x)))


@each_activation
def test_autocast(activation):
    linear, x = parts()
    with torch.autocast("cpu", torch.bfloat16):
        ours, plain = frozen_hidden(linear, activation, x), PLAIN[activation](linear(x))
    assert ours.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(ours, plain, atol=0.02, rtol=0.02)
    (one,), (other,) = (torch.autograd.grad(out.float().sum(), x) for out in (ours, plain))
    assert one.dtype == torch.float32
    torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)
