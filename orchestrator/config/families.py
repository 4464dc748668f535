"""Families that the fleet file describes, because the configs of their models don't and nobody may touch them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator

from orchestrator.config.section import Name, Section
from orchestrator.snapshot import Preprocessing
from orchestrator.validation import Distinct

_Value = int | float | str


class VariantSettings(Section):
    """One model of a family, as some Triton serves it."""

    width: int = Field(ge=1, le=100)
    """What requests, profiles and metrics name it by: of a slimmable network its width in percent, of others any number
    that grows with the cost."""
    model: str = Field(min_length=1)
    """Its name in Triton."""
    quality: float
    """What it is worth, of any scale, measured alike for all variants; the larger the better, so an error rate is given
    as what is left to 1."""


class PreprocessingSettings(Section):
    """What an image file goes through before the networks; see docs/tutorials/already-served.md#describe-them."""

    resize: int | None = Field(default=None, ge=1, le=65_536)
    """What the shorter side is scaled to, in pixels, before the middle is cut out; None: scaled to the input's size."""
    colours: Literal["RGB", "BGR", "L"] = "RGB"
    """The order of the channels, or grey."""
    layout: Literal["CHW", "HWC"] = "CHW"
    """Whether channels come before rows and columns, or after them."""
    scale: float = Field(default=1 / 255, gt=0)
    """What a value of 0..255 is multiplied by."""
    mean: tuple[float, ...] = Field(default=(0.0,), min_length=1, max_length=3)
    """What is subtracted after that: a value, or one for each channel."""
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1.0,), min_length=1, max_length=3)
    """What is divided by in the end: a value, or one for each channel."""

    def _contradictions(self) -> Iterator[str]:
        channels = 1 if self.colours == "L" else 3
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                yield (
                    f"{key} has {len(values)} values and colours {self.colours} has {channels}; give one, or one for "
                    "each channel"
                )

    def value(self) -> Preprocessing:
        """Return it as the value that readers of images take."""
        return Preprocessing(**self.model_dump())


class FamilySettings(Section):
    """One family of models that do the same and differ in cost and quality."""

    name: Name
    """What callers ask for."""
    variants: Annotated[tuple[VariantSettings, ...], Distinct(("width",))] = Field(min_length=1)
    labels: tuple[str, ...] = ()
    """The names of the classes of the first output, in their order."""
    preprocessing: PreprocessingSettings | None = None
    """What an image file goes through; None: it is of the input's size and becomes 0..1."""
    item: dict[str, tuple[Annotated[int, Field(ge=1)], ...]] = Field(default_factory=dict)
    """Shapes of a usual item's inputs, by name, without a batch dimension; needed where sides vary. Warm-up, probes and
    profiles run that item, as they do with ``slim.item`` in a config."""
    fill: dict[str, _Value | tuple[_Value, ...]] = Field(default_factory=dict)
    """What that item has instead of zeros, by input, for networks that can't run zeros: a value for all elements,
    ``random`` for numbers in 0..1, or a list with each element's; as ``slim.fill`` in a config."""

    @field_validator("variants")
    @classmethod
    def _ascend(cls, variants: tuple[VariantSettings, ...]) -> tuple[VariantSettings, ...]:
        return tuple(sorted(variants, key=lambda variant: variant.width))

    @property
    def useless(self) -> tuple[VariantSettings, ...]:
        """The variants that are no better than a narrower one, which costs less."""
        return tuple(
            variant
            for index, variant in enumerate(self.variants)
            if any(narrower.quality >= variant.quality for narrower in self.variants[:index])
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is told of the useless variants, a sentence each."""
        return tuple(
            f"model {variant.model} is left out of family {self.name}: its quality {variant.quality:g} is no better "
            "than that of a narrower variant"
            for variant in self.useless
        )
