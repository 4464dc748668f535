"""Settings files as frozen values, one section a component.

A component receives only its own section; only the command line reads fleet.yaml. Unknown keys, wrong types and
values out of range are refused with the key path, the value and what is allowed, because a misspelt key that is
silently ignored is found in production. Defaults live here and nowhere else, each with its unit and reason.
"""

from orchestrator.config.controller import ControllerSettings
from orchestrator.config.failures import EjectionSettings, ProbeSettings, RetrySettings
from orchestrator.config.fleet import (
    DecisionLogSettings,
    FleetSettings,
    GuardSettings,
    LimitSettings,
    OverloadSettings,
    PowerSettings,
    RouterSettings,
    ServerSettings,
    load_fleet,
    parse_fleet,
    render_fleet,
)
from orchestrator.config.gateway import (
    AuthSettings,
    ClientLimitSettings,
    GatewaySettings,
    PassthroughModelSettings,
    PeerSettings,
    TlsSettings,
)
from orchestrator.config.names import find_changes
from orchestrator.config.tenants import TenantSettings, load_tenants, parse_tenants

__all__ = [
    "AuthSettings",
    "ClientLimitSettings",
    "ControllerSettings",
    "DecisionLogSettings",
    "EjectionSettings",
    "FleetSettings",
    "GatewaySettings",
    "GuardSettings",
    "LimitSettings",
    "OverloadSettings",
    "PassthroughModelSettings",
    "PeerSettings",
    "PowerSettings",
    "ProbeSettings",
    "RetrySettings",
    "RouterSettings",
    "ServerSettings",
    "TenantSettings",
    "TlsSettings",
    "find_changes",
    "load_fleet",
    "load_tenants",
    "parse_fleet",
    "parse_tenants",
    "render_fleet",
]
