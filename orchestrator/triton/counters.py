"""Each model's counters from Triton's Prometheus endpoint.

ModelStatistics over gRPC has them too, but builds a JSON document a model on the one thread that answers all of
Triton's control calls, and is set back by each full reload. These series survive a reload and go with an unload; all
but those of failures, which Triton forgets to take away and goes on counting after the next load. A model is here when
it has the others.

Warm-up counts: an instance that warms up by a batch of 64 adds 64 requests, and the batch's time to each of them.

Fetching and parsing the page of four models takes 0.9 ms of CPU, of which prometheus_client's parser takes 0.7.

A series is summed over what distinguishes it beside the model: versions, GPUs and failure reasons.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import math
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.errors import ServerUnavailableError, TransientError
from orchestrator.planner.rates import Counters
from orchestrator.snapshot import ModelName

PREFIX = "nv_inference_"
_CLIENTS_OWN = ("REJECTED", "CANCELED")  # a full queue and a client that gave up say nothing of a model's health
LIMIT_BYTES = 16 * 2**20  # hundreds of models stay far below; whatever is larger is no metrics page

_FIELDS: Mapping[str, str] = {
    f"{PREFIX}request_success": "requests",
    f"{PREFIX}request_failure": "failures",
    f"{PREFIX}count": "items",
    f"{PREFIX}exec_count": "executions",
    f"{PREFIX}queue_duration_us": "queue_us",
    f"{PREFIX}compute_input_duration_us": "service_us",
    f"{PREFIX}compute_infer_duration_us": "service_us",
    f"{PREFIX}compute_output_duration_us": "service_us",
    f"{PREFIX}pending_request_count": "pending_requests",
}


async def read_counters(url: str, *, timeout_s: float) -> dict[ModelName, Counters]:
    """Return the counters of every model that the server has loaded.

    Raises:
        ServerUnavailableError: Nobody answers at the URL, or not all of it within the time.
        TransientError: Something else than Triton's metrics came back.
    """
    opened, is_over = list[socket.socket](), threading.Event()

    def hold(connected: socket.socket) -> None:
        opened.append(connected)
        if is_over.is_set():
            raise TimeoutError("nobody waits for it any more")

    try:
        async with asyncio.timeout(timeout_s):
            text = await asyncio.to_thread(_fetch, url, timeout_s, hold)
    except TimeoutError as exc:
        raise ServerUnavailableError(f"can't read Triton's metrics at {url}: timed out after {timeout_s:g} s") from exc
    finally:
        is_over.set()
        for connected in opened:  # ends the read of a page that drips, which would keep one thread after the other
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
    try:
        return parse_counters(text)
    except ValueError as exc:
        raise TransientError(f"{url} does not answer with Triton's metrics: {' '.join(str(exc).split())}") from exc


def parse_counters(text: str) -> dict[ModelName, Counters]:
    """Return the counters in a page of Triton's metrics; empty when it has loaded no model.

    Raises:
        ValueError: The text is no such page.
    """
    if "# TYPE nv_" not in text:  # a Triton that has loaded nothing still shows its memory pools
        raise ValueError("there is no series nv_* in it")
    sums: defaultdict[ModelName, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for family in _parse_page(text):
        for sample in family.samples:
            # Triton names counters without the ending that the parser then adds.
            field = _FIELDS.get(sample.name.removesuffix("_total"))
            if field is None:
                continue
            if sample.labels.get("reason") in _CLIENTS_OWN:
                continue
            if "model" not in sample.labels:
                raise ValueError(f"{sample.name} names no model")
            if not (math.isfinite(sample.value) and sample.value >= 0):
                raise ValueError(f"{sample.name} of {sample.labels['model']} is {sample.value}")
            sums[ModelName(sample.labels["model"])][field] += sample.value
    return {name: _build(values) for name, values in sums.items() if "requests" in values}


def _parse_page(text: str) -> list[Metric]:
    try:
        return list(text_string_to_metric_families(text))
    except Exception as exc:  # at nonsense the parser fails by chance: IndexError for a bare "!", say
        raise ValueError(f"it can't be parsed ({type(exc).__name__}: {exc})") from exc


def _build(values: Mapping[str, float]) -> Counters:
    return Counters(
        requests=round(values["requests"]),
        failures=round(values["failures"]),
        items=round(values["items"]),
        executions=round(values["executions"]),
        queue_s=values["queue_us"] / 1e6,
        service_s=values["service_us"] / 1e6,
        pending_requests=round(values["pending_requests"]),
    )


def _fetch(url: str, timeout_s: float, on_connected: Callable[[socket.socket], None]) -> str:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)
    try:
        connection.connect()
        on_connected(connection.sock)
        connection.request("GET", parts.path or "/")
        response = connection.getresponse()
        body = response.read(LIMIT_BYTES)
        left_bytes = response.length
    except OSError as exc:
        reason = exc.strerror or str(exc) or type(exc).__name__
        raise ServerUnavailableError(f"can't read Triton's metrics at {url}: {reason}") from exc
    except http.client.HTTPException as exc:
        raise TransientError(f"{url} does not answer in HTTP ({type(exc).__name__})") from exc
    finally:
        connection.close()
    if left_bytes:  # half a page would look like counters that were set back
        raise TransientError(f"{url} breaks off after {len(body)} of {len(body) + left_bytes} bytes")
    if response.status != http.HTTPStatus.OK:
        raise TransientError(f"{url} answers with status {response.status} instead of Triton's metrics")
    return body.decode(errors="replace")
