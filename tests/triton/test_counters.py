"""Pages of Triton's metrics, recorded and damaged, and servers that answer with something else."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from orchestrator.errors import ServerUnavailableError, TransientError
from orchestrator.planner.rates import Counters
from orchestrator.snapshot import ModelName
from orchestrator.triton.counters import parse_counters, read_counters

EMPTY = """\
# HELP nv_pinned_memory_pool_total_bytes Pinned memory pool total memory size, in bytes
# TYPE nv_pinned_memory_pool_total_bytes gauge
nv_pinned_memory_pool_total_bytes 0
"""
PAGE = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{gpu_uuid="GPU-1",model="a",version="1"} 30
nv_inference_request_success{gpu_uuid="GPU-2",model="a",version="1"} 12
nv_inference_request_success{model="b",version="1"} 1
# HELP nv_inference_request_failure Number of failed inference requests, all batch sizes
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="a",reason="OTHER",version="1"} 1
nv_inference_request_failure{model="a",reason="BACKEND",version="1"} 2
nv_inference_request_failure{model="a",reason="REJECTED",version="2"} 4
# TYPE nv_inference_count counter
nv_inference_count{model="a",version="1"} 50
# TYPE nv_inference_exec_count counter
nv_inference_exec_count{model="a",version="1"} 10
# TYPE nv_inference_request_duration_us counter
nv_inference_request_duration_us{model="a",version="1"} 9999999
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{model="a",version="1"} 1500000
# TYPE nv_inference_compute_input_duration_us counter
nv_inference_compute_input_duration_us{model="a",version="1"} 100000
# TYPE nv_inference_compute_infer_duration_us counter
nv_inference_compute_infer_duration_us{model="a",version="1"} 2.2e+06
# TYPE nv_inference_compute_output_duration_us counter
nv_inference_compute_output_duration_us{model="a",version="1"} 200000
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="a",version="1"} 7
"""


def test_series_are_summed_and_microseconds_become_seconds_and_what_clients_are_to_blame_for_is_left_out() -> None:
    assert parse_counters(EMPTY + PAGE) == {
        "a": Counters(requests=42, failures=3, items=50, executions=10, queue_s=1.5, service_s=2.5, pending_requests=7),
        "b": Counters(requests=1),
    }


def test_an_unloaded_model_has_only_failures_and_no_counters() -> None:
    page = PAGE + 'nv_inference_request_failure{model="gone",reason="OTHER",version="1"} 3\n'
    assert "gone" not in parse_counters(page)


def test_a_server_that_has_loaded_nothing_has_no_counters() -> None:
    assert parse_counters(EMPTY) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no series nv_"),
        ("<html>\n<body>hello</body>", "no series nv_"),
        ("# TYPE nv_x gauge\nnv_x{", ""),
        (PAGE.replace(" 50\n", " many\n"), "many"),
        (PAGE.replace(" 50\n", " NaN\n"), "nv_inference_count_total of a is nan"),
        (PAGE.replace(" 50\n", " -1\n"), "is -1"),
        (PAGE.replace(" 50\n", " +Inf\n"), "is inf"),
        (PAGE.replace('{model="a",version="1"} 50', " 50"), "names no model"),
        (PAGE[: len(PAGE) // 2 - 3], ""),
        ("# TYPE nv_x gauge\n\x00\xff\x01{}{}{}\n", ""),
    ],
)
def test_a_damaged_page_is_a_value_error_or_counts_what_is_there(text: str, problem: str) -> None:
    with contextlib.suppress(ValueError) if not problem else pytest.raises(ValueError, match=problem):
        parse_counters(text)


Say = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(say: Say) -> AsyncIterator[str]:
    """A server that says something to everyone; it ends when all have left."""
    open_count = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_count
        open_count += 1
        with contextlib.suppress(ConnectionError):
            await say(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        open_count -= 1

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics"
        while open_count:
            await asyncio.sleep(0.01)


def answering(raw: bytes | None) -> contextlib.AbstractAsyncContextManager[str]:
    """A server that says the same to everyone; None says nothing at all."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if raw is None:
            await reader.read()
        else:
            writer.write(raw)

    return serving(say)


def http(body: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


async def test_a_page_is_fetched() -> None:
    async with answering(http(PAGE)) as url:
        assert (await read_counters(url, timeout_s=5))[ModelName("a")].requests == 42


@pytest.mark.parametrize(
    ("raw", "kind", "problem"),
    [
        (http("no", "404 Not Found"), TransientError, "answers with status 404"),
        (http("<html>"), TransientError, "does not answer with Triton's metrics: there is no series"),
        (http(PAGE.replace(" 50\n", " NaN\n")), TransientError, "is nan"),
        (b"SSH-2.0\r\n\r\n", TransientError, "does not answer in HTTP"),
        (http(PAGE)[:300], TransientError, "breaks off after 2"),
        (http(PAGE, "200 OK\r\nTransfer-Encoding: chunked"), TransientError, "does not answer in HTTP"),
        (b"", ServerUnavailableError, "can't read"),
        (None, ServerUnavailableError, "timed out"),
    ],
)
async def test_what_is_no_page_is_one_line_with_the_url(
    raw: bytes | None, kind: type[TransientError], problem: str
) -> None:
    async with answering(raw) as url:
        with pytest.raises(TransientError) as caught:
            await read_counters(url, timeout_s=0.3)
    assert type(caught.value) is kind
    assert problem in str(caught.value)
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/metrics", "http://no-such-host.invalid:8002/metrics"])
async def test_nobody_there_is_unavailable(url: str) -> None:
    with pytest.raises(ServerUnavailableError, match="can't read Triton's metrics at http://"):
        await read_counters(url, timeout_s=2)


@pytest.mark.parametrize("begin", ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"])
async def test_pages_that_drip_without_end_are_given_up_and_keep_no_thread(begin: str) -> None:
    """Each piece comes before any read times out; a pool of threads would be full after some."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begin.encode())
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with asyncio.timeout(60), serving(drip) as url:
        threads = (os.cpu_count() or 1) + 4
        for _ in range(3):
            reads = [read_counters(url, timeout_s=0.3) for _ in range(threads)]
            for error in await asyncio.gather(*reads, return_exceptions=True):
                assert isinstance(error, ServerUnavailableError)
                assert "timed out" in str(error)
        assert await asyncio.to_thread(str) == ""
