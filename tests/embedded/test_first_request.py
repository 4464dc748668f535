"""The line that ``slimsched up`` gives a newcomer to paste."""

from __future__ import annotations

import json
import math
import subprocess
from typing import Any

import pytest

from orchestrator.embedded.first_request import request_body


def tensor(name: str, *shape: int, datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": datatype}


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("shape", [(1,), (-1, 1, 28, 28), (-1, 3, 224, 224)])
def test_the_line_is_taken_by_a_shell_at_any_size_of_the_input(shape: tuple[int, ...], shell: str) -> None:
    body = request_body({"inputs": [tensor("pixels", *shape)], "outputs": [tensor("logits", -1, 10)]})
    assert body is not None and len(body) < 1000
    said = json.loads(subprocess.run([shell, "-c", f"{body} | cat"], capture_output=True, check=True).stdout)
    (sent,) = said["inputs"]
    assert sent["shape"] == [abs(side) for side in shape]
    assert sent["data"] == [0] * abs(int(math.prod(shape)))
    assert said["outputs"] == [{"name": "logits", "parameters": {"classification": 1}}]


def test_all_inputs_are_in_it_and_outputs_that_are_no_scores_come_as_they_are() -> None:
    inputs = [tensor("text", -1, 2, datatype="BYTES"), tensor("flag", -1, 1, datatype="BOOL")]
    body = request_body({"inputs": inputs, "outputs": [tensor("boxes", -1, 5, 4), tensor("count", -1, 1)]})
    said = json.loads(subprocess.run(["sh", "-c", str(body)], capture_output=True, check=True).stdout)
    assert [(sent["name"], sent["data"]) for sent in said["inputs"]] == [("text", ["", ""]), ("flag", [False])]
    assert "outputs" not in said


def test_what_json_has_no_form_for_has_no_line() -> None:
    assert request_body({"inputs": [tensor("x", -1, 2, datatype="FP16")], "outputs": []}) is None
