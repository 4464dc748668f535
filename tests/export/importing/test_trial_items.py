"""Networks that can't take zeros get an item that they take, and warm-up, probes and profiles run it."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from numpy.typing import ArrayLike
from tritonclient.grpc import model_config_pb2

from export.repository.signature import Tensor
from export.repository.trial_item import RANDOM, Fill, make_item
from export.repository.verification import verify_repository
from orchestrator.cli.research.profile import profile
from orchestrator.config import FleetSettings, ProbeSettings, RouterSettings, ServerSettings, render_fleet
from orchestrator.config.families import FamilySettings
from orchestrator.embedded.server import EmbeddedOptions
from orchestrator.profile.document import read_profile
from orchestrator.router import Router
from orchestrator.snapshot import ServedModel
from orchestrator.triton.families import Misfit, read_width
from orchestrator.triton.trial_items import blank_batch, golden_batch
from tests.export.importing.networks import (
    assert_refused,
    classifier,
    pair,
    save,
    shifted_lookup,
    slimsched_import,
    stretched_lookup,
)
from tests.triton.onnx_models import write_model
from tests.tritons import Tritons


def read_config(repository: Path, name: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse((repository / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def read_model(repository: Path, name: str) -> ServedModel:
    model = read_width(read_config(repository, name), {})
    assert isinstance(model, ServedModel)
    return model


def import_lookup(folder: Path, *arguments: object) -> Path:
    """Import a network that takes 20 to 29, and return the repository."""
    repository, file = folder / "models", save(shifted_lookup(), folder / "lookup.onnx")
    given = ("--family", "a", "--variant", f"30={file}", "--quality", "30=1", "--repository", repository)
    result = slimsched_import(*given, *arguments)
    assert result.exit_code == 0, result.output
    return repository


def test_what_no_made_up_item_can_run_is_refused_with_what_to_give(tmp_path: Path) -> None:
    file = save(shifted_lookup(), tmp_path / "lookup.onnx")
    given = ("--family", "a", "--variant", f"30={file}", "--quality", "30=1", "--repository", tmp_path / "models")
    for fill, reason in [
        ((), "can't run an item of zeros, of random numbers or of ones, and warm-up, a router's probes and profiles"),
        (("--fill", "x=7"), "can't run what --fill says"),
        (("--fill", "x=random"), "--fill: 'random' for 'x', which takes INT64; give what fits"),
        (("--fill", "x=20.5"), "--fill: 20.5 for 'x', which takes INT64"),
        (("--fill", "x=inf"), "--fill: inf for 'x', which takes INT64"),
        (("--fill", "y=20"), "--fill y: is no input; they are x"),
        (("--fill", "x=none.npy"), "--fill x=none.npy: can't read it"),
    ]:
        assert_refused(slimsched_import(*given, *fill), reason, tmp_path / "models")
    (tmp_path / "empty.npy").write_bytes(b"")
    with (tmp_path / "archive.npy").open("wb") as archive:
        np.savez(archive, x=np.zeros(2))
    for name in ("empty.npy", "archive.npy"):
        refused = slimsched_import(*given, "--fill", f"x={tmp_path / name}")
        assert_refused(refused, f"{name}: can't read it", tmp_path / "models")
    np.save(tmp_path / "large.npy", np.full(5000, 20))
    large = slimsched_import(*given, "--fill", f"x={tmp_path / 'large.npy'}")
    assert_refused(large, "has 5000 values, and at most 4096 fit into a config", tmp_path / "models")


def test_what_answers_no_finite_number_is_refused_because_a_router_would_never_ask_it(tmp_path: Path) -> None:
    given = ("--family", "a", "--quality", "30=1", "--repository", tmp_path / "models")
    file = save(classifier(), tmp_path / "sound.onnx")
    for fill in ("nan", "1e39"):
        refused = slimsched_import(*given, "--variant", f"30={file}", "--fill", f"x={fill}")
        assert_refused(refused, "for 'x', and FP32 takes finite numbers", tmp_path / "models")
    masked = save(classifier((0, 0, 0, -np.inf)), tmp_path / "masked.onnx")
    refused = slimsched_import(*given, "--variant", f"30={masked}")
    assert_refused(refused, "its output scores is not finite, which a router takes for wrong", tmp_path / "models")


def test_a_value_is_written_for_warm_up_and_read_for_probes_and_profiles(tmp_path: Path) -> None:
    repository = import_lookup(tmp_path, "--fill", "x=25")
    config = read_config(repository, "a_w030")
    assert json.loads(config.parameters["slim.fill"].string_value) == {"x": 25}
    assert {warmup.inputs["x"].input_data_file for warmup in config.model_warmup} == {"item_0"}
    assert (repository / "a_w030" / "warmup" / "item_0").read_bytes() == np.array([25]).tobytes()
    assert verify_repository(repository).findings == ()
    for make in (blank_batch, golden_batch):
        (batch,) = make(read_model(repository, "a_w030"), 3) or ()
        np.testing.assert_array_equal(batch, np.full((3, 1), 25))


def test_a_file_gives_values_and_shape_of_an_item(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array([4, 5, 6]))
    file, repository = save(pair(), tmp_path / "pair.onnx"), tmp_path / "models"
    given = ("--family", "p", "--variant", f"50={file}", "--quality", "50=1", "--repository", repository)
    result = slimsched_import(
        *given, "--fill", f"ids={tmp_path / 'ids.npy'}", "--shape", "hidden=3", "--fill", "hidden=1"
    )
    assert result.exit_code == 0, result.output
    made = {tuple(array[1].tolist()) for array in blank_batch(read_model(repository, "p_w050"), 2) or ()}
    assert made == {(4, 5, 6), (True, True, True)}
    assert verify_repository(repository).findings == ()


@pytest.mark.parametrize("content", [None, np.array([1j, 1, 1]), np.zeros(3, "datetime64[s]"), np.array([b"a"] * 3)])
def test_a_file_of_other_than_numbers_or_text_is_refused(content: ArrayLike | None, tmp_path: Path) -> None:
    place = tmp_path / "ids.npy"
    place.touch()
    if content is not None:
        np.save(place, content)
    file, repository = save(pair(), tmp_path / "pair.onnx"), tmp_path / "models"
    given = ("--family", "p", "--variant", f"50={file}", "--quality", "50=1", "--repository", repository)
    assert_refused(slimsched_import(*given, "--fill", f"ids={place}"), "of numpy.save", repository)


def test_an_archive_that_is_called_an_array_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ids=np.arange(3))
    place = (tmp_path / "a.npz").rename(tmp_path / "ids.npy")
    file, repository = save(pair(), tmp_path / "pair.onnx"), tmp_path / "models"
    given = ("--family", "p", "--variant", f"50={file}", "--quality", "50=1", "--repository", repository)
    assert_refused(slimsched_import(*given, "--fill", f"ids={place}"), "give an array of numpy.save", repository)


def test_without_a_word_the_first_item_of_the_data_or_ones_are_taken_where_zeros_can_not_be_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", x=np.full((4, 1), 22), labels=np.zeros(4, int))
    given = ("--family", "a", "--metric", "top-1", "--data", tmp_path / "test.npz", "--repository", tmp_path / "models")
    lookup = save(shifted_lookup(), tmp_path / "lookup.onnx")
    assert slimsched_import(*given, "--variant", f"30={lookup}").exit_code == 0
    assert read_model(tmp_path / "models", "a_w030").fills == ((22,),)
    file, repository = save(stretched_lookup(), tmp_path / "stretched.onnx"), tmp_path / "models"
    ones = slimsched_import(
        "--family", "b", "--variant", f"30={file}", "--quality", "30=1", "--repository", repository
    )  # fmt: skip
    assert ones.exit_code == 0, ones.output
    assert read_model(repository, "b_w030").fills == (1,)
    assert verify_repository(repository).findings == ()


def test_an_import_with_another_item_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    repository = import_lookup(tmp_path, "--fill", "x=25")
    import_lookup(tmp_path, "--fill", "x=26")
    assert (repository / "a_w030" / "warmup" / "item_0").read_bytes() == np.array([26]).tobytes()
    (repository / "a_w030" / "warmup" / "item_0").write_bytes(b"12345678")
    (finding,) = verify_repository(repository).findings
    assert "warmup/item_0 is not the item that config.pbtxt says; import it anew" in str(finding)
    file = save(stretched_lookup(), tmp_path / "takes-zeros-not.onnx")
    given = ("--family", "a", "--variant", f"30={file}", "--quality", "30=1", "--repository", repository)
    assert slimsched_import(*given).exit_code == 0
    assert verify_repository(repository).findings == ()


@pytest.mark.parametrize(
    ("data_type", "fill"),
    [
        ("TYPE_UINT8", 256), ("TYPE_INT8", -129), ("TYPE_BOOL", 2), ("TYPE_INT32", float("inf")), ("TYPE_FP32", "one"),
        ("TYPE_STRING", 1), ("TYPE_INT64", RANDOM), ("TYPE_FP32", (1.0, 2.0, 3.0)),
    ],
)  # fmt: skip
def test_a_value_that_an_input_does_not_take_is_told(data_type: str, fill: Fill) -> None:
    with pytest.raises(ValueError, match=r"\bx\b"):
        make_item(Tensor("x", data_type, (2, 2)), (2, 2), fill)


def test_an_exporter_and_a_router_make_the_same_item(tmp_path: Path) -> None:
    repository = import_lookup(tmp_path, "--fill", "x=25")
    for data_type, fill in [
        ("FP32", RANDOM), ("FP16", 0.1), ("STRING", "word"), ("STRING", ("a", "b", "c", "d")), ("BOOL", True),
        ("UINT8", (1, 2, 3, 255)), ("FP64", RANDOM), ("INT32", -7), ("STRING", RANDOM),
    ]:  # fmt: skip
        config = read_config(repository, "a_w030")
        config.input[0].data_type = model_config_pb2.DataType.Value(f"TYPE_{data_type}")
        config.input[0].dims[:] = [2, 2]
        config.parameters["slim.fill"].string_value = json.dumps({"x": fill})
        model = read_width(config, {})
        assert isinstance(model, ServedModel)
        (batch,) = blank_batch(model, 1) or ()
        mine = make_item(Tensor("x", f"TYPE_{data_type}", (2, 2)), (2, 2), fill)
        assert [v.decode() if isinstance(v, bytes) else v for v in batch.flat] == list(mine.flat)


@pytest.mark.parametrize("text", ["[1]", "{", '{"x": {"y": 1}}', '{"x": "word"}', '{"x": [1, 2]}', '{"x": 1e300}'])
def test_a_config_whose_fill_makes_no_sense_is_a_misfit(tmp_path: Path, text: str) -> None:
    config = read_config(import_lookup(tmp_path, "--fill", "x=25"), "a_w030")
    config.parameters["slim.fill"].string_value = text
    found = read_width(config, {})
    assert isinstance(found, Misfit)
    assert "slim.fill" in found.reason


def described_lookup(folder: Path) -> tuple[Path, tuple[FamilySettings, ...]]:
    """Return a repository with a model of no family, and what a fleet file says of it."""
    write_model(folder / "models", "a_w030", shifted_lookup())
    said = {"name": "a", "variants": [{"width": 30, "model": "a_w030", "quality": 1}], "fill": {"x": 25}}
    return folder / "models", (FamilySettings.model_validate(said),)


@pytest.mark.integration
@pytest.mark.parametrize("said_by", ["config", "fleet file"])
def test_a_network_that_takes_no_zeros_is_warmed_up_probed_and_profiled(
    said_by: str, tmp_path: Path, tritons: Tritons, caplog: pytest.LogCaptureFixture
) -> None:
    families: tuple[FamilySettings, ...] = ()
    if said_by == "config":
        repository = import_lookup(tmp_path, "--fill", "x=25", "--max-batch-size", 4)
    else:
        repository, families = described_lookup(tmp_path)

    async def ask(fleet: FleetSettings) -> None:
        async with Router.from_fleet(fleet) as router:
            answer = await router.infer(np.array([[27], [21]]), family="a")
            np.testing.assert_array_equal(answer.output, [[7], [1]])
            await asyncio.sleep(1)  # some probes

    with tritons.running(repository, EmbeddedOptions(exit_timeout_s=3)) as server, caplog.at_level(logging.WARNING):
        router = RouterSettings(deadline_ms=10_000, probes=ProbeSettings(period_s=0.2))
        servers = (ServerSettings(name="s", grpc=server.grpc_address),)
        fleet = FleetSettings(servers=servers, router=router, families=families)
        asyncio.run(ask(fleet))
        assert not [record for record in caplog.records if "a_w030" in record.getMessage()]
        (tmp_path / "fleet.yaml").write_text(render_fleet(fleet))
        out = tmp_path / "profile.json"
        arguments = ["--fleet", tmp_path / "fleet.yaml", "--requests", 3, "--precision", 1, "--out", out]
        profiled = CliRunner().invoke(profile, [str(argument) for argument in arguments])
        assert profiled.exit_code == 0, profiled.output
    (measured,) = read_profile(out).servers
    assert {model.family for model in measured.models} == {"a"}
