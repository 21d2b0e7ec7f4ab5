"""The hidden layer of a frozen MLP: the same numbers and gradients as the plain one, and nothing kept but its input."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dust.models.layers.frozen import frozen_hidden, hash_once, sha256_of_tensors

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


def test_a_hash_is_kept_until_a_tensor_is_another():
    model = torch.nn.Linear(3, 2).requires_grad_(False)
    calls = []

    def asked():
        tensors = dict(model.named_parameters())
        found = hash_once(model, [*tensors.values()], lambda: calls.append(1) or sha256_of_tensors(tensors))
        assert found == sha256_of_tensors(tensors)
        return len(calls)

    assert [asked(), asked()] == [1, 1]
    model.weight.mul_(2)  # counted by torch
    assert [asked(), asked()] == [2, 2]
    memory = np.zeros((2, 3), np.float32)
    model.weight.data = torch.from_numpy(memory)
    assert [asked(), asked()] == [3, 3]
    model.weight.data = torch.zeros(2, 3)
    memory += 1  # other numbers at the same place, as an allocator may give it again; torch counts nothing
    model.weight.data = torch.from_numpy(memory)
    assert [asked(), asked()] == [4, 4]
    model.weight.data = model.weight.data.view(3, 2)
    assert [asked(), asked()] == [5, 5]
    before = model.half().float().weight
    assert asked() == 6 and before is model.weight
    model.requires_grad_(True)
    assert [asked(), asked()] == [7, 8], "nothing is kept of what learns"
    with torch.inference_mode():
        model = torch.nn.Linear(3, 2).requires_grad_(False)
    assert [asked(), asked()] == [9, 10], "nor of what torch does not count"
