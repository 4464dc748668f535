import asyncio
import logging

import pytest

from orchestrator.embedded.model_index import load_again, served_models, unserved_models


def test_a_model_is_served_when_any_of_its_versions_is() -> None:
    index = [
        {"name": "good", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "good", "version": "2", "state": "READY"},
        {
            "name": "bad",
            "version": "1",
            "state": "UNAVAILABLE",
            "reason": "Internal: TritonModelException: no\nsuch\n\nAt:\n x",
        },
        {"name": "odd"},
    ]
    assert served_models(index) == {"good"}
    assert unserved_models(index) == {"bad": "no such", "odd": "its config.pbtxt can't be read or fits no model"}
    assert unserved_models([]) == {}


def test_a_reason_that_triton_repeats_for_each_request_of_a_warm_up_is_told_once() -> None:
    died = "Stub process 'm_0_0' is not healthy."
    index = [
        {"name": "m", "state": "UNAVAILABLE", "reason": f"failed to run warmup sample 'x': {died}; {died}; {died};"}
    ]
    assert unserved_models(index) == {"m": f"failed to run warmup sample 'x': {died}; {died}"}


async def test_a_second_load_that_takes_long_is_waited_for_and_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    may_answer = asyncio.Event()

    async def answer_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        await may_answer.wait()
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer_later, "127.0.0.1", 0) as slow:
        loading = asyncio.create_task(load_again("127.0.0.1", slow.sockets[0].getsockname()[1], "m", tell_s=0.01))
        while "tritonserver loads m once more" not in caplog.text:
            assert not loading.done()
            await asyncio.sleep(0.01)
        assert not loading.done()
        may_answer.set()
        await loading


async def test_a_second_load_at_a_server_that_has_died_ends() -> None:
    async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0) as gone:
        await load_again("127.0.0.1", gone.sockets[0].getsockname()[1], "m")
