"""Policies that other packages bring, by entry points of the group ``slimsched.policies``.

The entry point's name is the policy's, and what it stands for is called with the whole name as it was written and with
a number for each knob. Mostly that is the policy's own class: a frozen dataclass with the fields ``name`` and the
knobs, and ``knobs`` as a class variable. So a plug-in needs no base class and nothing is registered by importing it:
a package is looked at when its policy is named.

Such a policy decides on values. It could bring compiled functions too, but the tables are no interface for others:
their columns change from version to version. That costs some tens of microseconds for a decision.

Names of ours come first, so that no package that happens to be installed can change what a fleet file means.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final, Protocol

from orchestrator.errors import ConfigError
from orchestrator.policies.knobs import Knob, parse_knobs
from orchestrator.policies.protocol import Binding, Policy

GROUP: Final = "slimsched.policies"
"""Of the entry points."""


class PolicyPlugin(Protocol):
    """What an entry point stands for: makes a policy of its whole name and its knobs; raises ValueError for bad ones.

    An attribute ``knobs``, a sequence of ``Knob``, says which there are; without it there are none.
    """

    def __call__(self, name: str, /, **knobs: float) -> Policy:
        """Return the policy, whose ``name`` is the given one."""


def plugin_names() -> tuple[str, ...]:
    """Return the names of all policies that installed packages bring, sorted; none of them is imported."""
    return tuple(sorted(_entry_points()))


def plugin_version(name: str) -> str:
    """Return the package, with its version, that brings the policy called so before the first comma."""
    point = _entry_points()[name.partition(",")[0]]
    return point.value if point.dist is None else f"{point.dist.name} {point.dist.version}"


def plugin_knobs(name: str) -> Sequence[Knob]:
    """Return the knobs of the plug-in that is called so before the first comma.

    Raises:
        ConfigError: It can't be imported, or its knobs are none.
    """
    return _knobs(_load(name), name)


def parse_plugin(name: str) -> Policy:
    """Return the policy of a plug-in: ``NAME[,KNOB=NUMBER…]``.

    Raises:
        ConfigError: It can't be imported, doesn't take these knobs, or makes something that is no policy.
    """
    head, _, text = name.partition(",")
    plugin = _load(head)
    known = _knobs(plugin, head)
    places = parse_knobs(text, known, policy=name)
    try:
        policy = plugin(name, **{knob.name: places[knob.at] for knob in known})
    except (Exception, SystemExit) as exc:  # whatever it raises
        raise ConfigError(f"policy {name!r} of {_origin(head)} can't be made ({type(exc).__name__}: {exc})") from exc
    if not (
        callable(getattr(policy, "choose", None))
        and isinstance(getattr(policy, "binding", None), Binding)
        and getattr(policy, "name", None) == name
    ):
        raise ConfigError(
            f"policy {name!r} of {_origin(head)} is no policy: it needs a method choose, a binding that is a Binding, "
            "and as its name the one that it was made with; see docs/tutorials/own-policy.md"
        )
    return policy


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load(name: str) -> PolicyPlugin:
    try:
        plugin: PolicyPlugin = _entry_points()[name].load()
    except (Exception, SystemExit) as exc:  # whatever the package does while it is imported, to end the process too
        raise ConfigError(
            f"policy {name!r} of {_origin(name)} can't be imported ({type(exc).__name__}: {exc}); mend the package or "
            "name another policy"
        ) from exc
    return plugin


def _knobs(plugin: PolicyPlugin, name: str) -> Sequence[Knob]:
    knobs: Sequence[Knob] = getattr(plugin, "knobs", ())
    if not all(isinstance(knob, Knob) and not knob.is_of_servers for knob in knobs):
        raise ConfigError(f"policy {name!r} of {_origin(name)}: its knobs must be Knobs of one number each")
    if len({knob.at for knob in knobs}) < len(knobs):
        raise ConfigError(f"policy {name!r} of {_origin(name)}: two of its knobs have one place; number them from 0 on")
    return knobs


def _origin(name: str) -> str:
    point = _entry_points()[name]
    return point.dist.name if point.dist is not None else point.value
