"""The readings of a host that a FakeTriton runs on."""

from __future__ import annotations

import asyncio
from typing import Protocol

from orchestrator.telemetry.reading import HostReading, Reading

MIB = 2**20


class Host(Protocol):
    """What there is to read; FakeTriton has it."""

    is_up: bool
    is_python_based: bool
    starts: int

    def memory_bytes(self) -> int: ...

    def busy_ratio(self) -> float: ...

    def live_instances(self) -> dict[str, int]: ...

    def largest_instances(self) -> dict[str, int]: ...

    def overhead_bytes(self) -> int: ...


class FakeTelemetry:
    """The host of a FakeTriton; a test may make each value unreadable."""

    def __init__(self, server: Host) -> None:
        self._server = server
        self.is_memory_readable = True
        self.is_utilisation_readable = True
        self.is_process_visible = True
        self.total_bytes = 8 * 1024 * MIB
        self.reads = 0

    async def read(self) -> HostReading:
        await asyncio.sleep(0)
        self.reads += 1
        server = self._server
        is_seen = self.is_process_visible and server.is_up
        hidden = Reading.absent("no tritonserver found")
        memory = Reading(float(server.memory_bytes()), "fake") if is_seen and self.is_memory_readable else hidden
        busy = Reading(server.busy_ratio(), "fake") if is_seen and self.is_utilisation_readable else hidden
        return HostReading(
            memory_used_bytes=memory,
            memory_total_bytes=Reading(float(self.total_bytes), "fake"),
            utilisation_ratio=busy,
            power_w=Reading.absent("no sensor"),
            energy_j=Reading.absent("no sensor"),
            server_id=f"start-{server.starts}" if is_seen else None,
            live_instances=server.live_instances() if is_seen and server.is_python_based else None,
            instance_bytes=server.largest_instances() if is_seen and server.is_python_based else {},
            overhead_bytes=server.overhead_bytes() if is_seen and server.is_python_based else None,
        )
