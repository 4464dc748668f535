"""What ``verify`` makes of models that somebody described with ``slim.*`` parameters by hand."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from export.errors import RepositoryError
from export.repository.verification import Origin, Severity, Verification, verify_repository
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
    return {"slim.family": "plus", "slim.width": width, "slim.accuracy": "61.5", **more}


def errors_of(found: Verification) -> list[str]:
    return [finding.message for finding in found.findings if finding.severity is Severity.ERROR]


def test_a_family_that_was_described_by_hand_is_clean(tmp_path: Path) -> None:
    for width in ("50", "100"):
        describe(tmp_path, f"plus-{width}", plus(width))
    found = verify_repository(tmp_path)
    assert found.findings == ()
    assert [(m.origin, m.identity.width, m.identity.accuracy) for m in found.models if m.identity] == [
        (Origin.DESCRIBED, 100, 61.5),
        (Origin.DESCRIBED, 50, 61.5),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slim.width": "wide"}, "slim.width: width 'wide' is no whole percentage"),
        ({"slim.width": "0"}, "slim.width: width '0' is no whole percentage"),
        ({"slim.accuracy": "nan"}, "slim.accuracy is nan, which is no quality"),
        ({"slim.accuracy": "good"}, "a slim.* parameter makes no sense"),
        ({"slim.accuracy": ""}, "the parameter slim.accuracy is missing"),
        ({"slim.flops": "1.5"}, "a slim.* parameter makes no sense"),
        ({"slim.labels": "3"}, "slim.labels is no JSON list"),
        ({"slim.sha256": "0" * 64}, "1/model.onnx has not the sha256 000000000000… that config.pbtxt says"),
    ],
)
def test_a_description_that_a_router_does_not_take_is_told(
    change: dict[str, str], message: str, tmp_path: Path
) -> None:
    describe(tmp_path, "plus", plus() | change)
    describe(tmp_path, "good", plus("100"))
    (error,) = errors_of(verify_repository(tmp_path))
    assert message in error


def test_one_of_other_inputs_is_no_sibling(tmp_path: Path) -> None:
    """Most are right, and among equals the narrowest is, as for a router."""
    describe(tmp_path, "plus", plus("50"))
    describe(tmp_path, "two", plus("100"), onnx_models.add_and_subtract())
    (error,) = verify_repository(tmp_path).findings
    assert error.model == "two"
    describe(tmp_path, "three", plus("25"), onnx_models.add_and_subtract())
    (error,) = verify_repository(tmp_path).findings
    assert error.model == "plus"
    assert "is an orphan: it has other inputs, outputs or labels than three" in error.message


def test_a_width_that_is_there_twice_is_told(tmp_path: Path) -> None:
    for name in ("other", "plus"):
        describe(tmp_path, name, plus("50"))
    (error,) = verify_repository(tmp_path).findings
    assert (error.model, error.severity) == ("plus", Severity.ERROR)
    assert "has the width of other, and a router takes one of them" in error.message


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
