"""Policies that other packages bring, by entry points of the group ``slimsched.policies``.

The entry point's name is the policy's, and what it stands for is called with the whole name as it was written and with
a number for each knob. Mostly that is the policy's own class: a frozen dataclass with the fields ``name`` and the
knobs, and ``knobs`` as a class variable. So a plug-in needs no base class.

Such a policy decides on values. It could bring compiled functions too, but the tables are no interface for others:
their columns change from version to version. That costs some tens of microseconds for a decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from orchestrator.errors import ConfigError
from orchestrator.installed.plugins import PluginGroup
from orchestrator.policies.knobs import Knob, parse_knobs
from orchestrator.policies.protocol import Binding, Policy

PLUGINS: Final = PluginGroup("slimsched.policies", "policy")


class PolicyPlugin(Protocol):
    """What an entry point stands for: makes a policy of its whole name and its knobs; raises ValueError for bad ones.

    An attribute ``knobs``, a sequence of ``Knob``, says which there are; without it there are none.
    """

    def __call__(self, name: str, /, **knobs: float) -> Policy:
        """Return the policy, whose ``name`` is the given one."""


def plugin_knobs(name: str) -> Sequence[Knob]:
    """Return the knobs of the plug-in that is called so before the first comma.

    Raises:
        ConfigError: It can't be imported, or its knobs are none.
    """
    return _knobs(PLUGINS.load(name), name)


def parse_plugin(name: str) -> Policy:
    """Return the policy of a plug-in: ``NAME[,KNOB=NUMBER…]``.

    Raises:
        ConfigError: It can't be imported, doesn't take these knobs, or makes something that is no policy.
    """
    head, _, text = name.partition(",")
    plugin: PolicyPlugin = PLUGINS.load(head)
    known = _knobs(plugin, head)
    places = parse_knobs(text, known, policy=name)
    knobs = {knob.name: places[knob.at] for knob in known}
    policy = PLUGINS.call(head, lambda: plugin(name, **knobs), written=name)
    if not (
        callable(getattr(policy, "choose", None))
        and isinstance(getattr(policy, "binding", None), Binding)
        and getattr(policy, "name", None) == name
    ):
        raise ConfigError(
            f"policy {name!r} of {PLUGINS.origin(head)} is no policy: it needs a method choose, a binding that is a "
            "Binding, and as its name the one that it was made with; see docs/tutorials/own-policy.md"
        )
    return policy


def _knobs(plugin: PolicyPlugin, name: str) -> Sequence[Knob]:
    knobs: Sequence[Knob] = getattr(plugin, "knobs", ())
    if not all(isinstance(knob, Knob) and not knob.is_of_servers for knob in knobs):
        raise ConfigError(f"policy {name!r} of {PLUGINS.origin(name)}: its knobs must be Knobs of one number each")
    if len({knob.at for knob in knobs}) < len(knobs):
        raise ConfigError(
            f"policy {name!r} of {PLUGINS.origin(name)}: two of its knobs have one place; number them from 0 on"
        )
    return knobs
