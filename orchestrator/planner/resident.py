"""The models of a repository that settings keep loaded, by name."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.config import ControllerSettings
from orchestrator.errors import ConfigError
from orchestrator.planner.host import RepositoryModel
from orchestrator.snapshot import Family, ModelName


def resident_models(
    settings: ControllerSettings, models: Iterable[RepositoryModel]
) -> tuple[tuple[ModelName, ...], tuple[ModelName, ...]]:
    """Return the minimum set of all families, and what is wanted of them, of each family the most wanted first.

    Raises:
        ConfigError: when a width that the settings name is not in the repository.
    """
    by_family: dict[Family, dict[int, ModelName]] = {}
    for model in sorted(models, key=lambda m: (m.family, m.width)):
        by_family.setdefault(model.family, {})[int(model.width)] = model.name
    minimum, wanted = list[ModelName](), list[ModelName]()
    for family, by_width in by_family.items():
        own = settings.families.get(family)
        where = "the repository" if len(by_family) == 1 else f"family {family}"
        remedy = f"; name its own in controller.families.{family}" if own is None and len(by_family) > 1 else ""
        section, widths = ("controller", settings) if own is None else (f"controller.families.{family}", own)
        for width in (*(widths.minimum_widths or ()), *(widths.wanted_widths or ())):
            if width not in by_width:
                key = "minimum_widths" if width in (widths.minimum_widths or ()) else "wanted_widths"
                there = ", ".join(map(str, by_width))
                raise ConfigError(f"{section}.{key}: {where} has no width {width}; it has {there}{remedy}")
        narrowest_first = tuple(by_width)
        minimum += [by_width[w] for w in widths.minimum_widths or narrowest_first[:1]]
        wanted += [by_width[w] for w in (narrowest_first if widths.wanted_widths is None else widths.wanted_widths)]
    return tuple(minimum), tuple(wanted)
