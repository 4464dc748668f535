"""The gRPC transport and the data plane, over a fake fleet."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import grpc
import numpy as np
import pytest

from orchestrator.errors import (
    CapacityError,
    ConfigError,
    DeadlineError,
    ModelNotFoundError,
    PermanentError,
    ServerUnavailableError,
    SlimError,
    TransientError,
)
from orchestrator.gateway.auth.callers import ForbiddenError
from orchestrator.gateway.dataplane.exchange import Exchange
from orchestrator.gateway.http.errors import http_status_of
from orchestrator.gateway.protocol.messages import pb, read_value
from orchestrator.gateway.protocol.tensors import decode_bytes
from orchestrator.gateway.protocol.wire import MalformedMessageError
from orchestrator.gateway.statuses import status_of
from orchestrator.profile.document import EnergySource
from orchestrator.profile.fit import EnergyLine, EnergyTable
from orchestrator.triton.errors import RefusedCallError
from orchestrator.triton.messages import SERVICE
from tests.gateway.calls import RawCalls, echo_request, item_request
from tests.gateway.fakes import World, open_world


def scores(response: Any) -> np.ndarray:
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(response.outputs[0].shape)


@pytest.mark.parametrize(
    ("error", "status", "http_status"),
    [
        (ConfigError("x"), "INVALID_ARGUMENT", 400),
        (PermanentError("x"), "INVALID_ARGUMENT", 400),
        (ModelNotFoundError("x"), "NOT_FOUND", 404),
        (CapacityError("x"), "RESOURCE_EXHAUSTED", 429),
        (DeadlineError("x"), "DEADLINE_EXCEEDED", 504),
        (ServerUnavailableError("x"), "UNAVAILABLE", 503),
        (TransientError("x"), "INTERNAL", 500),
        (ForbiddenError("x"), "PERMISSION_DENIED", 403),
        (MalformedMessageError("x"), "INTERNAL", 400),
        (RefusedCallError("ALREADY_EXISTS", "x"), "ALREADY_EXISTS", 409),
        (RefusedCallError("DATA_LOSS", "x"), "DATA_LOSS", 500),
    ],
)
def test_every_error_has_its_status(error: SlimError, status: str, http_status: int) -> None:
    assert status_of(error) == status
    assert http_status_of(error) == http_status


async def test_a_family_answers_with_what_was_decided(raw: RawCalls) -> None:
    response = await raw.infer(item_request(7, items=2, id="mine", parameters={"slim_width": "50"}))
    assert (response.model_name, response.model_version, response.id) == ("fashion", "1", "mine")
    assert scores(response).shape == (2, 10)
    assert list(scores(response).argmax(axis=1)) == [7, 7]
    parameters = {name: read_value(value) for name, value in response.parameters.items()}
    assert parameters.pop("slim_server") in ("a", "b")
    assert parameters.pop("slim_queue_us") >= 0
    assert parameters.pop("slim_decision_id")
    assert parameters == {
        "slim_width": 50,
        "slim_batch": 2,
        "slim_expected_accuracy": 0.917,
        "slim_policy": "lert:brownout",
    }


async def test_contents_may_be_typed_instead_of_raw(raw: RawCalls) -> None:
    request = item_request(4)
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([4.0] * 4)
    assert scores(await raw.infer(request)).argmax() == 4


async def test_classification_gives_the_best_classes_as_text(raw: RawCalls) -> None:
    request = item_request(3, items=2)
    request.outputs.add(name="logits").parameters["classification"].int64_param = 2
    response = await raw.infer(request)
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [2, 2])
    texts = decode_bytes(response.raw_output_contents[0], "logits")
    assert texts[:2] == [b"4.000000:3:class 3", b"0.000000:0:class 0"]


def changed(**changes: Any) -> Any:
    request = item_request(**changes.pop("request", {}))
    tensor = request.inputs[0]
    for name, value in changes.items():
        if name == "shape":
            tensor.shape[:] = value
        elif name == "raw":
            request.raw_input_contents[:] = value
        elif name == "outputs":
            for output in value:
                request.outputs.add(name=output)
        else:
            setattr(tensor, name, value)
    return request


@pytest.mark.parametrize(
    ("request_", "status", "problem"),
    [
        (changed(name="foo"), "INVALID_ARGUMENT", "unexpected inference input 'foo' for model 'fashion'"),
        (changed(datatype="FP64"), "INVALID_ARGUMENT", "data-type is 'FP64', but model 'fashion' expects 'FP32'"),
        (changed(datatype="FOO"), "INVALID_ARGUMENT", "data-type is '<invalid>'"),
        (changed(shape=[1, 1, 2, 3]), "INVALID_ARGUMENT", "Expected [-1,1,2,2], got [1,1,2,3]"),
        (changed(shape=[1, 2, 2]), "INVALID_ARGUMENT", "Expected [-1,1,2,2], got [1,2,2]"),
        (changed(shape=[0, 1, 2, 2]), "INVALID_ARGUMENT", "nothing is in it"),
        (changed(shape=[2**40, 1, 2, 2]), "INVALID_ARGUMENT", "batch-size must be <= 32"),
        (changed(raw=[b"1234"]), "INVALID_ARGUMENT", "Expected 16, got 4"),
        (changed(raw=[]), "INVALID_ARGUMENT", "unable to find data for input tensor 'pixels'"),
        (changed(outputs=["foo"]), "INVALID_ARGUMENT", "unexpected inference output 'foo'"),
        (changed(request={"items": 33}), "INVALID_ARGUMENT", "batch-size must be <= 32"),
        (changed(request={"parameters": {"slim_deadline_ms": float("nan")}}), "INVALID_ARGUMENT", "slim_deadline_ms"),
        (changed(request={"parameters": {"slim_typo": 1}}), "INVALID_ARGUMENT", "slim_typo"),
        (changed(request={"parameters": {"slim_width": 33}}), "INVALID_ARGUMENT", "no width has width=33"),
        (changed(request={"model": "nope"}), "NOT_FOUND", "Request for unknown model: 'nope' is not found"),
        (changed(request={"model_version": "2"}), "NOT_FOUND", "'fashion' version 2 is not found"),
        (changed(request={"model_version": "x"}), "INVALID_ARGUMENT", "version string 'x' (details: stol)"),
        (changed(request={"model_version": "9" * 40}), "INVALID_ARGUMENT", "(details: stol)"),
        (b"\xff\xff\xff", "INTERNAL", "Unable to parse request"),
        (b"\x0a\x02\xff\xfe", "INTERNAL", "Unable to parse request"),
        (b"\x0a\x07fashion\x2a\x02\xff\xff", "INTERNAL", "Unable to parse request"),
    ],
)
async def test_what_does_not_fit_is_refused_in_tritons_words(
    raw: RawCalls, request_: Any, status: str, problem: str
) -> None:
    code, detail = await raw.refused("ModelInfer", request_)
    assert code == status
    assert problem in detail


async def test_a_model_that_is_no_family_gets_and_gives_the_very_bytes(world: World, raw: RawCalls) -> None:
    # Field 99 is of no message that this code knows.
    message = echo_request(id="i").SerializeToString() + b"\x9a\x06\x03abc"
    answer = await raw.bytes("ModelInfer", message, metadata=(("x-mine", "1"), ("triton-grpc-protocol-k", "v")))
    ((_, seen, metadata),) = [
        call for triton in world.tritons.values() for call in triton.seen if call[0] == "ModelInfer"
    ]
    assert seen == message
    assert ("x-mine", "1") in metadata
    assert answer == world.tritons["a"].answer_infer(message).SerializeToString()


async def test_a_server_that_did_not_run_it_costs_no_request(world: World, raw: RawCalls) -> None:
    for triton in world.tritons.values():
        triton.in_flight = 1 if triton is world.tritons["b"] else 0
    world.tritons["a"].refusals.append(RefusedCallError("UNAVAILABLE", "Server exiting", executed=False))
    assert (await raw.infer(echo_request())).model_name == "echo"
    assert [call[0] for call in world.tritons["b"].seen].count("ModelInfer") == 1


async def test_a_model_that_is_not_run_says_nothing_of_its_whole_server(world: World, raw: RawCalls) -> None:
    refusal = RefusedCallError("UNAVAILABLE", "Exceeds maximum queue size", executed=False)
    world.tritons["a"].refusals.append(refusal)
    assert await raw.refused("ModelInfer", echo_request("only_a")) == ("UNAVAILABLE", "Exceeds maximum queue size")
    assert (await raw.infer(echo_request("only_a"))).model_name == "only_a"


async def test_a_servers_own_error_comes_through_as_it_is(world: World, raw: RawCalls) -> None:
    world.tritons["a"].refusals.append(RefusedCallError("INVALID_ARGUMENT", "onnx runtime error: é"))
    assert await raw.refused("ModelInfer", echo_request("only_a")) == ("INVALID_ARGUMENT", "onnx runtime error: é")


async def test_a_single_width_is_reached_by_its_own_name(raw: RawCalls) -> None:
    response = await raw.infer(item_request(model="fashion_w050"))
    assert response.model_name == "fashion_w050"
    assert not response.parameters


async def test_widths_that_were_never_loaded_are_not_listed_either(world: World, raw: RawCalls) -> None:
    world.tritons["a"].unready = {"fashion_w010": "", "fashion_wide": "", "other_w025": ""}
    async with asyncio.timeout(10):
        while "fashion_wide" not in (names := [m.name for m in (await raw.ask("RepositoryIndex")).models]):
            await asyncio.sleep(0.01)
    assert names == ["fashion", "echo", "fashion_wide", "only_a", "other_w025"]


async def test_one_sequence_stays_on_one_server(world: World, raw: RawCalls) -> None:
    for number in range(1, 9):
        request = echo_request()
        request.parameters["sequence_id"].int64_param = number
        before = {name: len(triton.seen) for name, triton in world.tritons.items()}
        for load in (0, 9, 0, 9):
            world.tritons["a"].in_flight = load
            await raw.infer(request)
        grown = {
            name: [call[0] for call in triton.seen[before[name] :]].count("ModelInfer")
            for name, triton in world.tritons.items()
        }
        assert sorted(grown.values()) == [0, 4]


async def test_the_family_is_one_model(raw: RawCalls) -> None:
    index = await raw.ask("RepositoryIndex")
    assert [(m.name, m.version, m.state) for m in index.models] == [
        ("fashion", "1", "READY"), ("echo", "1", "READY"), ("only_a", "1", "READY"),
    ]  # fmt: skip
    metadata = await raw.ask("ModelMetadata", name="fashion")
    assert (metadata.name, list(metadata.versions), list(metadata.inputs[0].shape)) == ("fashion", ["1"], [-1, 1, 2, 2])
    config = (await raw.ask("ModelConfig", name="fashion")).config
    assert (config.name, config.max_batch_size, len(config.model_warmup)) == ("fashion", 32, 0)
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "slim.family": "fashion",
        "slim.widths": "25,50,75,100",
        "slim.accuracies": "0.905,0.917,0.924,0.928",
    }
    server = await raw.ask("ServerMetadata")
    assert (server.name, "statistics" in server.extensions) == ("slim-scheduler", True)


async def test_statistics_are_the_fleets_sum_and_survive_reloads(world: World, raw: RawCalls) -> None:
    world.tritons["a"].counts = {"fashion_w025": 3, "fashion_w050": 4, "echo": 1}
    world.tritons["b"].counts = {"fashion_w025": 5, "echo": 2}

    async def count(name: str) -> int:
        (found,) = (await raw.ask("ModelStatistics", name=name)).model_stats
        assert found.name == name
        return int(found.inference_count)

    assert [await count(name) for name in ("fashion", "fashion_w025", "echo")] == [12, 8, 3]
    world.tritons["a"].counts["fashion_w025"] = 1
    assert await count("fashion") == 13
    world.tritons["b"].is_up = False
    assert await count("fashion") == 13
    everything = await raw.ask("ModelStatistics")
    assert {m.name for m in everything.model_stats} == {"fashion", "echo", "only_a"}
    assert (await raw.refused("ModelStatistics", pb.ModelStatisticsRequest(name="nope")))[0] == "INVALID_ARGUMENT"


async def test_health_tells_the_truth(world: World, raw: RawCalls) -> None:
    check = raw.channel.unary_unary("/grpc.health.v1.Health/Check")

    async def health() -> tuple[bool, bool, bool, bytes]:
        return (
            (await raw.ask("ServerLive")).live,
            (await raw.ask("ServerReady")).ready,
            (await raw.ask("ModelReady", name="fashion")).ready,
            await check(b""),
        )

    assert await health() == (True, True, True, b"\x08\x01")
    assert (await raw.ask("ModelReady", name="echo", version="1")).ready
    assert not (await raw.ask("ModelReady", name="echo", version="2")).ready
    assert not (await raw.ask("ModelReady", name="nope")).ready
    for name in ("a", "b"):
        world.servers[name].is_up = world.tritons[name].is_up = False
    async with asyncio.timeout(10):
        while await health() != (True, False, False, b"\x08\x02"):
            await asyncio.sleep(0.01)
        while (await raw.ask("RepositoryIndex", ready=True)).models:  # the servers are looked at one after the other
            await asyncio.sleep(0.01)
    index = await raw.ask("RepositoryIndex")
    assert {m.name: (m.state, bool(m.reason)) for m in index.models}["fashion"] == ("UNAVAILABLE", True)
    assert (await raw.refused("ModelInfer", echo_request()))[0] == "UNAVAILABLE"
    for name in ("a", "b"):
        world.servers[name].is_up = world.tritons[name].is_up = True
    async with asyncio.timeout(10):
        while await health() != (True, True, True, b"\x08\x01"):
            await asyncio.sleep(0.01)


async def test_a_family_that_left_all_repositories_is_expected_no_more() -> None:
    # A request that comes before it is known that nobody serves it waits for its time to be over.
    async with (
        open_world(router={"request_timeout_s": 0.2}) as world,
        grpc.aio.insecure_channel(world.grpc) as channel,
    ):
        raw = RawCalls(channel)
        for name in ("a", "b"):
            world.servers[name].models = ()
            world.tritons[name].widths = {}
        async with asyncio.timeout(10):
            while (await raw.refused("ModelInfer", item_request()))[0] != "NOT_FOUND":
                await asyncio.sleep(0.01)
            while not (await raw.ask("ServerReady")).ready:
                await asyncio.sleep(0.01)


async def test_a_family_whose_widths_are_unloaded_is_unavailable(world: World, raw: RawCalls) -> None:
    for name in ("a", "b"):
        triton = world.tritons[name]
        world.servers[name].models = ()
        triton.unready, triton.widths = dict.fromkeys(triton.widths, "unloaded"), {}
    async with asyncio.timeout(10):
        while (await raw.ask("ServerReady")).ready:
            await asyncio.sleep(0.01)
    assert (await raw.refused("ModelInfer", item_request()))[0] == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("RepositoryModelLoad", {"model_name": "echo"}),
        ("RepositoryModelUnload", {"model_name": "echo"}),
        ("SystemSharedMemoryRegister", {"name": "r"}),
        ("CudaSharedMemoryRegister", {"name": "r"}),
        ("SystemSharedMemoryUnregister", {"name": "r"}),
        ("CudaSharedMemoryUnregister", {"name": "r"}),
        ("TraceSetting", {"settings": {"trace_rate": {"value": ["1"]}}}),
        ("LogSettings", {"settings": {"log_info": {"bool_param": True}}}),
    ],
)
async def test_what_reaches_into_servers_is_closed(
    world: World, raw: RawCalls, method: str, fields: dict[str, Any]
) -> None:
    status, detail = await raw.refused(method, getattr(pb, f"{method}Request")(**fields))
    assert status == "PERMISSION_DENIED"
    assert "closed; see docs/gateway.md" in detail
    assert not [call for triton in world.tritons.values() for call in triton.seen if call[0] == method]


async def test_reading_settings_and_unregistering_all_succeed_without_a_server(world: World, raw: RawCalls) -> None:
    assert not (await raw.ask("TraceSetting")).settings
    assert not (await raw.ask("LogSettings")).settings
    for kind in ("System", "Cuda"):
        assert not (await raw.ask(f"{kind}SharedMemoryStatus")).regions
        await raw.ask(f"{kind}SharedMemoryUnregister")
        status = getattr(pb, f"{kind}SharedMemoryStatusRequest")(name="r")
        assert (await raw.refused(f"{kind}SharedMemoryStatus", status))[0] == "NOT_FOUND"
    assert not [call for triton in world.tritons.values() for call in triton.seen if "Shared" in call[0]]


async def test_a_stream_answers_in_order_of_completion_with_errors_inside(raw: RawCalls) -> None:
    bad = item_request(id="bad")
    bad.inputs[0].name = "foo"
    good = [item_request(n, id=str(n)) for n in range(5)]
    answers = await raw.stream([*good, bad, item_request(model="nope", id="unknown")])
    by_id = {answer.infer_response.id: answer for answer in answers}
    assert set(by_id) == {"0", "1", "2", "3", "4", "bad", "unknown"}
    assert "unexpected inference input 'foo'" in by_id["bad"].error_message
    assert "unknown model: 'nope'" in by_id["unknown"].error_message
    for number in range(5):
        response = by_id[str(number)].infer_response
        assert scores(response).argmax() == number
        assert response.parameters["triton_final_response"].bool_param


async def test_a_stream_carries_families_and_other_models_at_once(world: World, raw: RawCalls) -> None:
    answers = await raw.stream([echo_request(id="e"), item_request(id="f"), echo_request(id="e2")])
    assert sorted(answer.infer_response.id for answer in answers) == ["e", "e", "e2", "e2", "f"]
    streams = [stream for triton in world.tritons.values() for stream in triton.streams]
    assert len(streams) == 1, "a model stays with its server"
    assert streams[0].is_abandoned, "and is left at the end"


async def test_models_of_one_server_share_no_stream() -> None:
    """Triton 2.51 ends when a decoupled model shares one with another."""
    async with (
        open_world(others={"a": ("echo", "talk")}) as world,
        grpc.aio.insecure_channel(world.grpc) as channel,
    ):
        triton = world.tritons["a"]
        triton.scripts["talk"] = "rrr"
        asked = [echo_request(id="e"), echo_request("talk", id="t"), echo_request(id="e")]
        answers = await RawCalls(channel).stream(asked)
        assert sorted(answer.infer_response.id for answer in answers) == ["e"] * 4 + ["t"] * 3
        assert [stream.models for stream in triton.streams] == [["echo", "echo"], ["talk"]]
        assert all(stream.is_abandoned for stream in triton.streams)


@pytest.mark.parametrize(("version", "reason"), [("2", "'echo' version 2 is not found"), ("x", "(details: stol)")])
async def test_a_version_that_a_stream_asks_for_in_vain_reaches_no_server(
    world: World, raw: RawCalls, version: str, reason: str
) -> None:
    """Triton 2.51 ends when it refuses one on a stream of a decoupled model."""
    asked = [echo_request(), echo_request(model_version=version, id="wrong"), echo_request(model_version="1")]
    answers = await raw.stream(asked)
    assert [answer.infer_response.id for answer in answers if reason in answer.error_message] == ["wrong"]
    assert [answer.error_message for answer in answers].count("") == 4
    (stream,) = (stream for triton in world.tritons.values() for stream in triton.streams)
    assert stream.models == ["echo", "echo"]


ONE_CALL = [{"name": "echo", "max_calls": 1}]


async def test_a_call_that_is_passed_on_ends_at_its_clients_deadline_and_is_the_servers_until_answered() -> None:
    async with open_world(others={"a": ("echo",)}, pass_on_models=ONE_CALL) as world:
        world.tritons["a"].goes_on.clear()
        async with grpc.aio.insecure_channel(world.grpc) as channel:
            call: Any = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await call(echo_request().SerializeToString(), timeout=0.2)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(echo_request().SerializeToString())
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            world.tritons["a"].goes_on.set()
            await asyncio.sleep(0.05)
            await call(echo_request().SerializeToString())


async def test_a_stream_has_one_place_of_its_model_until_it_ends() -> None:
    async with (
        open_world(others={"a": ("echo",)}, pass_on_models=ONE_CALL) as world,
        grpc.aio.insecure_channel(world.grpc) as channel,
    ):
        raw = RawCalls(channel)
        first: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")()
        for _ in range(2):
            await first.write(echo_request().SerializeToString())
            assert await first.read()
        (refused,) = await raw.stream([echo_request(id="late")])
        assert refused.error_message.startswith("model 'echo' has 1 calls under way")
        await first.done_writing()
        while await first.read() is not grpc.aio.EOF:
            pass
        assert [answer.error_message for answer in await raw.stream([echo_request()])] == ["", ""]


async def test_a_stream_that_a_server_breaks_off_ends_with_its_status(world: World, raw: RawCalls) -> None:
    call = raw.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
    await call.write(echo_request("only_a").SerializeToString())
    assert await call.read()
    world.tritons["a"].streams[0].break_off(RefusedCallError("DATA_LOSS", "gone"))
    with pytest.raises(grpc.aio.AioRpcError, match="gone") as caught:
        while await call.read() is not grpc.aio.EOF:
            pass
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS


async def test_a_full_queue_is_resource_exhausted() -> None:
    async with open_world(router={"queue_limit": 1}) as world, grpc.aio.insecure_channel(world.grpc) as channel:
        calls = RawCalls(channel)
        for server in world.servers.values():
            server.per_item_s = 0.2
        outcomes = await asyncio.gather(*(calls.infer(item_request()) for _ in range(30)), return_exceptions=True)
    refusals = [o for o in outcomes if isinstance(o, grpc.aio.AioRpcError)]
    assert {refusal.code().name for refusal in refusals} == {"RESOURCE_EXHAUSTED"}
    assert all(int(dict(refusal.trailing_metadata())["grpc-retry-pushback-ms"]) >= 50 for refusal in refusals)
    assert any(not isinstance(o, BaseException) for o in outcomes)


async def test_priorities_and_preferences_are_taken_and_joules_that_nobody_knows_are_not(raw: RawCalls) -> None:
    parameters = {"priority": 1, "slim_preference": "latency", "slim_deadline_ms": 5000}
    response = await raw.infer(item_request(parameters=parameters))
    assert response.parameters["slim_policy"].string_param == "preferred"
    assert "slim_energy_j" not in response.parameters
    status, detail = await raw.refused("ModelInfer", item_request(parameters={"slim_max_joules": 1.0}))
    assert status == "INVALID_ARGUMENT"
    assert "no server's energy is known" in detail


async def test_joules_are_told_and_bounded_where_they_are_known() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.grpc) as channel:
        calls = RawCalls(channel)
        line = EnergyLine(per_item_j=0.25, fixed_j=0.5, source=EnergySource.ESTIMATED)
        times = world.router._fleet.times
        times.energy = EnergyTable({(name, m.name): line for name, ms in world.router.served_by().items() for m in ms})
        response = await calls.infer(item_request(items=2, parameters={"slim_max_joules": 0.5}))
        assert response.parameters["slim_energy_j"].double_param == pytest.approx(1.0)
        status, detail = await calls.refused("ModelInfer", item_request(parameters={"slim_max_joules": 0.5}))
    assert status == "INVALID_ARGUMENT"
    assert "below the 0.75 J an item" in detail


async def test_a_message_beyond_the_limit_is_refused() -> None:
    async with open_world(max_message_mib=0.001) as world, grpc.aio.insecure_channel(world.grpc) as channel:
        status, _ = await RawCalls(channel).refused("ModelInfer", echo_request(raw=bytes(5000)))
    assert status == "RESOURCE_EXHAUSTED"


async def test_closing_answers_what_comes_on_streams_that_are_open() -> None:
    async with open_world(drain_s=60) as world, grpc.aio.insecure_channel(world.grpc) as channel:
        calls = RawCalls(channel)
        stream = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")()
        async with world.busy():
            under_way = asyncio.create_task(calls.infer(item_request(6)))
            await world.until_asked()
            closing = asyncio.create_task(world.gateway.__aexit__(None, None, None))
            await asyncio.sleep(0.1)
            await stream.write(echo_request().SerializeToString())
            answer = pb.ModelStreamInferResponse.FromString(await stream.read())
            assert not answer.error_message
            await stream.done_writing()
            assert not under_way.done()
        assert scores(await under_way).argmax() == 6
        await closing
        with pytest.raises(grpc.aio.AioRpcError, match=r"UNAVAILABLE"):  # found closed or refused: by luck
            await calls.ask("ServerReady")
        assert all(triton.closed for triton in world.tritons.values())


async def test_a_lame_duck_says_that_it_is_not_ready_and_serves_on() -> None:
    opened: asyncio.Future[World] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with open_world(lame_duck_s=3600) as world:
            opened.set_result(world)

    serving = asyncio.create_task(serve())
    world = await opened
    async with grpc.aio.insecure_channel(world.grpc) as channel:
        while (await RawCalls(channel).ask("ServerReady")).ready:
            await asyncio.sleep(0.01)
        assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x02"
        async with grpc.aio.insecure_channel(world.grpc, [("grpc.use_local_subchannel_pool", 1)]) as late:
            assert scores(await RawCalls(late).infer(item_request(6))).argmax() == 6
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert all(triton.closed for triton in world.tritons.values())


async def test_a_server_that_hangs_holds_up_the_end_no_longer_than_the_gateways_drain_s() -> None:
    async with asyncio.timeout(60):  # not the router's hour
        async with open_world(drain_s=0.3, router={"drain_s": 3600}) as world:
            for server in world.servers.values():
                server.per_item_s = 1e6
            channel: Any = grpc.aio.insecure_channel(world.grpc)
            asking = asyncio.create_task(RawCalls(channel).infer(item_request()))
            await world.until_asked()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await asking
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        await channel.close()


async def test_an_address_in_use_is_refused_by_name(world: World) -> None:
    for key, address in (("grpc", world.grpc), ("http", world.http.removeprefix("http://"))):
        with pytest.raises(ConfigError, match=f"gateway.{key} = {address}"):
            async with open_world(**{key: address}):
                pass


async def test_what_is_refused_as_it_comes_is_not_left_to_the_collector(world: World, raw: RawCalls) -> None:
    """Under overload it is most of what comes, each with all of its message."""
    for mark in range(8):
        await raw.infer(item_request(mark))
    hurried = item_request(1, parameters={"slim_deadline_ms": 0.5})
    async with world.busy():
        waiting = [asyncio.create_task(raw.infer(item_request(mark))) for mark in range(8)]
        while not all(server.in_flight for server in world.servers.values()):
            await asyncio.sleep(0.01)
        gc.collect()
        gc.disable()
        try:
            before = sum(type(found) is Exchange for found in gc.get_objects())
            refused = [await raw.refused("ModelInfer", hurried) for _ in range(20)]
            after = sum(type(found) is Exchange for found in gc.get_objects())
        finally:
            gc.enable()
    await asyncio.gather(*waiting)
    assert {status for status, _ in refused} == {"RESOURCE_EXHAUSTED"}
    assert after == before
