from __future__ import annotations

import pytest

from export.network.stem_fit import stem_warning
from tests.export.toys import toy_task


def test_a_small_stem_on_large_images_is_told_with_the_networks_that_fit() -> None:
    warning = stem_warning("slimresnet18", toy_task(3, 1000, side=224))
    assert warning == (
        "the stem of slimresnet18 is for images of 16 to 95 pixels, not 224; at full width an image takes 54.4 GFLOPs. "
        "For this size: slimresnet50 8.18 GFLOPs, slimmobilenet-v2 0.602 GFLOPs"
    )


def test_a_large_stem_on_small_images_is_told_too() -> None:
    warning = stem_warning("slimresnet50", toy_task(3, side=32))
    assert warning is not None and "slimresnet20" in warning and "slimmobilenet-v2" not in warning


@pytest.mark.parametrize(("name", "side"), [("slimresnet18", 32), ("slimresnet50", 224), ("mynets:make", 224)])
def test_a_stem_that_fits_or_is_unknown_is_no_matter(name: str, side: int) -> None:
    assert stem_warning(name, toy_task(3, side=side)) is None
