from __future__ import annotations

import pytest
import torch

from export.network.channels import ChannelGroup, sort_channels
from export.network.factories import BUILT_IN, make_network
from export.network.layers import SlimConvNorm
from export.width import Width
from tests.export.toys import enliven, toy_task

FULL = Width(100)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_sorting_changes_nothing_that_the_full_width_computes(name: str) -> None:
    torch.manual_seed(0)
    network = make_network(name, (FULL,), toy_task(3, side=33))
    enliven(network)
    network.eval()
    pixels = torch.rand(2, 3, 33, 33)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.inference_mode():
        wanted = network(pixels, FULL)
    sort_channels(network.channel_groups())  # type: ignore[operator]
    with torch.inference_mode():
        torch.testing.assert_close(network(pixels, FULL), wanted, atol=1e-3, rtol=1e-3)
    unsorted = [k for k, v in network.state_dict().items() if v.ndim == 4 and torch.equal(v, before[k])]
    assert unsorted == []


def test_channels_are_sorted_by_the_norm_of_their_filters_as_the_batch_norm_scales_them() -> None:
    maker = SlimConvNorm(1, 4, kernel_size=1, stride=1, widths=(FULL,))
    taker = SlimConvNorm(4, 4, kernel_size=1, stride=1, widths=(FULL,))
    norm = maker.norm.norms["w100"]  # type: ignore[union-attr]
    with torch.no_grad():
        maker.weight.copy_(torch.tensor([1.0, -4.0, 2.0, 3.0]).view(4, 1, 1, 1))
        norm.weight.copy_(torch.tensor([1.0, 1.0, -9.0, 0.0]))  # type: ignore[union-attr, operator]
        taker.weight.copy_(torch.arange(4.0).view(1, 4, 1, 1).expand(4, 4, 1, 1))
    sort_channels([ChannelGroup([maker], [taker])])
    assert maker.weight.flatten().tolist() == [2.0, -4.0, 1.0, 3.0]
    assert norm.weight.tolist() == [-9.0, 1.0, 1.0, 0.0]  # type: ignore[union-attr, operator]
    assert taker.weight[0].flatten().tolist() == [2.0, 1.0, 0.0, 3.0]


def test_layers_whose_outputs_are_added_share_the_order_of_their_sum() -> None:
    one, other = (SlimConvNorm(1, 4, kernel_size=1, stride=1, widths=(FULL,)) for _ in range(2))
    with torch.no_grad():
        one.weight.copy_(torch.tensor([4.0, 3.0, 2.0, 1.0]).view(4, 1, 1, 1))
        other.weight.copy_(torch.tensor([0.0, 0.0, 5.0, 0.0]).view(4, 1, 1, 1))
    sort_channels([ChannelGroup([one, other], [])])
    assert one.weight.flatten().tolist() == [2.0, 4.0, 3.0, 1.0]
    assert other.weight.flatten().tolist() == [5.0, 0.0, 0.0, 0.0]
