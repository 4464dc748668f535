from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from export.network.layers import SlimConvNorm, SlimLinear, SwitchableBatchNorm2d
from export.width import Width

NARROW, FULL = Width(25), Width(100)
WIDTHS = (NARROW, FULL)


@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (2, 3), (1, 1), (2, 7)])
def test_narrow_forward_equals_a_plain_convolution_of_the_leading_slice(stride: int, kernel: int) -> None:
    torch.manual_seed(0)
    unit = SlimConvNorm(16, 32, kernel_size=kernel, stride=stride, widths=WIDTHS).eval()
    x = torch.randn(2, 4, 9, 9)
    norm = unit.norm.norm(NARROW)
    torch.nn.init.normal_(norm.running_mean)
    torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    plain = functional.conv2d(x, unit.weight[:8, :4].clone(), stride=stride, padding=kernel // 2)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    wanted = (plain - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(unit(x, NARROW), wanted)


def test_the_first_layer_never_slims_its_input() -> None:
    unit = SlimConvNorm(3, 16, kernel_size=3, stride=1, widths=WIDTHS, slim_input=False)
    assert unit(torch.zeros(2, 3, 8, 8), NARROW).shape == (2, 4, 8, 8)


def test_widths_share_weights() -> None:
    unit = SlimConvNorm(16, 16, kernel_size=3, stride=1, widths=WIDTHS)
    assert unit.active_weight(NARROW).data_ptr() == unit.active_weight(FULL).data_ptr()


def test_each_width_has_batch_norm_statistics_of_its_own() -> None:
    norms = SwitchableBatchNorm2d(16, WIDTHS).train()
    before = norms.norm(FULL).running_mean.clone()
    norms(torch.randn(8, 4, 5, 5) + 3, NARROW)
    assert torch.equal(norms.norm(FULL).running_mean, before)
    assert norms.norm(NARROW).running_mean.min() > 0.1
    assert norms.norm(NARROW).num_features == 4


def test_the_classifier_slims_its_input_only() -> None:
    classifier = SlimLinear(16, 10)
    x = torch.randn(2, 4)
    wanted = x @ classifier.weight[:, :4].T + classifier.bias
    torch.testing.assert_close(classifier(x, NARROW), wanted)
