from copy import deepcopy
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from orchestrator.embedded.backend.onnx_contract import (
    LoadError,
    TensorSpec,
    build_session_options,
    choose_providers,
    find_model_file,
    open_session,
    parse_bool_parameter,
    parse_int_parameter,
    parse_slowdown,
    validate_config,
)

IMAGE = TensorSpec("pixels", "tensor(float)", (-1, 1, 28, -1))
LOGITS = TensorSpec("logits", "tensor(float)", (-1, 10))
EXTRA = TensorSpec("features", "tensor(float)", (-1, 64))
CONFIG: dict[str, Any] = {
    "max_batch_size": 8,
    "input": [{"name": "pixels", "data_type": "TYPE_FP32", "dims": ["1", "28", "28"]}],
    "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": ["10"]}],
}


def change(path: str, value: object) -> dict[str, Any]:
    config = deepcopy(CONFIG)
    target: Any = config
    *parents, last = path.split(".")
    for part in parents:
        target = target[int(part)] if part.isdigit() else target[part]
    target[last] = value
    return config


def test_a_fitting_config_passes_and_need_not_declare_every_output() -> None:
    validate_config(CONFIG, [IMAGE], [LOGITS, EXTRA])


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("input.0.name", "image", "unexpected input 'image', the model's inputs are: pixels"),
        ("input.0.data_type", "TYPE_FP16", "expects datatype TYPE_FP16 for input 'pixels', model provides TYPE_FP32"),
        ("input.0.data_type", "TYPE_BF16", "expects datatype TYPE_BF16"),
        ("input.0.dims", ["3", "28", "28"], r"input 'pixels' has shape \[-1, 1, 28, -1\], .* \[-1, 3, 28, 28\]"),
        ("input.0.dims", ["1", "28"], r"\[-1, 1, 28\] \(batch dimension included\)"),
        ("input.0.dims", ["-1", "28", "28"], r"\[-1, -1, 28, 28\]"),
        ("input.0.allow_ragged_batch", True, "allow_ragged_batch is not supported"),
        ("input.0.optional", True, "optional input 'pixels' is not supported for models that support batching"),
        ("input", [], "configuration expects 0 inputs, model provides 1: pixels"),
        ("output.0.name", "scores", "unexpected output 'scores', the model's outputs are: logits"),
        ("output.0.data_type", "TYPE_INT64", "model provides TYPE_FP32"),
        ("output.0.dims", ["11"], r"output 'logits' has shape \[-1, 10\], configuration specifies \[-1, 11\]"),
        ("output.0.dims", ["-1"], r"\[-1, -1\]"),
        ("output", [], "declares no output"),
        ("max_batch_size", 0, r"configuration specifies \[1, 28, 28\]$"),
        ("sequence_batching", {"direct": {}}, "sequence_batching is not supported"),
    ],
)
def test_what_the_cpp_backend_refuses_is_refused(path: str, value: object, problem: str) -> None:
    with pytest.raises(LoadError, match=problem):
        validate_config(change(path, value), [IMAGE], [LOGITS])


def test_batching_needs_an_open_first_dimension() -> None:
    fixed = TensorSpec("pixels", "tensor(float)", (1, 1, 28, 28))
    with pytest.raises(LoadError, match=r"max_batch_size > 0 needs a variable first dimension"):
        validate_config(CONFIG, [fixed], [LOGITS])


def test_an_input_may_narrow_an_open_dimension_and_an_output_may_not() -> None:
    validate_config(change("input.0.dims", ["1", "28", "7"]), [IMAGE], [LOGITS])
    open_logits = TensorSpec("logits", "tensor(float)", (-1, -1))
    with pytest.raises(LoadError, match="output 'logits'"):
        validate_config(CONFIG, [IMAGE], [open_logits])


def test_reshape_is_what_the_model_is_held_against() -> None:
    vector = TensorSpec("pixels", "tensor(float)", (-1,))
    config = change("input.0.dims", ["1"])
    config["input"][0]["reshape"] = {"shape": []}
    validate_config(config, [vector], [LOGITS])


def test_scalars_take_dims_of_one_only() -> None:
    scalar = TensorSpec("pixels", "tensor(float)", ())
    config = {**change("input.0.dims", ["1"]), "max_batch_size": 0, "output": CONFIG["output"]}
    config["output"] = [{"name": "logits", "data_type": "TYPE_FP32", "dims": ["-1", "10"]}]
    validate_config(config, [scalar], [LOGITS])
    config["input"] = [{**config["input"][0], "dims": ["2"]}]
    with pytest.raises(LoadError, match="scalar input 'pixels'"):
        validate_config(config, [scalar], [LOGITS])


def with_parameter(name: str, value: str) -> dict[str, Any]:
    return {"parameters": {name: {"string_value": value}}}


def test_thread_counts_and_modes_reach_the_session() -> None:
    assert build_session_options(with_parameter("intra_op_thread_count", "3"), 7).intra_op_num_threads == 3
    assert build_session_options(with_parameter("intra_op_thread_count", "0"), 7).intra_op_num_threads == 7
    assert build_session_options({}, 7).intra_op_num_threads == 7
    assert build_session_options(with_parameter("inter_op_thread_count", "2"), 1).inter_op_num_threads == 2
    parallel = build_session_options(with_parameter("execution_mode", "1"), 1)
    assert parallel.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not build_session_options(with_parameter("enable_mem_pattern", "false"), 1).enable_mem_pattern
    level = build_session_options({"optimization": {"graph": {"level": "2"}}}, 1).graph_optimization_level
    assert level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("intra_op_thread_count", "many", "intra_op_thread_count: 'many' is not an integer"),
        ("inter_op_thread_count", "1.5", "'1.5' is not an integer"),
        ("execution_mode", "2", "expected 0 .* or 1 .*, got 2"),
        ("enable_mem_arena", "maybe", "'maybe' is not a boolean"),
    ],
)
def test_bad_parameters_are_refused(name: str, value: str, problem: str) -> None:
    with pytest.raises(LoadError, match=problem):
        build_session_options(with_parameter(name, value), 1)


def test_absent_parameters_have_defaults() -> None:
    assert parse_int_parameter({}, "x") == 0
    assert parse_bool_parameter({}, "x", True)
    assert parse_bool_parameter(with_parameter("x", "1"), "x", False)


@pytest.mark.parametrize(("text", "factor"), [(None, 1.0), ("1", 1.0), ("2.5", 2.5)])
def test_a_slowdown_is_the_number_given_and_1_where_there_is_none(text: str | None, factor: float) -> None:
    assert parse_slowdown(text) == factor


@pytest.mark.parametrize("text", ["", "fast", "0.5", "-1", "nan", "inf"])
def test_bad_slowdowns_are_refused(text: str) -> None:
    with pytest.raises(LoadError, match="SLIM_SLOWDOWN"):
        parse_slowdown(text)


def test_gpu_instances_need_the_cuda_provider() -> None:
    assert choose_providers("CPU", "0", ["CPUExecutionProvider"]) == [("CPUExecutionProvider", {})]
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert choose_providers("GPU", "1", available)[0] == ("CUDAExecutionProvider", {"device_id": "1"})
    with pytest.raises(LoadError, match="gpu 1: this onnxruntime has no CUDAExecutionProvider"):
        choose_providers("GPU", "1", ["CPUExecutionProvider"])


def test_the_model_file_is_found_by_its_name_or_in_the_folder_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"unable to find '.*model.onnx'"):
        find_model_file(tmp_path, "")
    (tmp_path / "other.onnx").touch()
    assert find_model_file(tmp_path, "other.onnx").name == "other.onnx"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.onnx").touch()
    assert find_model_file(tmp_path, "folder") == tmp_path / "folder" / "model.onnx"


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("not a model")
    with pytest.raises(LoadError, match="onnx runtime can't load"):
        open_session(CONFIG, tmp_path, kind="CPU", device_id="0")
