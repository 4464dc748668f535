from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export.errors import CheckpointError, ExportError, RepositoryError
from export.family import (
    ProvenModel,
    default_family,
    describe_useless,
    prove_family,
    verify_against,
)
from export.repository.model_config import Tuning, parse_config, read_identity
from export.repository.model_files import CONFIG_FILE, MODEL_FILE, render_labels, write_models
from export.repository.verification import verify_repository
from export.training.checkpoint import Checkpoint
from export.training.datasets import InMemoryImages
from export.width import Width
from tests.export.toys import LABELS, SIDE, lively_network, toy_checkpoint, toy_images, toy_spec

NARROW, FULL = Width(25), Width(100)


def export_family(
    checkpoint: Checkpoint,
    repository: Path,
    widths: tuple[Width, ...],
    images: InMemoryImages,
    *,
    family: str = "toys",
    tuning: Tuning | None = None,
) -> dict[str, bool]:
    """Prove all widths, then write them, as the command does."""
    proven = list(prove_family(checkpoint, widths, images, family=family, tuning=tuning or Tuning()))
    return write_models(repository, {model.identity.name: model.files for model in proven})


def test_every_width_describes_itself(proven: list[ProvenModel]) -> None:
    narrow, full = (model.identity for model in proven)
    assert (narrow.name, full.name) == ("toys_w025", "toys_w100")
    assert (narrow.shape, narrow.labels) == ((1, SIDE, SIDE), LABELS)
    assert narrow.flops < full.flops
    for model in proven:
        assert read_identity(parse_config(model.files[CONFIG_FILE].decode())) == model.identity
        assert model.identity.accuracy == round(model.parity.accuracy_onnx, 4)
        assert model.files["labels.txt"].decode().splitlines() == list(LABELS)


def test_exporting_twice_changes_nothing(
    checkpoint: Checkpoint, unseen_images: InMemoryImages, repository: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    written = export_family(checkpoint, repository, (NARROW, FULL), unseen_images)
    assert written == {"toys_w025": False, "toys_w100": False}
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"widths": (NARROW, Width(60))}, r"no width 0\.60"),
        ({}, {"family": "Toys"}, "--family"),
        ({}, {"tuning": Tuning(max_batch_size=0)}, "max_batch_size"),
        ({"labels": ("a", "b", "c")}, {}, "whose labels is"),
        ({"height": 13}, {}, "whose shape is"),
    ],
)
def test_nothing_is_written_unless_all_is_well(
    change: dict[str, object], arguments: dict[str, object], message: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    images = toy_images(9, spec=replace(toy_spec(), **change))  # type: ignore[arg-type]
    usual: dict[str, object] = {"widths": (NARROW,)}
    with pytest.raises(ExportError, match=message):
        export_family(checkpoint, tmp_path / "models", images=images, **{**usual, **arguments})  # type: ignore[arg-type]
    assert not (tmp_path / "models").exists()


def test_one_width_that_fails_keeps_all_from_being_written(unseen_images: InMemoryImages, tmp_path: Path) -> None:
    """A weight that is no number reaches only the full width."""
    network = lively_network()
    network.classifier.weight.data[0, -1] = float("nan")
    with pytest.raises(ExportError, match=r"width 1\.00, batch of 1: logits differ by up to nan"):
        export_family(toy_checkpoint(network), tmp_path / "models", (NARROW, FULL), unseen_images)
    assert not (tmp_path / "models").exists()


def test_a_checkpoint_without_the_width_is_refused_before_any_work(
    checkpoint: Checkpoint, unseen_images: InMemoryImages
) -> None:
    with pytest.raises(CheckpointError):
        next(prove_family(checkpoint, (Width(10),), unseen_images, family="toys", tuning=Tuning()))


def test_an_occupied_place_stops_the_export(proven: list[ProvenModel], checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(RepositoryError, match="can't write"):
        write_models(tmp_path / "models", {"toys_w025": proven[0].files})


def test_families_are_named_for_their_data() -> None:
    assert [default_family(name) for name in ("fashion-mnist", "cifar10", "imagefolder")] == [
        "fashion",
        "cifar10",
        "imagefolder",
    ]


def test_a_label_never_takes_two_lines() -> None:
    assert render_labels(("a\nb", " c ")) == "a b\nc\n"


def test_a_width_that_costs_as_much_as_a_wider_one_is_told(proven: list[ProvenModel]) -> None:
    narrow, full = (
        replace(model, identity=replace(model.identity, accuracy=accuracy))
        for model, accuracy in zip(proven, (0.8, 0.9), strict=True)
    )
    assert describe_useless([narrow, full]) == []
    costly = replace(narrow, identity=replace(narrow.identity, flops=full.identity.flops))
    (said,) = describe_useless([full, costly])
    assert said.startswith("width 0.25 takes ") and " MFLOPs, no less than 1.00: a width has to slice weights" in said


def test_a_wider_width_that_is_right_no_more_often_is_told(proven: list[ProvenModel]) -> None:
    narrow, full = proven
    worse = replace(full, identity=replace(full.identity, accuracy=narrow.identity.accuracy))
    (said,) = describe_useless([worse, narrow])
    assert said.startswith("width 1.00 is right for ") and said.endswith(": routers have no use for it")
    assert "no more than 0.25 with" in said


def test_a_repository_agrees_with_its_checkpoint(
    checkpoint: Checkpoint, unseen_images: InMemoryImages, repository: Path
) -> None:
    assert verify_against(checkpoint, repository, verify_repository(repository), unseen_images) == []


def test_a_repository_of_another_training_is_found(unseen_images: InMemoryImages, repository: Path) -> None:
    other = toy_checkpoint(lively_network(seed=1))
    findings = verify_against(other, repository, verify_repository(repository), unseen_images)
    assert [finding.model for finding in findings] == ["toys_w025", "toys_w100"]
    assert all("logits differ" in finding.message for finding in findings)


def test_a_width_the_checkpoint_lacks_is_found(unseen_images: InMemoryImages, repository: Path) -> None:
    other = toy_checkpoint(lively_network(widths=(Width(50), FULL)), widths=(Width(50), FULL))
    findings = verify_against(other, repository, verify_repository(repository), unseen_images)
    assert "has no width 0.25" in findings[0].message


def test_a_checkpoint_that_fits_no_model_is_refused(repository: Path) -> None:
    spec = replace(toy_spec(), height=16, width=16)
    other = toy_checkpoint(lively_network(), spec)
    images = toy_images(6, spec=spec)
    with pytest.raises(CheckpointError, match="give the one it was exported from"):
        verify_against(other, repository, verify_repository(repository), images)


@pytest.mark.parametrize(("field", "message"), [("accuracy", "slim.accuracy says"), ("flops", "slim.flops says")])
def test_a_description_that_does_not_hold_is_found(
    field: str, message: str, checkpoint: Checkpoint, unseen_images: InMemoryImages, repository: Path
) -> None:
    verification = verify_repository(repository)
    identity = verification.models[0].identity
    assert identity is not None
    claimed = replace(identity, **{field: getattr(identity, field) + (0.01 if field == "accuracy" else 2)})
    models = (replace(verification.models[0], identity=claimed), *verification.models[1:])
    findings = verify_against(checkpoint, repository, replace(verification, models=models), unseen_images)
    assert len(findings) == 1
    assert message in findings[0].message


def test_a_model_that_vanished_is_found(
    checkpoint: Checkpoint, unseen_images: InMemoryImages, repository: Path
) -> None:
    verification = verify_repository(repository)
    (repository / "toys_w100" / MODEL_FILE).unlink()
    (finding,) = verify_against(checkpoint, repository, verification, unseen_images)
    assert finding.model == "toys_w100"
