"""When a tensor that is made now can serve later calls."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dust.utils.tensors import may_keep


def test_kept_but_in_a_trace_and_without_numbers():
    assert may_keep()
    with torch.inference_mode():
        assert may_keep()
    with FakeTensorMode():
        assert not may_keep()
    traced = torch.compile(lambda x: x + 1 if may_keep() else x + 2, backend="eager")
    assert torch.equal(traced(torch.zeros(2)), torch.full((2,), 2.0))
