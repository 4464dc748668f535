"""Fixtures of the tests on the real tritonserver: one server for many tests, and clients that are closed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient

from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from tests.triton import onnx_models
from tests.tritons import Tritons

# Long enough that requests sent at the same moment from several threads meet in one batch.
BATCHING = "dynamic_batching { max_queue_delay_microseconds: 300000 }"


def write_good_models(repository: Path) -> None:
    """Models that load: every test on the shared server uses one of its own, because statistics add up."""
    lookup = onnx_models.lookup()
    for name in ("plus", "reloaded", "counted"):
        onnx_models.write_model(repository, name, onnx_models.plus_one())
    onnx_models.write_model(repository, "two", onnx_models.add_and_subtract())
    onnx_models.write_model(repository, "text", onnx_models.identity(onnx_models.TensorProto.STRING))
    for name in ("batched", "mixed"):
        onnx_models.write_model(repository, name, lookup, onnx_models.render_config(lookup, batching=BATCHING))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tritons: Tritons) -> Iterator[EmbeddedServer]:
    """A server with the good models loaded, shared by the tests of a module."""
    repository = tmp_path_factory.mktemp("repository")
    write_good_models(repository)
    with tritons.running(repository, EmbeddedOptions()) as running:
        yield running


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[grpcclient.InferenceServerClient]:
    """A synchronous client of the shared server."""
    with grpcclient.InferenceServerClient(server.grpc_address) as opened:
        yield opened


@pytest.fixture
def options() -> EmbeddedOptions:
    """Options of the servers that a test starts for itself."""
    return EmbeddedOptions(exit_timeout_s=3)
