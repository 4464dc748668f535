"""What ``verify`` makes of models that somebody described with ``slim.*`` parameters by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from export.cli import verify
from export.errors import RepositoryError
from export.repository.routing import read_fleet
from export.repository.verification import Origin, Severity, Verification, verify_repository
from orchestrator.config import load_fleet
from orchestrator.triton.families import describe_models
from orchestrator.triton.repository import Repository
from tests.export.importing.networks import shifted_lookup
from tests.triton import onnx_models


def describe(
    repository: Path, name: str, parameters: dict[str, str], model: onnx.ModelProto | None = None, **more: str
):
    model = model or onnx_models.plus_one()
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    text = onnx_models.render_config(model, parameters=parameters, **more)
    (folder / "config.pbtxt").write_text(text)


def plus(width: str = "50", **more: str) -> dict[str, str]:
    return {"slim.family": "plus", "slim.width": width, "slim.accuracy": f"6{width}.5", **more}


def errors_of(found: Verification) -> list[str]:
    return [finding.message for finding in found.findings if finding.severity is Severity.ERROR]


def test_a_family_that_was_described_by_hand_is_clean(tmp_path: Path) -> None:
    for width in ("50", "100"):
        describe(tmp_path, f"plus-{width}", plus(width))
    found = verify_repository(tmp_path)
    assert found.findings == ()
    assert [(m.origin, m.identity.width, m.identity.accuracy) for m in found.models if m.identity] == [
        (Origin.DESCRIBED, 100, 6100.5),
        (Origin.DESCRIBED, 50, 650.5),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slim.family": ""}, "slim.family is empty"),
        ({"slim.width": "wide"}, "slim.width 'wide' is no whole percentage from 1 to 100"),
        ({"slim.width": "0"}, "slim.width '0' is no whole percentage"),
        ({"slim.accuracy": "nan"}, "slim.accuracy 'nan' is not finite"),
        ({"slim.accuracy": "good"}, "slim.accuracy 'good' is no number"),
        ({"slim.accuracy": ""}, "slim.accuracy '' is no number"),
        ({"slim.flops": "1.5"}, "slim.flops '1.5' is no number"),
        ({"slim.labels": "3"}, "slim.labels is no JSON list"),
        ({"slim.sha256": "0" * 64}, "1/model.onnx has not the sha256 000000000000… that config.pbtxt says"),
        ({"slim.item": "[4]"}, "slim.item '[4]' is no JSON object of shapes by input"),
        ({"slim.item": '{"x": [3]}'}, "slim.item has [3] for 'x', which takes [4]"),
        ({"slim.item": '{"z": [4]}'}, "slim.item is about 'z', and the inputs are x"),
        ({"slim.fill": '{"x": '}, """slim.fill '{"x": ' is no JSON object of values by input"""),
        ({"slim.fill": '{"x": "word"}'}, "slim.fill has 'word' for 'x', which takes FP32"),
        ({"slim.fill": '{"x": [1, 2]}'}, "slim.fill has 2 values for 'x', whose item is [4]"),
        ({"slim.fill": '{"z": 1}'}, "slim.fill is about 'z', and the inputs are x"),
        ({"slim.preprocessing": "resize"}, "slim.preprocessing"),
        (
            {"slim.preprocessing": '{"colours": "CMYK"}'},
            "slim.preprocessing: colours: must be 'RGB', 'BGR'",
        ),
        ({"slim.preprocessing": '{"mean": [1, 2]}'}, "mean has 2 values and colours RGB has 3"),
        ({"slim.preprocessing": "{}"}, "slim.preprocessing: RGB as CHW is made of an image, and 'x' takes [4] of FP32"),
    ],
)
def test_a_description_that_a_router_does_not_take_is_told_once(
    change: dict[str, str], message: str, tmp_path: Path
) -> None:
    describe(tmp_path, "plus", plus() | change)
    describe(tmp_path, "good", plus("100"))
    (error,) = errors_of(verify_repository(tmp_path))
    assert message in error
    assert "; correct " in error
    assert "\n" not in error


@pytest.mark.parametrize("missing", ["slim.family", "slim.width", "slim.accuracy"])
def test_a_description_that_lacks_something_is_told(missing: str, tmp_path: Path) -> None:
    described = plus()
    del described[missing]
    describe(tmp_path, "plus", described)
    (error,) = errors_of(verify_repository(tmp_path))
    assert f"lacks {missing}" in error


def test_a_fill_that_does_not_fit_whole_numbers_is_told_with_its_limits(tmp_path: Path) -> None:
    for value in ("10e30", "1.5", "256", "NaN", "-1"):
        fill = {"slim.fill": f'{{"x": {value}}}'}
        describe(tmp_path / value, "bytes", plus() | fill, onnx_models.identity(onnx.TensorProto.UINT8))
        (error,) = errors_of(verify_repository(tmp_path / value))
        assert f"slim.fill has {float(value) if value not in ('256', '-1') else value} for 'x'" in error
        assert "which takes UINT8: 0 to 255; correct" in error


def test_a_described_network_that_can_not_run_zeros_is_run_with_its_fill(tmp_path: Path) -> None:
    describe(tmp_path, "plus", plus(), shifted_lookup())
    (error,) = errors_of(verify_repository(tmp_path))
    assert "1/model.onnx can't run a batch of 1" in error
    describe(tmp_path / "filled", "plus", plus(**{"slim.fill": '{"x": 25}'}), shifted_lookup())
    assert verify_repository(tmp_path / "filled").findings == ()


def test_one_of_other_inputs_is_no_sibling(tmp_path: Path) -> None:
    """Most are right, and among equals the narrowest is, as for a router."""
    describe(tmp_path, "plus", plus("50"))
    describe(tmp_path, "two", plus("100"), onnx_models.add_and_subtract())
    (error,) = verify_repository(tmp_path).findings
    assert error.model == "two"
    describe(tmp_path, "three", plus("25"), onnx_models.add_and_subtract())
    (error,) = verify_repository(tmp_path).findings
    assert error.model == "plus"
    assert "it takes x FP32 [4] and gives y FP32, with a batch dimension, while family plus takes a" in error.message


def test_one_of_other_labels_is_no_sibling(tmp_path: Path) -> None:
    for width, labels in (("25", '["a"]'), ("50", '["b"]'), ("100", '["a"]')):
        describe(tmp_path, f"plus-{width}", plus(width, **{"slim.labels": labels}))
    (error,) = verify_repository(tmp_path).findings
    assert error.model == "plus-50"
    assert "its labels are not those of most of family plus" in error.message


@pytest.mark.parametrize("quality", ["650.5", "0.1"])
def test_one_that_is_no_better_than_a_narrower_one_is_a_note(quality: str, tmp_path: Path) -> None:
    describe(tmp_path, "plus", plus("50"))
    describe(tmp_path, "more", plus("100", **{"slim.accuracy": quality}))
    (note,) = verify_repository(tmp_path).findings
    assert (note.model, note.severity) == ("more", Severity.NOTE)
    assert f"its quality {quality} is no better than the 650.5 of width 50" in note.message


def test_a_width_that_is_there_twice_is_told(tmp_path: Path) -> None:
    for name in ("other", "plus"):
        describe(tmp_path, name, plus("50"))
    (error,) = verify_repository(tmp_path).findings
    assert (error.model, error.severity) == ("plus", Severity.ERROR)
    assert "it is width 50 of family plus, as other is" in error.message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"extra": "model_transaction_policy { decoupled: true }"}, "it is decoupled"),
        ({"batching": "sequence_batching { max_sequence_idle_microseconds: 5000000 }"}, "it batches sequences"),
    ],
)
def test_what_a_router_takes_for_no_model_of_a_family_is_none(
    more: dict[str, str], message: str, tmp_path: Path
) -> None:
    describe(tmp_path, "plus", plus("50"), **more)
    (error,) = errors_of(verify_repository(tmp_path))
    assert message in error


def test_a_graph_that_does_not_fit_its_configuration_is_told(tmp_path: Path) -> None:
    describe(tmp_path, "plus", plus())
    onnx.save(onnx_models.add_and_subtract(), tmp_path / "plus" / "1" / "model.onnx")
    (error,) = errors_of(verify_repository(tmp_path))
    assert "takes and gives a FP32 [-1, 3], b FP32 [-1, 3] ->" in error


def test_another_backend_is_a_note(tmp_path: Path) -> None:
    describe(tmp_path, "plus", plus())
    path = tmp_path / "plus" / "config.pbtxt"
    path.write_text(path.read_text().replace("onnxruntime", "tensorrt"))
    (note,) = verify_repository(tmp_path).findings
    assert (note.severity, note.message) == (
        Severity.NOTE,
        "backend 'tensorrt' is not run here; only its parameters are checked",
    )


def test_one_bad_model_does_not_keep_the_others_from_being_checked(tmp_path: Path) -> None:
    describe(tmp_path, "good", plus("100"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.pbtxt").write_text("max_batch: x")
    found = verify_repository(tmp_path)
    assert [finding.model for finding in found.findings] == ["bad"]
    assert [model.name for model in found.models if model.identity] == ["good"]
    with pytest.raises(RepositoryError):
        verify_repository(tmp_path / "none")


PLATES = """
servers:
- {name: here, grpc: "127.0.0.1:8001"}
families:
- name: plates
  variants:
  - {width: 30, model: small, quality: 0.61}
  - {width: 60, model: middle, quality: 0.7}
  - {width: 100, model: large, quality: 0.78}
"""


def plates(folder: Path, fleet: str = PLATES) -> Path:
    """Return a repository of what the fleet file describes, whose own configurations say nothing of it."""
    for name in ("small", "middle", "large"):
        describe(folder / "models", name, {})
    (folder / "fleet.yaml").write_text(fleet)
    return folder / "models"


def verify_with_fleet(repository: Path) -> Verification:
    return verify_repository(repository, read_fleet(repository.parent / "fleet.yaml"))


def test_models_that_a_fleet_file_describes_are_judged_by_what_it_says(tmp_path: Path) -> None:
    repository = plates(tmp_path)
    found = verify_with_fleet(repository)
    assert found.findings == ()
    assert [(m.name, m.origin, m.identity.width, m.identity.accuracy) for m in found.models if m.identity] == [
        ("large", Origin.DESCRIBED, 100, 0.78),
        ("middle", Origin.DESCRIBED, 60, 0.7),
        ("small", Origin.DESCRIBED, 30, 0.61),
    ]
    assert [finding.severity for finding in verify_repository(repository).findings] == [Severity.NOTE] * 3


def test_a_described_model_that_is_in_no_repository_of_the_fleet_is_told(tmp_path: Path) -> None:
    repository = plates(tmp_path)
    (tmp_path / "others").mkdir()
    shutil.move(repository / "middle", tmp_path / "others")
    (error,) = verify_with_fleet(repository).findings
    assert (error.model, error.severity) == ("middle", Severity.ERROR)
    assert "the fleet file describes it as width 60 of family plates; add it, or correct 'families'" in error.message
    fleet = PLATES.replace('"127.0.0.1:8001"', f'"127.0.0.1:8001", repository: {tmp_path / "others"}')
    (tmp_path / "fleet.yaml").write_text(fleet)
    assert verify_with_fleet(repository).findings == ()


def test_a_described_model_of_other_inputs_is_told_as_a_router_tells_it(tmp_path: Path) -> None:
    repository = plates(tmp_path)
    shutil.rmtree(repository / "middle")
    describe(repository, "middle", {}, onnx_models.add_and_subtract())
    (error,) = verify_with_fleet(repository).findings
    routed = Repository(repository, described=describe_models(load_fleet(tmp_path / "fleet.yaml").families))
    routed.entries()
    assert routed.misfits == {error.model: error.message}


def test_a_described_model_that_a_router_can_not_group_is_told_and_one_without_a_configuration_is_a_note(
    tmp_path: Path,
) -> None:
    repository = plates(tmp_path)
    with (repository / "small" / "config.pbtxt").open("a") as config:
        config.write("model_transaction_policy { decoupled: true }\n")
    (repository / "large" / "config.pbtxt").unlink()
    note, error = sorted(verify_with_fleet(repository).findings, key=lambda finding: finding.model)
    assert (note.model, note.severity) == ("large", Severity.NOTE)
    assert "has no config.pbtxt" in note.message
    assert (error.model, error.severity) == ("small", Severity.ERROR)
    assert "it is decoupled" in error.message


def test_a_described_quality_that_does_not_rise_is_a_note(tmp_path: Path) -> None:
    (note,) = verify_with_fleet(plates(tmp_path, PLATES.replace("0.7}", "0.61}"))).findings
    assert (note.model, note.severity) == ("middle", Severity.NOTE)
    assert "its quality 0.61 is no better than the 0.61 of width 30" in note.message


def test_the_command_takes_the_fleet_file_and_tells_one_that_can_not_be_read_in_a_line(tmp_path: Path) -> None:
    repository = plates(tmp_path)
    clean = CliRunner().invoke(verify, [str(repository), "--fleet", str(tmp_path / "fleet.yaml")])
    assert clean.exit_code == 0, clean.output
    assert "What was checked is as it was written." in clean.output
    for text in (PLATES.replace("width: 30", "width: 300"), None):
        (tmp_path / "fleet.yaml").unlink()
        if text is not None:
            (tmp_path / "fleet.yaml").write_text(text)
        refused = CliRunner().invoke(verify, [str(repository), "--fleet", str(tmp_path / "fleet.yaml")])
        assert (refused.exit_code, refused.output.count("\n")) == (1, 1), refused.output
        assert "fleet.yaml" in refused.output
