"""Who is compared: gateways that differ in nothing but their policy, and the Tritons themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.config import RouterSettings
from orchestrator.errors import ConfigError
from orchestrator.policies.parsing import parse_policy
from orchestrator.snapshot import Family, ServedModel, Width

DEFAULT: Final = "default"
TRITON: Final = "triton"
NARROWEST, WIDEST = "narrowest", "widest"
BASELINES: Final = (DEFAULT, NARROWEST, WIDEST, "lert:slack", TRITON)
"""Who is compared where nobody is named, by what ``make_baseline`` reads."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What answers in the comparison, the default among them.

    Attributes:
        name: In tables and pictures.
        text: What it is, for people.
        policy: Of its gateway; None: a gateway's default, or no gateway.
        model: What the Tritons themselves are asked for, in turn; None: it is a gateway.
        width: The one that answers whatever comes; None: that varies.
    """

    name: str
    text: str
    policy: str | None = None
    model: str | None = None
    width: Width | None = None


def check_baselines(specs: Sequence[str]) -> None:
    """Raise ConfigError for what is neither one of ours nor a policy, and for what is named twice."""
    for spec in specs:
        if spec not in BASELINES:
            parse_policy(spec)
        if specs.count(spec) > 1:
            raise ConfigError(f"{spec!r} is named twice; name each once")


def make_baselines(specs: Sequence[str], models: Sequence[ServedModel]) -> list[Baseline]:
    """Return who is meant by each of some specs, once: of one width the narrowest is the widest."""
    return list({each.name: each for each in (make_baseline(spec, models) for spec in specs)}.values())


def make_baseline(spec: str, models: Sequence[ServedModel]) -> Baseline:
    """Return who is meant by one of ours or a policy, over a family's models, ascending."""
    narrowest, widest = models[0], models[-1]
    match spec:
        case "default":
            policy = RouterSettings().policy
            return Baseline(DEFAULT, f"`slimsched gateway` as it comes, which chooses widths by `{policy}`")
        case "narrowest":
            return _always(narrowest.width, "narrowest")
        case "widest":
            return _always(widest.width, "full")
        case "triton":
            text = f"full width without Slim Scheduler: the sender asks both Tritons for `{widest.name}` in turn"
            return Baseline("plain Triton", text, model=widest.name, width=widest.width)
        case _:
            return Baseline(spec, f"the gateway with `policy: {spec}`", policy=spec)


def _always(width: Width, word: str) -> Baseline:
    policy = f"lert:{width}"
    text = f"the {word} width for whatever comes: the gateway with `policy: {policy}`"
    return Baseline(f"always {width} %", text, policy=policy, width=width)


def only_family(models: Sequence[ServedModel]) -> tuple[Family, tuple[ServedModel, ...]]:
    """Return the only family that a server serves and its models, ascending by width.

    Raises:
        ConfigError: There is none, or more than one.
    """
    families = sorted({model.family for model in models})
    if len(families) != 1:
        found = ", ".join(families) or "no family"
        raise ConfigError(f"the repository serves {found}; the demo compares policies on one, so give one that has one")
    return families[0], tuple(sorted(models, key=lambda model: model.width))
