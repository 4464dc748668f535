from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import json_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from orchestrator.planner.host import Batching, LoadedModel, ModelStatus
from orchestrator.triton.client import IndexEntry
from orchestrator.triton.control import describe_running, group_versions, judge_versions
from orchestrator.triton.repository import Repository, RepositoryEntry, build_override

SHIPPED = Path(__file__).parents[2] / "model_repository"


def version(state: str, reason: str = "", number: str = "1") -> IndexEntry:
    return IndexEntry("m", number, state, reason)


@pytest.mark.parametrize(
    ("versions", "status", "reason"),
    [
        ((), ModelStatus.ABSENT, ""),
        ((version("", number=""),), ModelStatus.ABSENT, ""),
        ((version("UNAVAILABLE", "unloaded"),), ModelStatus.ABSENT, ""),
        ((version("UNAVAILABLE"),), ModelStatus.ABSENT, ""),
        ((version("LOADING"),), ModelStatus.LOADING, ""),
        ((version("UNLOADING"),), ModelStatus.UNLOADING, ""),
        ((version("READY"),), ModelStatus.READY, ""),
        ((version("UNAVAILABLE", "no\n  weights"),), ModelStatus.FAILED, "no weights"),
        ((version("UNAVAILABLE", "a"), version("UNAVAILABLE", "b", "2")), ModelStatus.FAILED, "a; b"),
        ((version("UNAVAILABLE", "unloaded"), version("UNAVAILABLE", "b", "2")), ModelStatus.FAILED, "b"),
        ((version("UNAVAILABLE", "a"), version("READY", number="2")), ModelStatus.READY, ""),
        ((version("UNLOADING"), version("LOADING", number="2")), ModelStatus.LOADING, ""),
        ((version("UNAVAILABLE", "a"), version("UNLOADING", number="2")), ModelStatus.UNLOADING, ""),
        ((version("SOMETHING_NEW"),), ModelStatus.ABSENT, ""),
    ],
)
def test_versions_make_one_status(versions: tuple[IndexEntry, ...], status: ModelStatus, reason: str) -> None:
    assert judge_versions(versions) == (status, reason)


def test_versions_are_grouped_by_model() -> None:
    index = (IndexEntry("a", "1", "READY", ""), IndexEntry("a", "2", "READY", ""), IndexEntry("b", "", "", ""))
    assert {name: len(versions) for name, versions in group_versions(index).items()} == {"a": 2, "b": 1}


@pytest.fixture
def entry() -> RepositoryEntry:
    return Repository(SHIPPED).entries()[0]


def run(entry: RepositoryEntry, *, batching: Batching = Batching(), nonce: str = "") -> ModelConfig:  # noqa: B008
    """Return what Triton makes of an override: the fields it fills in are those of a real 2.51."""
    override = build_override(entry, instances=2, batching=batching, nonce=nonce)
    config: ModelConfig = json_format.ParseDict(override, ModelConfig())
    config.platform = "onnxruntime_onnx"
    config.default_model_filename = "model.onnx"
    config.runtime = "model.py"
    config.version_policy.latest.num_versions = 1
    config.instance_group[0].name = f"{config.name}_0"
    config.optimization.input_pinned_memory.enable = True
    if not batching.preferred_sizes:
        config.dynamic_batching.preferred_batch_size.append(config.max_batch_size)
    return config


def test_what_triton_fills_in_makes_nothing_uncanonical(entry: RepositoryEntry) -> None:
    assert describe_running(entry, run(entry, batching=Batching((4,), 9), nonce="n")) == LoadedModel(
        entry.model.name, ModelStatus.READY, "", 2, Batching((4,), 9), "n", is_canonical=True, is_python_based=True
    )
    assert describe_running(entry, run(entry)).batching == Batching()


def test_only_python_stubs_are_processes(entry: RepositoryEntry) -> None:
    config = run(entry)
    config.runtime = "libtriton_onnxruntime.so"
    assert not describe_running(entry, config).is_python_based


def _set_parameter(config: ModelConfig) -> None:
    config.parameters["intra_op_thread_count"].string_value = "2"


def _add_parameter(config: ModelConfig) -> None:
    config.parameters["extra"].string_value = "2"


def _drop_parameter(config: ModelConfig) -> None:
    del config.parameters["slim.sha256"]


def _change_batch(config: ModelConfig) -> None:
    config.max_batch_size = 8


def _change_kind(config: ModelConfig) -> None:
    config.instance_group[0].kind = 1


def _add_group(config: ModelConfig) -> None:
    config.instance_group.add(count=1)


def _change_input(config: ModelConfig) -> None:
    config.input[0].dims[1] = 27


def _change_output(config: ModelConfig) -> None:
    config.output[0].name = "scores"


def _change_backend(config: ModelConfig) -> None:
    config.backend = "python"


def _change_warmup(config: ModelConfig) -> None:
    config.model_warmup[0].batch_size += 1


def _drop_warmup(config: ModelConfig) -> None:
    del config.model_warmup[:]


def _drop_batching(config: ModelConfig) -> None:
    config.ClearField("dynamic_batching")


@pytest.mark.parametrize(
    "change",
    [
        _set_parameter,
        _add_parameter,
        _drop_parameter,
        _change_batch,
        _change_kind,
        _add_group,
        _change_input,
        _change_output,
        _change_backend,
        _change_warmup,
        _drop_warmup,
        _drop_batching,
    ],
)
def test_whatever_else_differs_from_the_file_is_not_canonical(
    entry: RepositoryEntry, change: Callable[[ModelConfig], None]
) -> None:
    config = run(entry)
    change(config)
    assert not describe_running(entry, config).is_canonical
