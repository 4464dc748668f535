"""The commands of docs/tutorials/import.md, run as they stand there."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.export.importing.foreign import foreign_network
from tests.export.importing.test_import import parameters
from tests.gateway.documented import blocks, examples, run

pytestmark = [pytest.mark.integration, pytest.mark.long]

PAGE, HEADING = "tutorials/import.md", "## Walk through"


def test_every_command_of_the_tutorial_does_what_the_page_says(tmp_path: Path) -> None:
    foreign_network("rapidocr_onnxruntime", "models/*_det_infer.onnx")
    foreign_network("rapidocr", "models/*_det_small.onnx")
    for script in blocks(PAGE, HEADING, "python"):
        name = re.match(r"# (\w+\.py)\n", script)
        assert name, script
        (tmp_path / name.group(1)).write_text(script)
    # As this process finds the packages, so do the commands.
    environment = f"PYTHONPATH={os.environ.get('PYTHONPATH', '')} "
    replaced = {"slimsched ": f"{environment}slimsched ", "python ": f"{environment}{sys.executable} "}
    outputs: dict[str, list[str]] = {}
    try:
        for example in examples(PAGE, HEADING):
            if example.command.startswith("pip "):
                continue  # installed already, or the test is skipped
            output = run(example.command, tmp_path, replaced, timeout_s=300)
            assert not example.output or output == example.output, example.command
            outputs.setdefault(example.command.split(" --")[0], []).append(output)
    finally:
        run("slimsched local down --state-dir fleet", tmp_path, replaced)
    assert [output.count("written") for output in outputs["slimsched import"]] == [2, 2]
    assert "What was checked is as it was written." in outputs["slimsched verify model_repository"][0]
    assert "What was checked is as it was written." in outputs["slimsched verify by_my_metric"][0]
    qualities = {}
    for name in ("text_w050", "words_w050"):
        found = parameters(tmp_path / ("by_my_metric" if name.startswith("words") else "model_repository"), name)
        qualities[found["slim.metric"]] = float(found["slim.accuracy"])
    assert qualities.keys() == {"mean-iou", "my_metric:f1"} and len(set(qualities.values())) == 2
    sent = json.loads((tmp_path / "figures.json").read_text())
    assert sent["metric"] == "my_metric:f1" and sent["summary"]["accuracy"] > 0
