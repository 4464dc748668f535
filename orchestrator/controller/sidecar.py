"""What a controller is told of its own server beside the fleet file, which all of a fleet share.

In a pod the file is one for all, and has addresses by which other pods find a Triton: often one host name for all of
them. What differs from pod to pod comes as options, which Kubernetes fills in from the pod itself: its name, the memory
that Triton's container may use, the GPU. So one file serves gateways and controllers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.config import FleetSettings, ServerSettings, load_fleet
from orchestrator.errors import ConfigError
from orchestrator.validation import describe_problems, join_problems

_BESIDE = "127.0.0.1"
_LISTENS = "0.0.0.0"
_BYTES_PER_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ServerOfController:
    """A server of a fleet file, and how it differs beside this controller.

    Attributes:
        path: The fleet file.
        server: The server's name in the file; None: the only one there is.
        name: What it is called instead, in status, metrics and logs; None: as in the file.
        gpu: The index or UUID of its GPU or MIG instance; None: as in the file.
        memory_limit_bytes: What its container may use; None: as in the file.
        is_sidecar: Whether Triton shares this controller's network, whatever host the file says.
    """

    path: Path
    server: str | None = None
    name: str | None = None
    gpu: str | None = None
    memory_limit_bytes: int | None = None
    is_sidecar: bool = False

    def load(self) -> tuple[FleetSettings, ServerSettings]:
        """Return the fleet and the server as the file has them now.

        Raises:
            ConfigError: The file or an option can't be used, or the server is not in the file.
        """
        fleet = load_fleet(self.path)
        if self.server is None and len(fleet.servers) > 1:
            there = ", ".join(server.name for server in fleet.servers)
            raise ConfigError(f"{self.path} has the servers {there}; name this controller's by --server")
        server = fleet.servers[0] if self.server is None else fleet.server(self.server)
        try:
            return fleet, ServerSettings.model_validate(self._change(server))
        except ValidationError as exc:
            problems = [problem.text for problem in describe_problems(exc, ServerSettings)]
            source = f"servers[{server.name}] with this command's options"
            raise ConfigError(join_problems(source, problems)) from exc

    def _change(self, server: ServerSettings) -> dict[str, Any]:
        values: dict[str, Any] = server.model_dump(exclude_unset=True)
        limits: dict[str, Any] = values.setdefault("limits", {})
        if self.name is not None:
            values["name"] = self.name.replace(":", "-")  # an IPv6 address as gateways spell it, see config.names
        if self.gpu is not None:
            for key in ("gpu_index", "gpu_uuid"):
                limits.pop(key, None)
            limits["gpu_index" if self.gpu.isdecimal() else "gpu_uuid"] = self.gpu
        if self.memory_limit_bytes is not None:
            limits["memory_limit_mib"] = self.memory_limit_bytes / _BYTES_PER_MIB
        if self.is_sidecar:
            values["grpc"] = f"{_BESIDE}:{_port(server.grpc)}"
            if server.metrics is not None:
                scheme, _, rest = server.metrics.partition("://")
                authority, slash, path = rest.partition("/")
                values["metrics"] = f"{scheme}://{_BESIDE}:{_port(authority)}{slash}{path}"
            if server.controller is not None:
                values["controller"] = f"{_LISTENS}:{_port(server.controller)}"
        return values


def _port(address: str) -> str:
    return address.rpartition(":")[2]
