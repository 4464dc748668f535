"""The chart's profile without GPU in real containers: two Tritons with controllers, and two gateways.

Run by ``make containers``, which builds the images.
"""

from __future__ import annotations

import asyncio
import collections
import copy
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as tritonclient
from tritonclient.grpc import service_pb2

from tests.deploy.charts import RELEASE, VALUE_SETS
from tests.deploy.podman import PlayedPod, create_network, podman, remove_network, replicas_of
from tools.kustomize import render_chart
from tools.release import IMAGES, check_versions, find_faults

pytestmark = pytest.mark.containers
NETWORK = "slim-scheduler-test"
ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"
RATE_PER_S = 50.0
OPTIONS = [
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]


def values(models: Path) -> dict[str, Any]:
    """Return the chart's values for CPUs with the images that were built here, and models of this machine."""
    given = copy.deepcopy(VALUE_SETS["cpu"])
    images = {"triton": "embedded", "controller": "controller", "gateway": "gateway", "tests": "gateway"}
    for part, name in images.items():
        given.setdefault(part, {})["image"] = {
            "repository": f"localhost/slim-scheduler/{name}",
            "tag": "latest",
            "pullPolicy": "Never",
        }
    given["models"] = {"volume": {"hostPath": {"path": str(models)}}}
    return given


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[PlayedPod]]:
    """All pods of the chart but that of 'helm test', started; with their logs where a test fails."""
    directory = tmp_path_factory.mktemp("pods")
    models = directory / "models"
    shutil.copytree(REPOSITORY, models)
    for path in (directory, *directory.parents[:2]):
        path.chmod(0o755)  # the pods are another user's
    played = list(replicas_of(render_chart(values(models), release=RELEASE), directory))
    for pod in played:
        pod.remove()  # left by a run that was killed
    remove_network(NETWORK)
    create_network(NETWORK)
    try:
        for pod in played:
            if pod.part != "test":
                pod.start(NETWORK)
        yield played
    finally:
        for pod in played:
            print(pod.logs())
        for pod in played:
            pod.remove()
        remove_network(NETWORK)


@pytest.fixture(scope="module")
def gateways(pods: list[PlayedPod]) -> list[PlayedPod]:
    """The gateways, which are ready."""
    found = [pod for pod in pods if pod.part == "gateway"]
    asyncio.run(until_all_are_ready(found))
    return found


async def until_all_are_ready(gateways: list[PlayedPod], *, every_s: float = 1.0) -> None:
    """Return when each gateway says that it is ready."""
    async with asyncio.timeout(300):
        for gateway in gateways:
            while not is_ready(gateway):
                await asyncio.sleep(every_s)


def is_ready(gateway: PlayedPod) -> bool:
    """Return whether a gateway says that it is ready."""
    try:
        with tritonclient.InferenceServerClient(f"{gateway.ip}:8081") as client:
            return bool(client.is_server_ready())
    except tritonclient.InferenceServerException:
        return False


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_small_is_not_of_root_and_says_what_it_is(name: str) -> None:
    [inspected] = json.loads(podman("image", "inspect", f"localhost/slim-scheduler/{name}"))
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=ROOT)
    faults = find_faults(name, inspected, version=check_versions(ROOT), revision=revision.stdout.strip())
    assert list(faults) == []


def test_a_triton_client_is_answered_by_each_gateway(gateways: list[PlayedPod]) -> None:
    pixels = tritonclient.InferInput("pixels", [2, 1, 28, 28], "FP32")
    pixels.set_data_from_numpy(np.zeros((2, 1, 28, 28), np.float32))
    for gateway in gateways:
        with tritonclient.InferenceServerClient(f"{gateway.ip}:8081") as client:
            answer = client.infer("fashion", [pixels])
        assert answer.as_numpy("logits").shape == (2, 10)


async def test_a_gateway_that_can_write_nowhere_is_ready_soon_and_compiles_nothing(gateways: list[PlayedPod]) -> None:
    await until_all_are_ready(gateways)
    gateway = gateways[0]
    await asyncio.to_thread(gateway.stop)
    began_s = asyncio.get_running_loop().time()
    await asyncio.to_thread(gateway.start, NETWORK)
    await until_all_are_ready([gateway], every_s=0.05)
    took_s = asyncio.get_running_loop().time() - began_s
    print(f"{gateway.name} was ready {took_s:.1f} s after podman was told to start it")
    assert "compil" not in podman("pod", "logs", gateway.name)


def test_helm_test_succeeds(pods: list[PlayedPod], gateways: list[PlayedPod]) -> None:
    [pod] = [each for each in pods if each.part == "test"]
    pod.start(NETWORK)
    assert podman("wait", f"{pod.name}-ready").strip() == "0", pod.logs()


def test_who_has_no_key_can_not_change_a_triton(pods: list[PlayedPod], gateways: list[PlayedPod]) -> None:
    triton = next(pod for pod in pods if pod.part == "triton")
    with tritonclient.InferenceServerClient(f"{triton.ip}:8001") as client:
        assert client.is_server_live()
        with pytest.raises(tritonclient.InferenceServerException, match="restricted"):
            client.unload_model("fashion_w025")


@pytest.mark.parametrize("part", ["triton", "gateway"])
async def test_a_pod_that_is_started_again_under_load_fails_no_request(
    pods: list[PlayedPod], gateways: list[PlayedPod], part: str
) -> None:
    await until_all_are_ready(gateways)
    pod = next(each for each in pods if each.part == part)
    is_over = asyncio.Event()
    asking = asyncio.create_task(ask(gateways, is_over))
    try:
        await asyncio.sleep(3)
        await asyncio.to_thread(pod.stop)
        await asyncio.sleep(3)  # the other one alone
        await asyncio.to_thread(pod.start, NETWORK)
        await until_all_are_ready(gateways)
        await asyncio.sleep(3)
    finally:
        is_over.set()
        ended = await asking
    print(part, dict(ended))
    assert ended.pop("answered") > 5 * RATE_PER_S  # it was asked all the time
    assert not ended


async def ask(gateways: list[PlayedPod], is_over: asyncio.Event) -> collections.Counter[str]:
    """Return how the requests of an open loop ended: 'answered', or an error each."""
    ended: collections.Counter[str] = collections.Counter()
    message = service_pb2.ModelInferRequest(model_name="fashion")
    message.inputs.add(name="pixels", datatype="FP32", shape=[1, 1, 28, 28])
    message.raw_input_contents.append(bytes(4 * 28 * 28))
    addresses = ",".join(f"{gateway.ip}:8081" for gateway in gateways)
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(f"ipv4:{addresses}", OPTIONS) as channel, asyncio.TaskGroup() as calls:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )

        async def call() -> None:
            try:
                await infer(message, timeout=20)
            except grpc.aio.AioRpcError as exc:
                ended[f"{exc.code().name}: {exc.details()}"] += 1
            else:
                ended["answered"] += 1

        began_s = loop.time()
        for number in itertools.count():
            await asyncio.sleep(began_s + number / RATE_PER_S - loop.time())
            if is_over.is_set():
                return ended
            calls.create_task(call())
    raise AssertionError("unreachable")
