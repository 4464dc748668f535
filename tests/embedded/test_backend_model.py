import fcntl
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from orchestrator.embedded.backend.model import (
    TIMED_AGAIN,
    OnnxModel,
    RequestError,
    SlowDevice,
    batch_size,
    concatenate_feeds,
    decode_strings,
    group_by_signature,
    split_outputs,
)
from orchestrator.embedded.backend.onnx_contract import open_session
from tests.triton import onnx_models


def serve(tmp_path: Path, model: onnx.ModelProto, *, max_batch_size: int = 8, **device: Any) -> OnnxModel:
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())

    def describe(values: Any) -> list[dict[str, Any]]:
        ios = []
        for value in values:
            tensor = value.type.tensor_type
            dims = [str(d.dim_value) if d.HasField("dim_value") else "-1" for d in tensor.shape.dim]
            data_type = onnx_models.TRITON_TYPES[tensor.elem_type]
            ios.append({"name": value.name, "data_type": data_type, "dims": dims[1 if max_batch_size else 0 :]})
        return ios

    config = {
        "max_batch_size": max_batch_size,
        "input": describe(model.graph.input),
        "output": describe(model.graph.output),
        "parameters": {"intra_op_thread_count": {"string_value": "1"}},
    }
    return OnnxModel(open_session(config, tmp_path, kind="CPU", device_id="0"), config, SlowDevice(**device))


def rows(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array([[v] * 4 for v in values], np.float32)}


def test_several_requests_are_answered_in_order(tmp_path: Path) -> None:
    answers = serve(tmp_path, onnx_models.plus_one()).answer([rows(1), rows(2, 3), rows(4)])
    assert [answer["y"][:, 0].tolist() for answer in answers if isinstance(answer, dict)] == [[2], [3, 4], [5]]


def test_two_inputs_and_two_outputs(tmp_path: Path) -> None:
    model = serve(tmp_path, onnx_models.add_and_subtract())
    one = np.ones((1, 3), np.float32)
    (answer,) = model.answer([{"a": 3 * one, "b": one}])
    assert isinstance(answer, dict)
    assert (answer["sum"][0, 0], answer["difference"][0, 0]) == (4, 2)


def test_one_bad_request_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    model = serve(tmp_path, onnx_models.lookup())
    answers = model.answer([{"x": np.array([[index]], np.int64)} for index in (2, 99, 3)])
    assert isinstance(answers[1], RequestError)
    assert not answers[1].is_invalid
    assert "\n" not in str(answers[1])
    assert [a["y"].item() for a in answers if isinstance(a, dict)] == [4, 9]


def test_different_shapes_run_in_groups_and_come_back_in_order(tmp_path: Path) -> None:
    model = serve(tmp_path, onnx_models.identity(TensorProto.FLOAT, ("batch", "length")))
    feeds = [{"x": np.full((1, length), length, np.float32)} for length in (2, 3, 2)]
    answers = model.answer(feeds)
    assert [a["y"].shape for a in answers if isinstance(a, dict)] == [(1, 2), (1, 3), (1, 2)]


def test_without_batching_each_request_runs_alone(tmp_path: Path) -> None:
    model = serve(tmp_path, onnx_models.identity(TensorProto.FLOAT, (2,)), max_batch_size=0)
    answers = model.answer([{"x": np.array([v, v], np.float32)} for v in (1, 2)])
    assert [a["y"].tolist() for a in answers if isinstance(a, dict)] == [[1, 1], [2, 2]]


@pytest.mark.parametrize(
    ("onnx_type", "dtype"),
    [(TensorProto.BOOL, np.bool_), (TensorProto.FLOAT16, np.float16), (TensorProto.UINT8, np.uint8)],
)
def test_a_tensor_of_a_rarer_element_type_comes_back_as_it_was_sent(
    tmp_path: Path, onnx_type: int, dtype: type
) -> None:
    value = np.array([[0, 1]], dtype)
    (answer,) = serve(tmp_path, onnx_models.identity(onnx_type)).answer([{"x": value}])
    assert isinstance(answer, dict)
    np.testing.assert_array_equal(answer["y"], value)


def test_a_scalar_is_one_dim_of_1_to_triton_and_a_scalar_to_the_graph(tmp_path: Path) -> None:
    model = serve(tmp_path, onnx_models.identity(onnx_models.TensorProto.INT64, ()), max_batch_size=0)
    (answer,) = model.answer([{"x": np.array([7])}])
    assert not isinstance(answer, RequestError)
    np.testing.assert_array_equal(answer["y"], [7])


def test_strings_are_decoded_and_bad_ones_are_the_requests_fault(tmp_path: Path) -> None:
    model = serve(tmp_path, onnx_models.identity(TensorProto.STRING))
    good = {"x": np.array([["a", "é".encode()]], np.object_)}
    answers = model.answer([good, {"x": np.array([[b"\xff", b"a"]], np.object_)}])
    assert isinstance(answers[0], dict)
    assert answers[0]["y"].tolist() == [["a", "é"]]
    assert isinstance(answers[1], RequestError)
    assert answers[1].is_invalid


def test_a_slowdown_sleeps_once_a_run_and_no_slowdown_never(tmp_path: Path) -> None:
    slept: list[float] = []
    ticks = itertools.count()  # a clock on which everything takes a second
    clocks = {"clock": lambda: float(next(ticks)), "cpu_clock": lambda: float(next(ticks))}
    model = serve(tmp_path, onnx_models.plus_one(), slowdown=1000.0, sleep=slept.append, **clocks)
    model.answer([rows(1), rows(2)])
    assert len(slept) == 1, "one run, one sleep"
    assert slept[0] > 0
    serve(tmp_path, onnx_models.plus_one(), sleep=slept.append).answer([rows(1)])
    assert len(slept) == 1, "a slow-down of 1 sleeps not at all"


def test_a_slow_device_takes_a_multiple_of_a_warm_run_whatever_a_run_takes() -> None:
    now_s, slept_s = 0.0, []
    again_s = [0.6, 0.5] * (TIMED_AGAIN - 1)
    runs_s = [0.9, 0.6, 0.5, 0.5, 0.5, 0.7, 0.8, 0.4, *again_s, 0.3]

    def work() -> int:
        nonlocal now_s
        now_s += runs_s.pop(0)
        return 7

    def sleep(duration_s: float) -> None:
        nonlocal now_s
        now_s += duration_s
        slept_s.append(duration_s)

    device = SlowDevice(8.0, sleep=sleep, clock=lambda: now_s, cpu_clock=lambda: now_s)
    assert device.run("one", work) == 7
    assert now_s == pytest.approx(8 * 0.5), "of the five runs after the first the quickest took half a second"
    device.run("one", work)
    assert now_s == pytest.approx(8 * 0.5 + 8 * 0.4), "what is timed once more was quicker"
    for _ in range(TIMED_AGAIN - 1):
        device.run("one", work)
    assert now_s == pytest.approx(8 * 0.5 + TIMED_AGAIN * 8 * 0.4), "and slower each time after it"
    device.run("one", work)
    assert slept_s[-1] == pytest.approx(3.2 - 0.3), "from then on it is known, and runs once"
    assert not runs_s


def test_a_slow_device_does_not_multiply_what_others_take_of_its_core() -> None:
    clocks_s = iter([0.0, *(t for at in range(5) for t in (at + 1.0, at + 2.0)), 6.0])
    cpu_s = iter([t for at in range(5) for t in (0.1 * at, 0.1 * at + 0.1)])
    slept_s: list[float] = []
    SlowDevice(100.0, sleep=slept_s.append, clock=lambda: next(clocks_s), cpu_clock=lambda: next(cpu_s)).run("one", int)
    assert slept_s == pytest.approx([100 * 0.1 - 6.0]), "a second on the wall, a tenth of it computed"


def test_a_number_in_the_locks_file_throttles_a_slow_device_until_it_is_another(tmp_path: Path) -> None:
    path, slept_s, ticks = tmp_path / "device.lock", list[float](), itertools.count()
    clocks = {"clock": lambda: float(next(ticks)), "cpu_clock": lambda: float(next(ticks))}
    device = SlowDevice(1000.0, str(path), sleep=slept_s.append, **clocks)
    for factor in ("", "3", "1"):
        path.write_text(factor)
        device.run("one", int)
    first_s, throttled_s, after_s = slept_s
    assert throttled_s == pytest.approx(3 * first_s, rel=0.02)
    assert after_s == pytest.approx(first_s, rel=0.02)


def test_a_slow_device_is_used_by_one_instance_at_a_time_and_is_free_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "device.lock"

    def is_free() -> bool:
        with path.open("ab") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    free_while_asleep: list[bool] = []
    device = SlowDevice(2.0, str(path), sleep=lambda _: free_while_asleep.append(is_free()))
    assert not device.run("one", is_free)
    assert free_while_asleep == [False]
    assert is_free()
    with pytest.raises(ZeroDivisionError):
        device.run("two", lambda: 1 / 0)
    assert is_free()
    assert SlowDevice(1.0, str(path)).run("one", is_free), "nothing is emulated, so nothing is locked"


def test_inputs_that_disagree_about_the_batch_are_refused() -> None:
    assert batch_size(rows(1, 2)) == 2
    with pytest.raises(RequestError, match=r"no common batch dimension: a \[1\], b \[2\]"):
        batch_size({"a": np.zeros(1), "b": np.zeros(2)})
    with pytest.raises(RequestError, match="no common batch dimension"):
        batch_size({"a": np.array(1.0)})


def test_an_output_that_is_not_batched_can_not_be_split() -> None:
    with pytest.raises(RequestError, match=r"output 'y' has shape \[1\] for a batch of 3"):
        split_outputs({"y": np.zeros(1)}, [1, 2])


@given(st.lists(st.integers(0, 3)))
def test_groups_partition_the_indices(signatures: list[int]) -> None:
    groups = group_by_signature(signatures)
    assert sorted(index for group in groups for index in group) == list(range(len(signatures)))
    assert all(len({signatures[index] for index in group}) == 1 for group in groups)
    assert all(group == sorted(group) for group in groups)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_what_was_concatenated_splits_back(sizes: list[int]) -> None:
    feeds = [{"x": np.full((size, 2), index)} for index, size in enumerate(sizes)]
    parts = split_outputs(concatenate_feeds(feeds), sizes)
    for feed, part in zip(feeds, parts, strict=True):
        np.testing.assert_array_equal(feed["x"], part["x"])


def test_decoding_keeps_the_shape() -> None:
    assert decode_strings("x", np.array([[b"a"], [b"b"]], np.object_)).tolist() == [["a"], ["b"]]
