"""Families that the fleet file describes, because the configs of their models don't and nobody may touch them."""

from __future__ import annotations

from pydantic import Field, field_validator

from orchestrator.config.section import Section


class VariantSettings(Section):
    """One model of a family, as some Triton serves it."""

    width: int = Field(ge=1, le=100)
    """What requests, profiles and metrics name it by: of a slimmable network its width in percent, of others any number
    that grows with the cost."""
    model: str = Field(min_length=1)
    """Its name in Triton."""
    quality: float = Field(ge=0, le=1)
    """What it is worth, measured alike for all variants; 1 is perfect. Of an error rate it is what is left to 1, of
    points or percent a hundredth."""


class FamilySettings(Section):
    """One family of models that do the same and differ in cost and quality."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What callers ask for."""
    variants: tuple[VariantSettings, ...] = Field(min_length=1)
    labels: tuple[str, ...] = ()
    """The names of the classes of the first output, in their order."""

    @field_validator("variants")
    @classmethod
    def _differ(cls, variants: tuple[VariantSettings, ...]) -> tuple[VariantSettings, ...]:
        for what in ("width", "model"):
            values = [getattr(variant, what) for variant in variants]
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ValueError(f"{what} {twice!r} is used twice; each variant has its own")
        return tuple(sorted(variants, key=lambda variant: variant.width))

    @property
    def useless(self) -> tuple[VariantSettings, ...]:
        """The variants that are no better than a narrower one, which costs less."""
        return tuple(
            variant
            for index, variant in enumerate(self.variants)
            if any(narrower.quality >= variant.quality for narrower in self.variants[:index])
        )
