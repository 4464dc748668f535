"""``slimsched up`` whose gateway, or its supervisor, is killed while 200 requests a second come in."""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from orchestrator.triton.messages import SERVICE
from tests.cli.test_real_up import SCRIPT, Up, wait
from tests.gateway.running import raw_request

pytestmark = pytest.mark.integration

RATE_PER_S = 100  # of each of two callers
MORE = 12 * RATE_PER_S
METHOD = {"name": [{"service": SERVICE}]}
RETRIES = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]


class Caller:
    """Sends a request when its time has come, whatever became of those before it, over one channel; counts the ends."""

    def __init__(self, address: str, *, retries: bool) -> None:
        config = json.dumps({"methodConfig": [{**METHOD, **({"retryPolicy": RETRIES} if retries else {})}]})
        self._options = [*OPTIONS, ("grpc.service_config", config), ("grpc.use_local_subchannel_pool", 1)]
        self._address = address
        self._is_over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.ends: collections.Counter[str] = collections.Counter()

    @property
    def failed(self) -> int:
        return self.ends.total() - self.ends["ok"]

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over = True
        self._thread.join()

    async def _run(self) -> None:
        message = raw_request("fashion").SerializeToString()
        channel: Any
        async with grpc.aio.insecure_channel(self._address, self._options) as channel, asyncio.TaskGroup() as calls:
            infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            begun_s = time.monotonic()
            for number in itertools.count():
                if self._is_over:
                    return
                await asyncio.sleep(max(0.0, begun_s + number / RATE_PER_S - time.monotonic()))
                calls.create_task(self._ask(infer, message))

    async def _ask(self, infer: Any, message: bytes) -> None:
        try:
            await infer(message, timeout=60)
            self.ends["ok"] += 1
        except grpc.RpcError as exc:
            error: Any = exc
            self.ends[f"{error.code().name}: {error.details()}"] += 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_gateway_costs_at_most_what_is_under_way(tmp_path: Path, workers: int) -> None:
    up = Up(tmp_path, workers=workers)
    with up.running():
        retrying, single = Caller(up.grpc, retries=True), Caller(up.grpc, retries=False)
        with retrying, single:
            wait(lambda: min(retrying.ends["ok"], single.ends["ok"]) > 2 * RATE_PER_S, up.said)
            os.kill(up.find(SCRIPT, "\0gateway\0"), signal.SIGKILL)
            up.wait_said("gateway was killed by SIGKILL; started again")
            up.wait_said("gateway runs again")
            assert (up.state / "gateway.log").read_text().count("metrics on") == 2, "it is said when it serves"
            # With a supervisor that was killed, until its workers have ended and their clients have moved.
            before = retrying.ends["ok"], single.ends["ok"]
            wait(lambda: min(retrying.ends["ok"] - before[0], single.ends["ok"] - before[1]) > MORE, up.said)
    assert retrying.failed == 0, retrying.ends
    # The connections of a single gateway break, and with them what is under way; those of workers do not.
    assert single.failed < (RATE_PER_S if workers == 1 else 1), single.ends
