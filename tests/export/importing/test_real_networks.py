"""Networks that nobody here made, imported and served by the embedded Triton: it answers what ONNX Runtime answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray

from export.repository.verification import verify_repository
from orchestrator.config import FleetSettings, RouterSettings, ServerSettings
from orchestrator.embedded.server import EmbeddedOptions
from orchestrator.router import Router
from tests.export.importing.foreign import foreign_network
from tests.export.importing.networks import assert_refused, counted, save, slimsched_import
from tests.triton.calls import infer
from tests.tritons import Tritons

SAMPLES, RATE_HZ = 576, 16_000


def alone(path: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime with as many threads as the instances have; with others sums are rounded differently."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def text_detectors() -> dict[int, Path]:
    return {
        50: foreign_network("rapidocr_onnxruntime", "models/*_det_infer.onnx"),
        100: foreign_network("rapidocr", "models/*_det_small.onnx"),
    }


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


@pytest.mark.integration
def test_two_sizes_of_a_text_detector_answer_as_onnx_runtime_does(tmp_path: Path, tritons: Tritons) -> None:
    files, repository = text_detectors(), tmp_path / "models"
    result = slimsched_import(
        "--family", "text", "--variant", f"50={files[50]}", "--variant", f"100={files[100]}", "--quality", "50=1,100=2",
        "--shape", "x=3,64,96", "--max-batch-size", 4, "--repository", repository,
        "--rename", "sigmoid_0.tmp_0=text", "--rename", "fetch_name_0=text",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert verify_repository(repository).findings == ()
    with (
        tritons.running(repository, EmbeddedOptions(exit_timeout_s=3)) as server,
        grpcclient.InferenceServerClient(server.grpc_address) as client,
    ):
        for width, path in files.items():
            for images in (noise(1, 3, 64, 96), noise(3, 3, 96, 160)):
                answer = infer(client, f"text_w{width:03d}", x=images).as_numpy("text")
                np.testing.assert_array_equal(answer, alone(path).run(None, {"x": images})[0])


@pytest.mark.integration
def test_items_without_dims_are_served_with_one_of_1(tmp_path: Path, tritons: Tritons) -> None:
    file, repository = save(counted(), tmp_path / "counted.onnx"), tmp_path / "models"
    np.savez(tmp_path / "items.npz", x=np.ones((5, 4), np.float32), n=np.arange(5), labels=np.zeros(5, int))
    given = ("--family", "a", "--variant", f"50={file}", "--repository", repository)
    measured = ("--metric", "top-1", "--output", "y", "--data", tmp_path / "items.npz")
    for arguments in (measured, ("--quality", "50=1", "--fill", "n=3")):
        result = slimsched_import(*given, *arguments)
        assert result.exit_code == 0, result.output
        assert verify_repository(repository).findings == ()
        with (
            tritons.running(repository, EmbeddedOptions(exit_timeout_s=3)) as server,
            grpcclient.InferenceServerClient(server.grpc_address) as client,
        ):
            answer = infer(client, "a_w050", x=np.ones((2, 4), np.float32), n=np.array([[5], [7]]))
            np.testing.assert_array_equal(answer.as_numpy("more"), [[6], [8]])
            np.testing.assert_array_equal(answer.as_numpy("y"), [[5] * 4, [7] * 4])
    config = repository / "a_w050" / "config.pbtxt"
    config.write_text(config.read_text().replace("  reshape {\n  }\n", ""))
    assert "takes and gives" in str(verify_repository(repository).findings), "Triton would load it no more"


@pytest.mark.integration
def test_a_voice_detector_with_a_state_and_a_scalar_answers_as_onnx_runtime_does(
    tmp_path: Path, tritons: Tritons
) -> None:
    path, repository = foreign_network("silero_vad", "data/silero_vad_16k_op15.onnx"), tmp_path / "models"
    result = slimsched_import(
        "--family", "voice", "--variant", f"100={path}", "--quality", "100=1", "--repository", repository,
        "--shape", f"input=1,{SAMPLES}", "--shape", "state=2,1,128",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert verify_repository(repository).findings == ()
    session, state = alone(path), np.zeros((2, 1, 128), np.float32)
    with (
        tritons.running(repository, EmbeddedOptions(exit_timeout_s=3)) as server,
        grpcclient.InferenceServerClient(server.grpc_address) as client,
    ):
        for _ in range(3):
            chunk = noise(1, SAMPLES)
            answer = infer(client, "voice_w100", input=chunk, state=state, sr=np.array([RATE_HZ]))
            feed = {"input": chunk, "state": state, "sr": np.array(RATE_HZ)}
            for name, wanted in zip(("output", "stateN"), session.run(["output", "stateN"], feed), strict=True):
                np.testing.assert_array_equal(answer.as_numpy(name), wanted)
            state = answer.as_numpy("stateN")


@pytest.mark.integration
async def test_a_text_recogniser_is_a_family_of_one_width(tmp_path: Path, tritons: Tritons) -> None:
    path, repository = foreign_network("rapidocr_onnxruntime", "models/*_rec_infer.onnx"), tmp_path / "models"
    result = slimsched_import(
        "--family", "letters", "--variant", f"100={path}", "--quality", "100=0.8", "--shape", "x=3,48,96",
        "--max-batch-size", 4, "--repository", repository, "--rename", "softmax_11.tmp_0=letters",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert verify_repository(repository).findings == ()
    lines = [noise(3, 48, 96), noise(3, 48, 96), noise(3, 48, 160)]
    with tritons.running(repository, EmbeddedOptions(exit_timeout_s=3)) as server:
        fleet = FleetSettings(
            servers=(ServerSettings(name="here", grpc=server.grpc_address),), router=RouterSettings(deadline_ms=20_000)
        )
        async with Router.from_fleet(fleet) as router:
            answers = [await router.infer({"x": line}) for line in lines]
    for line, answer in zip(lines, answers, strict=True):
        assert (answer.width, answer.policy) == (100, RouterSettings().policy)
        (wanted,) = alone(path).run(None, {"x": line[None]})
        np.testing.assert_array_equal(answer.outputs["letters"], wanted[0])


def test_text_recognisers_of_other_alphabets_are_no_family(tmp_path: Path) -> None:
    small = foreign_network("rapidocr_onnxruntime", "models/*_rec_infer.onnx")
    large = foreign_network("rapidocr", "models/*_rec_small.onnx")
    result = slimsched_import(
        "--family", "letters", "--variant", f"50={small}", "--variant", f"100={large}", "--quality", "50=1,100=2",
        "--repository", tmp_path / "models",
    )  # fmt: skip
    assert_refused(result, "variants of a family differ in size and quality alone", tmp_path / "models")
