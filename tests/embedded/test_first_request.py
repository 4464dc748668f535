"""The line that ``slimsched up`` gives a newcomer to paste."""

from __future__ import annotations

import json
import math
import subprocess
from typing import Any

import pytest

from orchestrator.embedded.first_request import request_body
from orchestrator.snapshot import Fill


def tensor(name: str, *shape: int, datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": datatype}


def run(body: str | None, shell: str = "sh") -> Any:
    """Return what the body says, run by a shell."""
    assert body is not None
    return json.loads(subprocess.run([shell, "-c", f"{body} | cat"], capture_output=True, check=True).stdout)


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("shape", [(1,), (-1, 1, 28, 28), (-1, 3, 224, 224)])
def test_the_line_is_taken_by_a_shell_at_any_size_of_the_input(shape: tuple[int, ...], shell: str) -> None:
    body = request_body({"inputs": [tensor("pixels", *shape)], "outputs": [tensor("logits", -1, 10)]}, {}, {})
    assert body is not None and len(body) < 1000
    said = run(body, shell)
    (sent,) = said["inputs"]
    assert sent["shape"] == [abs(side) for side in shape]
    assert sent["data"] == [0] * abs(int(math.prod(shape)))
    assert said["outputs"] == [{"name": "logits", "parameters": {"classification": 1}}]


def test_all_inputs_are_in_it_and_outputs_that_are_no_scores_come_as_they_are() -> None:
    inputs = [tensor("text", -1, 2, datatype="BYTES"), tensor("flag", -1, 1, datatype="BOOL")]
    body = request_body({"inputs": inputs, "outputs": [tensor("boxes", -1, 5, 4), tensor("count", -1, 1)]}, {}, {})
    said = run(body)
    assert [(sent["name"], sent["data"]) for sent in said["inputs"]] == [("text", ["", ""]), ("flag", [False])]
    assert "outputs" not in said


def test_what_json_has_no_form_for_has_no_line() -> None:
    assert request_body({"inputs": [tensor("x", -1, 2, datatype="FP16")], "outputs": []}, {}, {}) is None


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize(
    ("datatype", "item", "fill", "data"),
    [
        ("INT64", (1,), 25, [25]),
        ("INT64", (5,), 25.0, [25] * 5),
        ("INT32", (3,), -1, [-1] * 3),
        ("FP32", (2, 2), -0.5, [-0.5] * 4),
        ("FP32", (3,), (-1, 2.5, 3), [-1, 2.5, 3]),
        ("BOOL", (2,), (1, 0), [True, False]),
        ("BYTES", (2,), 'it\'s \\n "so" ä', ['it\'s \\n "so" ä'] * 2),
        ("BYTES", (2,), "random", ["random"] * 2),
        ("BYTES", (2,), ("-n", "b\\c"), ["-n", "b\\c"]),
    ],
)
def test_the_item_is_the_one_that_the_config_says(
    datatype: str, item: tuple[int, ...], fill: Fill, data: list[object], shell: str
) -> None:
    free = [-1] * len(item)
    model = {"inputs": [tensor("x", -1, *free, datatype=datatype)], "outputs": []}
    (sent,) = run(request_body(model, {"x": item}, {"x": fill}), shell)["inputs"]
    assert (sent["shape"], sent["data"]) == ([1, *item], data)
    assert [type(value) for value in sent["data"]] == [type(value) for value in data]


def test_an_item_of_a_model_without_a_batch_has_its_own_shape_and_one_that_says_none_has_ones() -> None:
    model = {"inputs": [tensor("x", -1, 3), tensor("y", -1, -1)], "outputs": []}
    x, y = run(request_body(model, {"x": (2, 3)}, {}))["inputs"]
    assert (x["shape"], x["data"], y["shape"], y["data"]) == ([2, 3], [0] * 6, [1, 1], [0])


@pytest.mark.parametrize("item", [(1,), (3, 224, 224)])
def test_random_numbers_are_made_where_the_line_runs(item: tuple[int, ...]) -> None:
    body = request_body({"inputs": [tensor("x", -1, *item)], "outputs": []}, {}, {"x": "random"})
    assert body is not None and len(body) < 1000
    (sent,) = run(body)["inputs"]
    assert len(sent["data"]) == math.prod(item)
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in sent["data"])
    assert len(set(sent["data"])) > len(sent["data"]) // 10
