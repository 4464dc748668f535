from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.errors import WidthError
from export.width import Width, active_channels, parse_width, parse_widths, render_ratio, width_key

widths = st.integers(1, 100).map(Width)
multiples_of_4 = st.integers(1, 600).map(lambda n: 4 * n)


@given(widths)
def test_rendering_and_parsing_are_inverse(width: Width) -> None:
    assert parse_width(render_ratio(width)) == width


@given(st.lists(widths, min_size=1, unique=True))
def test_a_list_comes_back_ascending(chosen: list[Width]) -> None:
    assert parse_widths(",".join(map(render_ratio, chosen))) == tuple(sorted(chosen))


def test_a_width_that_is_given_twice_is_refused() -> None:
    with pytest.raises(WidthError, match=r"width 0\.50 is given twice in '0\.5,1,0\.50'; give it once"):
        parse_widths("0.5,1,0.50")


@pytest.mark.parametrize("text", ["", "wide", "0", "0.005", "1.01", "-0.25", "nan", "inf", "25 %", "0.255", "1e999997"])
def test_what_is_no_width_is_refused_in_one_line_with_a_remedy(text: str) -> None:
    with pytest.raises(WidthError, match=r"give a ratio such as 0\.25") as caught:
        parse_width(text)
    assert "\n" not in str(caught.value)


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(WidthError, match="no width given"):
        parse_widths(" , ")


def test_keys_have_three_digits() -> None:
    assert [width_key(Width(w)) for w in (5, 25, 100)] == ["w005", "w025", "w100"]


@given(multiples_of_4, widths)
def test_active_channels_are_a_multiple_of_4_and_never_more_than_there_are(channels: int, width: Width) -> None:
    active = active_channels(channels, width)
    assert active % 4 == 0
    assert 4 <= active <= channels
    assert abs(active - channels * width / 100) <= 2 or active == 4


@given(multiples_of_4, widths, widths)
def test_a_wider_width_never_has_fewer_channels(channels: int, one: Width, other: Width) -> None:
    narrow, wide = sorted((one, other))
    assert active_channels(channels, narrow) <= active_channels(channels, wide)


@given(multiples_of_4)
def test_full_width_has_all_channels(channels: int) -> None:
    assert active_channels(channels, Width(100)) == channels
