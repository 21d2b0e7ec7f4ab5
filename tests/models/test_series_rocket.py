"""SeriesRocket's convolutions."""

import pytest
import torch

from dust.models.series_rocket import KERNELS, SeriesRocket, convolve


@pytest.mark.parametrize(("length", "dilation"), [(20, 1), (20, 2), (50, 6), (5, 3), (1, 1)])
def test_shifted_sums_are_the_convolution(length, dilation):
    """Of whole numbers every order of sums has the same bits, on any machine."""
    kernels = SeriesRocket(num_classes=2).kernels
    x = torch.randint(-50, 50, (2, KERNELS, length), generator=torch.Generator().manual_seed(0)).float()
    expected = torch.nn.functional.conv1d(x, kernels, padding=4 * dilation, dilation=dilation, groups=KERNELS)
    assert torch.equal(convolve(x, kernels, dilation), expected)
