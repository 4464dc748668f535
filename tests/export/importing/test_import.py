from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2

from export.cli import verify
from export.repository.verification import Origin, Severity, verify_repository
from orchestrator.snapshot import ServedModel
from orchestrator.triton.families import read_preprocessing, read_width
from orchestrator.triton.trial_items import blank_batch
from tests.damaged_archives import KINDS, save_damaged
from tests.export.importing.networks import (
    CLASSES,
    assert_refused,
    classifier,
    pair,
    running_sum,
    save,
    save_items,
    slimsched_import,
)
from tests.triton.onnx_models import build_model, identity


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A worse and a better classifier of the items of ``save_items``."""
    return (
        save(classifier((5, 0, 0, 0)), tmp_path / "small.onnx"),
        save(classifier((0, 0, 0, 0)), tmp_path / "large.onnx"),
    )


def read_config(repository: Path, name: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse((repository / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def parameters(repository: Path, name: str) -> dict[str, str]:
    return {key: value.string_value for key, value in read_config(repository, name).parameters.items()}


def assert_clean(repository: Path) -> None:
    verification = verify_repository(repository)
    assert verification.findings == ()
    assert {model.origin for model in verification.models} == {Origin.IMPORTED}


def test_given_qualities_and_the_file_as_it_was_are_written(files: tuple[Path, Path], tmp_path: Path) -> None:
    small, large = files
    repository = tmp_path / "models"
    arguments = ("--family", "plates", "--variant", f"100={large}", "--variant", f"30={small}")
    arguments = (*arguments, "--quality", "30=0.61", "--quality", "100=74.5", "--repository", repository)
    result = slimsched_import(*arguments)
    assert result.exit_code == 0, result.output
    assert sorted(os.listdir(repository)) == ["plates_w030", "plates_w100"]
    assert (repository / "plates_w030" / "1" / "model.onnx").read_bytes() == small.read_bytes()
    found = parameters(repository, "plates_w100")
    assert found["slim.source"] == "imported"
    assert (found["slim.family"], found["slim.width"]) == ("plates", "100")
    assert (found["slim.accuracy"], found["slim.metric"], found["slim.flops"]) == ("74.5", "given", "0")
    assert "slim.labels" not in found and "slim.item" not in found
    assert read_config(repository, "plates_w030").max_batch_size == 64
    assert_clean(repository)
    assert slimsched_import(*arguments).output.count("unchanged") == 2


def test_quality_is_measured_on_labelled_data(files: tuple[Path, Path], tmp_path: Path) -> None:
    small, large = files
    repository, data = tmp_path / "models", save_items(tmp_path / "test.npz")
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    result = slimsched_import(
        "--family", "plates", "--variant", f"30={small}", "--variant", f"100={large}", "--data", data,
        "--metric", "top-1", "--labels", tmp_path / "names.txt", "--repository", repository,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [parameters(repository, f"plates_w{w}")["slim.accuracy"] for w in ("030", "100")] == ["0.25", "1"]
    assert parameters(repository, "plates_w030")["slim.metric"] == "top-1"
    assert parameters(repository, "plates_w030")["slim.labels"] == '["a", "b", "c", "d"]'
    assert read_config(repository, "plates_w030").output[0].label_filename == "labels.txt"
    assert_clean(repository)


def test_what_images_go_through_is_recorded(files: tuple[Path, Path], tmp_path: Path) -> None:
    repository, path = tmp_path / "models", save(identity(TensorProto.FLOAT, ["batch", 4, 4, 3]), tmp_path / "i.onnx")
    arguments = ("--family", "plates", "--variant", f"30={path}", "--quality", "30=1", "--repository", repository)
    said = "resize=256,colours=BGR,layout=HWC,scale=1,mean=103.9/116.8/123.7,std=2"
    result = slimsched_import(*arguments, "--preprocessing", said)
    assert result.exit_code == 0, result.output
    assert json.loads(parameters(repository, "plates_w030")["slim.preprocessing"]) == {
        "resize": 256, "colours": "BGR", "layout": "HWC", "scale": 1.0, "mean": [103.9, 116.8, 123.7], "std": [2.0],
    }  # fmt: skip
    assert read_preprocessing(parameters(repository, "plates_w030")["slim.preprocessing"]) is not None
    assert_clean(repository)
    assert slimsched_import(*arguments).output.count("written") == 1, "without it is another model"
    other = (*arguments[:-1], tmp_path / "others", "--preprocessing")
    for wrong in ("layout=CHW", "layout=HWC,colours=L"):
        assert_refused(
            slimsched_import(*other, wrong), "and 'x' takes [4, 4, 3] of FP32; correct it", tmp_path / "others"
        )


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (
            "colours=CMYK",
            "--preprocessing colours=CMYK: slim.preprocessing: colours: must be 'RGB', 'BGR' or 'L', got 'CMYK'; give",
        ),
        ("colors=RGB", "--preprocessing colors=RGB: slim.preprocessing: unknown key colors"),
        ("mean=1/2", "--preprocessing mean=1/2: slim.preprocessing: mean has 2 values"),
        ("std=0", "slim.preprocessing: std[0]: must be above 0"),
        ("scale=nan", "slim.preprocessing: scale: must be a finite number"),
        ("scale=-1", "slim.preprocessing: scale: must be above 0"),
        ("resize=0", "slim.preprocessing: resize: must be at least 1"),
        ("resize=5,resize=6", "--preprocessing: resize is given twice"),
        (",", "--preprocessing ',': says nothing"),
    ],
)
def test_what_images_can_not_go_through_is_refused(
    said: str, problem: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    result = slimsched_import(
        "--family", "plates", "--variant", f"30={files[0]}", "--quality", "30=1", "--preprocessing", said,
        "--repository", tmp_path / "models",
    )  # fmt: skip
    assert_refused(result, problem, tmp_path / "models")


def test_an_image_is_one_input(tmp_path: Path) -> None:
    one = save(pair(), tmp_path / "pair.onnx")
    result = slimsched_import(
        "--family", "pairs", "--variant", f"50={one}", "--quality", "50=1", "--preprocessing", "colours=RGB",
        "--shape", "ids=7", "--shape", "hidden=7", "--repository", tmp_path / "models",
    )  # fmt: skip
    assert_refused(result, "an image is one input, and there are ids, hidden", tmp_path / "models")


def test_several_inputs_and_outputs_of_any_type_and_free_dims_are_taken(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    one = save(pair(), tmp_path / "pair.onnx")
    result = slimsched_import(
        "--family", "pairs", "--variant", f"50={one}", "--quality", "50=1", "--repository", repository,
        "--shape", "ids=7", "--shape", "hidden=7",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    config = read_config(repository, "pairs_w050")
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("ids", model_config_pb2.TYPE_INT64, [-1]),
        ("hidden", model_config_pb2.TYPE_BOOL, [-1]),
    ]
    assert [list(w.inputs["ids"].dims) for w in config.model_warmup] == [[7], [7]]
    assert parameters(repository, "pairs_w050")["slim.item"] == '{"hidden": [7], "ids": [7]}'
    assert_clean(repository)


TYPES = {
    "BOOL": "BOOL",
    "INT8": "INT8",
    "INT16": "INT16",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "UINT16": "UINT16",
    "UINT32": "UINT32",
    "UINT64": "UINT64",
    "FLOAT16": "FP16",
    "FLOAT": "FP32",
    "DOUBLE": "FP64",
    "STRING": "STRING",
}
"""ONNX's and Triton's names of the types that Triton's onnxruntime backend takes."""


@pytest.mark.parametrize(("onnx_type", "triton_type"), TYPES.items())
def test_any_type_that_triton_takes_is_taken(onnx_type: str, triton_type: str, tmp_path: Path) -> None:
    one = save(identity(getattr(TensorProto, onnx_type)), tmp_path / "any.onnx")
    repository = tmp_path / "models"
    result = slimsched_import(
        "--family", "any", "--variant", f"9={one}", "--quality", "9=1", "--repository", repository
    )
    assert result.exit_code == 0, result.output
    assert_clean(repository)
    config = read_config(repository, "any_w009")
    wanted = getattr(model_config_pb2, f"TYPE_{triton_type}")
    assert [tensor.data_type for tensor in (*config.input, *config.output)] == [wanted, wanted]
    read = read_width(config, {})
    assert isinstance(read, ServedModel) and blank_batch(read, 2) is not None, "a router makes an item of it"


def test_a_fixed_batch_of_one_is_served_unbatched_and_measured_without_it(tmp_path: Path) -> None:
    one = save(classifier(batch=1), tmp_path / "one.onnx")
    repository, data = tmp_path / "models", save_items(tmp_path / "test.npz")
    result = slimsched_import(
        "--family", "ones", "--variant", f"100={one}", "--data", data, "--metric", "top-1", "--repository", repository
    )
    assert result.exit_code == 0, result.output
    config = read_config(repository, "ones_w100")
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [1, 4])
    assert not config.HasField("dynamic_batching")
    assert parameters(repository, "ones_w100")["slim.accuracy"] == "1"
    assert_clean(repository)


def test_names_that_differ_are_mapped(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = save(classifier(name="logits:0"), tmp_path / "other.onnx")
    repository = tmp_path / "models"
    arguments = ("--family", "plates", "--variant", f"30={files[0]}", "--variant", f"100={other}", "--quality")
    arguments = (*arguments, "30=1,100=2", "--repository", repository)
    assert_refused(slimsched_import(*arguments), "give --rename OLD=NEW where only names differ", repository)
    result = slimsched_import(*arguments, "--rename", "logits:0=scores")
    assert result.exit_code == 0, result.output
    assert [read_config(repository, f"plates_w{w}").output[0].name for w in ("030", "100")] == ["scores"] * 2
    assert_clean(repository)


def test_weights_in_further_files_are_brought_into_the_one(tmp_path: Path) -> None:
    path, repository = tmp_path / "big.onnx", tmp_path / "models"
    onnx.save(classifier((1, 2, 3, 4)), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    arguments = ("--family", "big", "--variant", f"100={path}", "--quality", "100=1", "--repository", repository)
    assert slimsched_import(*arguments).exit_code == 0
    assert_clean(repository)
    (tmp_path / "weights.bin").unlink()
    assert_refused(
        slimsched_import(*arguments[:-1], tmp_path / "others"), "its weights lie in further files", tmp_path / "others"
    )


def test_a_quality_that_does_not_rise_is_warned_of(files: tuple[Path, Path], tmp_path: Path) -> None:
    variants = [word for width in (30, 60, 100) for word in ("--variant", f"{width}={files[0]}")]
    result = slimsched_import(
        "--family", "plates", *variants, "--quality", "30=0.6,60=0.6,100=0.7", "--repository", tmp_path / "models"
    )
    assert result.exit_code == 0, result.output
    (warning,) = (line for line in result.output.splitlines() if line.startswith("Warning: "))
    assert "plates_w060 has quality 0.6, no better than plates_w030 with 0.6" in warning
    (note,) = verify_repository(tmp_path / "models").findings
    assert (note.model, note.severity) == ("plates_w060", Severity.NOTE)


def test_what_a_first_dim_is_is_found_out_by_running_it(tmp_path: Path) -> None:
    one, repository = save(running_sum(), tmp_path / "sum.onnx"), tmp_path / "models"
    arguments = ("--family", "sums", "--variant", f"100={one}", "--quality", "100=1", "--repository", repository)
    assert_refused(slimsched_import(*arguments), "so the first dim is no batch; serve it unbatched", repository)
    result = slimsched_import(*arguments, "--max-batch-size", 0, "--shape", "x=5,2")
    assert result.exit_code == 0, result.output
    assert_clean(repository)


def break_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def use_new_operator(path: Path) -> None:
    """scores = attention of one head over the items, which opset 23 has brought."""
    shape = ["batch", CLASSES]
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["items"]),
        helper.make_node("Attention", ["items"] * 3, ["seen"], q_num_heads=1, kv_num_heads=1),
        helper.make_node("Squeeze", ["seen", "one"], ["scores"]),
    ]
    x, scores = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "scores"))
    graph = helper.make_graph(nodes, "g", [x], [scores], [onnx.numpy_helper.from_array(np.array([1]), "one")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11), path)


def add_unknown_operator(path: Path) -> None:
    model = onnx.load(path)
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, path)


def make_sequence(path: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("scores", TensorProto.FLOAT, None)
    node = helper.make_node("SequenceConstruct", ["x"], ["scores"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph([node], "g", [x], [sequence])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def use_no_operators_yet(path: Path) -> None:
    """Let a file be of operators that nobody has yet."""
    model = onnx.load(path)
    model.opset_import[0].version, model.ir_version = 99, 13
    onnx.save(model, path)


def test_a_file_of_newer_operators_is_converted_and_answers_as_it_did(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "bias"], ["sum"]), helper.make_node("Softmax", ["sum"], ["scores"])]
    shape = ["batch", CLASSES]
    model = build_model(
        nodes,
        [("x", TensorProto.FLOAT, shape)],
        [("scores", TensorProto.FLOAT, shape)],
        {"bias": np.arange(4, dtype=np.float32)},
    )
    model.opset_import[0].version, model.ir_version = 24, 13
    path, repository = save(model, tmp_path / "new.onnx"), tmp_path / "models"
    result = slimsched_import(
        "--family", "plates", "--variant", f"100={path}", "--quality", "100=1", "--repository", repository
    )
    assert result.exit_code == 0, result.output
    assert verify_repository(repository).findings == ()
    served = repository / "plates_w100" / "1" / "model.onnx"
    written = onnx.load(served)
    assert (written.opset_import[0].version, written.ir_version) == (20, 10)
    items = np.random.default_rng(0).random((5, CLASSES), np.float32)
    old, new = (onnxruntime.InferenceSession(file).run(None, {"x": items})[0] for file in (served, path))
    np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_file, "it is no ONNX file, or only a part of one"),
        (use_new_operator, "opset 23, above 10 and 20, which not all Triton images read, and can't be converted ("),
        (use_no_operators_yet, "has IR 13 and opset 99, above 10 and 20, and ONNX Runtime"),
        (use_no_operators_yet, "export it with opset 20 or lower"),
        (add_unknown_operator, "ONNX Runtime can't load it"),
        (make_sequence, "scores is a seq(tensor(float)), which Triton's onnxruntime backend does not take"),
        (Path.unlink, "can't read it (No such file or directory)"),
    ],
)
def test_one_bad_file_keeps_the_whole_family_out(
    damage, message: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    damage(files[1])
    repository = tmp_path / "models"
    result = slimsched_import(
        "--family", "plates", "--variant", f"30={files[0]}", "--variant", f"100={files[1]}",
        "--quality", "30=1,100=2", "--repository", repository,
    )  # fmt: skip
    assert_refused(result, message, repository)
    assert f"100={files[1]}" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variant", "30=again.onnx"), "--variant: 30 is given twice, as"),
        (("--variant", "030=again.onnx"), "--variant: width 30 is given twice"),
        (("--variant", "0=again.onnx"), "width '0' is no whole percentage"),
        (("--variant", "again.onnx"), "--variant again.onnx: has not the form KEY=VALUE"),
        (("--quality", "30=0.6"), "--quality: 30 is given twice"),
        (("--quality", "70=0.6"), "--quality: has widths 30, 70, 100, and the variants are 30, 100"),
        (("--metric", "top-1"), "give either --quality with a number for each width, or --data and --metric"),
        (("--rename", "pixels=x"), "--rename pixels=x: no variant has"),
        (("--rename", "scores=bias"), "can't rename scores to 'bias', which another tensor has"),
        (("--shape", "x=3"), "--shape or --fill of x: an item of x FP32 [4] can't be [3]"),
        (("--shape", "y=3"), "--shape or --fill of y: is no input"),
        (("--shape", "x=big"), "--shape x=big: give whole dims above 0"),
        (("--labels", "/nowhere"), "--labels /nowhere: can't read it"),
        (("--labels", os.devnull), "is empty or has an empty line"),
        (("--output", "logits"), "--output logits: there are only scores; give one of them"),
        (("--output", "scores"), "--output scores: says what --labels and --metric are about; give one"),
        (("--family", "Big One"), "family name 'Big One'"),
        (("--family", "a" * 201), "and up to 199 of a-z, 0-9, _ and -; give another --family"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_written(
    arguments: tuple[str, str], message: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    usual = ("--family", "plates", "--variant", f"30={files[0]}", "--variant", f"100={files[1]}")
    quality = ("--quality", "30=1,100=2", "--repository", tmp_path / "models")
    assert_refused(slimsched_import(*usual, *quality, *arguments), message, tmp_path / "models")


def test_labels_of_another_number_of_classes_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\n")
    result = slimsched_import(
        "--family", "a", "--variant", f"30={files[0]}", "--quality", "30=1", "--labels", tmp_path / "names.txt",
        "--repository", tmp_path / "models",
    )  # fmt: skip
    assert_refused(result, "--labels: has 2 lines, and the output is scores FP32 [-1, 4]", tmp_path / "models")


@pytest.mark.parametrize("text", ["nan", "inf", "much"])
def test_a_quality_that_is_no_number_is_refused(text: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    result = slimsched_import(
        "--family", "a", "--variant", f"30={files[0]}", "--quality", f"30={text}", "--repository", tmp_path / "models"
    )
    assert_refused(result, f"--quality 30={text}: is no finite number", tmp_path / "models")


def test_variants_of_other_inputs_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    wide = build_model(
        [helper.make_node("Identity", ["x"], ["scores"])],
        [("x", TensorProto.FLOAT, ["batch", 5])],
        [("scores", TensorProto.FLOAT, ["batch", 5])],
    )
    save(wide, files[1])
    result = slimsched_import(
        "--family", "a", "--variant", f"30={files[0]}", "--variant", f"100={files[1]}",
        "--quality", "30=1,100=2", "--repository", tmp_path / "models",
    )  # fmt: skip
    assert_refused(result, "is x FP32 [-1, 5] -> scores FP32 [-1, 5], and", tmp_path / "models")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((40, 5), np.float32)}, "items of x are float32 [5], the models take float32 [4]"),
        ({"x": np.zeros((40, 4))}, "items of x are float64 [4], the models take float32 [4]"),
        ({"labels": np.zeros(3, int)}, "has {'x': 40, 'labels': 3} items"),
        ({"labels": np.full(40, 4)}, "a label is 4; give the index of a class, 0 to 3"),
        ({"labels": np.full((40, 2), 1)}, "a label is [1, 1]; give the index of a class"),
        ({"labels": np.array([{}] * 40)}, "can't read it"),
    ],
)
def test_bad_data_is_refused(
    change: dict[str, np.ndarray], message: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    data = save_items(tmp_path / "test.npz", **change)
    result = slimsched_import(
        "--family", "a", "--variant", f"30={files[0]}", "--data", data, "--metric", "top-1",
        "--repository", tmp_path / "models",
    )  # fmt: skip
    assert_refused(result, message, tmp_path / "models")


def test_data_without_an_input_names_what_it_has(files: tuple[Path, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", images=np.zeros((2, 4), np.float32), labels=np.zeros(2, int))
    result = slimsched_import(
        "--family", "a", "--variant", f"30={files[0]}", "--data", tmp_path / "test.npz", "--metric", "top-1",
        "--repository", tmp_path / "models",
    )  # fmt: skip
    assert_refused(result, "has no array 'x', it has images, labels", tmp_path / "models")


METRICS = """
def right(answers, labels):
    return sum(answer["scores"].argmax() == label for answer, label in zip(answers, labels)) / 80


def nothing(answers, labels):
    return float("nan")


def broken(answers, labels):
    raise RuntimeError("no such thing")


words = "none"
"""


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder; what the command changes of the path and of what is imported is undone afterwards."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "own_metric_of_a_test", raising=False)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("own_metric_of_a_test:nothing", "gives nan, which is no quality; nothing was written; let it return a number"),
        ("own_metric_of_a_test:broken", "failed (RuntimeError: no such thing); nothing was written; mend it"),
        ("own_metric_of_a_test:words", "is a str and no function"),
        ("own_metric_of_a_test:missing", "can't be imported (AttributeError"),
        ("no_module_of_a_test:missing", "can't be imported (ModuleNotFoundError"),
        ("accuracy", "--metric accuracy: is none; give top-K"),
        ("top-0", "--metric top-0: is none"),
        ("map-50", "it takes boxes [n, 4], scores [n] and classes [n]"),
        ("mean-iou", "give a class a pixel"),
    ],
)
def test_a_metric_that_gives_no_quality_is_refused(
    metric: str, message: str, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_metric_of_a_test.py").write_text(METRICS)
    enter(tmp_path, monkeypatch)
    data = save_items(tmp_path / "test.npz")
    result = slimsched_import(
        "--family", "a", "--variant", f"30={files[0]}", "--data", data, "--metric", metric,
        "--repository", tmp_path / "models",
    )  # fmt: skip
    assert_refused(result, message, tmp_path / "models")


def test_a_metric_of_ones_own_is_called_with_all_answers(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_metric_of_a_test.py").write_text(METRICS)
    enter(tmp_path, monkeypatch)
    result = slimsched_import(
        "--family", "a", "--variant", f"30={files[1]}", "--data", save_items(tmp_path / "test.npz"),
        "--metric", "own_metric_of_a_test:right", "--repository", tmp_path / "models",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert parameters(tmp_path / "models", "a_w030")["slim.accuracy"] == "0.5"


def test_help_has_an_example() -> None:
    assert "slimsched import --family plates --variant 30=small.onnx" in slimsched_import("--help").output


BASE_INSTALL = """
import sys
sys.modules.update(dict.fromkeys(["torch", "torchvision", "onnx", "onnxscript", "matplotlib"]))
import export.import_cli
export.import_cli.import_(["--family", "a", "--variant", "30=x.onnx", "--quality", "30=1"], prog_name="import")
"""


def test_without_the_export_extra_it_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BASE_INSTALL], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    hint = f"{sys.executable} -m pip install 'slim-scheduler[export]'"
    assert f"'import' needs the export extra (onnx is missing): {hint}" in done.stderr


def test_what_is_in_the_repository_stays_when_an_import_fails(files: tuple[Path, Path], tmp_path: Path) -> None:
    repository = tmp_path / "models"
    arguments = ("--family", "a", "--variant", f"30={files[0]}", "--repository", repository)
    assert slimsched_import(*arguments, "--quality", "30=0.5").exit_code == 0
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    result = slimsched_import(*arguments, "--variant", f"60={tmp_path / 'none.onnx'}", "--quality", "30=0.6,60=0.7")
    assert result.exit_code == 1
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before
    assert os.listdir(tmp_path / "models") == ["a_w030"]


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("slim.item", "[7]", "slim.item '[7]' is no JSON object of shapes by input"),
        ("slim.item", '{"x": [7]}', "slim.item has [7] for 'x', which takes [4]"),
        ("slim.fill", '{"x": "word"}', "slim.fill has 'word' for 'x', which takes FP32"),
        ("slim.fill", '{"y": 1}', "slim.fill is about 'y', and the inputs are x"),
        ("slim.preprocessing", "{", "slim.preprocessing"),
        ("slim.preprocessing", "{}", "slim.preprocessing: RGB as CHW is made of an image, and 'x' takes [4] of FP32"),
    ],
)
def test_verify_tells_what_makes_no_sense_of_an_imported_models_items(
    key: str, value: str, problem: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    arguments = ("--family", "a", "--variant", f"30={files[0]}", "--quality", "30=0.5", "--repository", repository)
    assert slimsched_import(*arguments).exit_code == 0
    config = read_config(repository, "a_w030")
    config.parameters[key].string_value = value
    (repository / "a_w030" / "config.pbtxt").write_text(text_format.MessageToString(config))
    told, *others = [finding.message for finding in verify_repository(repository).findings]
    assert problem in told
    assert "; correct its config.pbtxt" in told
    assert not any(key in other and problem in other for other in others)


def test_verify_finds_an_imported_model_that_was_edited(files: tuple[Path, Path], tmp_path: Path) -> None:
    repository = tmp_path / "models"
    arguments = ("--family", "a", "--variant", f"30={files[0]}", "--quality", "30=0.5", "--repository", repository)
    assert slimsched_import(*arguments).exit_code == 0
    config = repository / "a_w030" / "config.pbtxt"
    text = config.read_text()
    for old, new, message in [
        ('string_value: "0.5"', 'string_value: "0.6"', "slim.* parameter"),
        ("  dims: 4\n", "  dims: 5\n", "takes and gives"),
        ('key: "slim.metric"', 'key: "slim.was"', "the parameter slim.metric is missing; import it anew"),
        ('string_value: "30"', 'string_value: "wide"', "slim.width 'wide' is no whole percentage from 1 to 100"),
    ]:
        assert old in text
        config.write_text(text.replace(old, new, 1))
        result = CliRunner().invoke(verify, [str(repository)])
        assert result.exit_code == 1
        assert message in result.output, result.output
    config.write_text(text.replace("max_batch_size: 64", "max_batch_size: 8"))
    assert "note: a_w030: config.pbtxt was edited by hand: max_batch_size is 8, imported was 64" in (
        CliRunner().invoke(verify, [str(repository)]).output
    )


def test_a_network_that_squeezes_the_dims_of_one_item_away_is_refused(tmp_path: Path) -> None:
    squeezed = build_model(
        [helper.make_node("Squeeze", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 1])],
        [("y", TensorProto.FLOAT, ["batch"])],
        {},
    )
    asked = ("--family", "a", "--variant", f"100={save(squeezed, tmp_path / 'a.onnx')}", "--quality", "100=1")
    result = slimsched_import(*asked, "--repository", tmp_path / "models")
    assert_refused(result, "output y has no dims for one item, as after a squeeze", tmp_path / "models")


def test_names_of_classes_are_lines_as_windows_writes_them_too(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\nf\x0cox\r\ncow\r\n")
    asked = ("--family", "a", "--variant", f"100={files[1]}", "--quality", "100=1", "--repository", tmp_path)
    assert slimsched_import(*asked, "--labels", tmp_path / "names.txt").exit_code == 0
    assert (tmp_path / "a_w100" / "labels.txt").read_text() == "cat\ndog\nf ox\ncow\n"
    assert slimsched_import(*asked).exit_code == 0
    assert not (tmp_path / "a_w100" / "labels.txt").exists()


def test_widths_of_an_earlier_import_are_told(files: tuple[Path, Path], tmp_path: Path) -> None:
    asked = ("--family", "a", "--repository", tmp_path)
    both = ("--variant", f"30={files[0]}", "--variant", f"100={files[1]}", "--quality", "30=1,100=2")
    assert "Warning" not in slimsched_import(*asked, *both).output
    result = slimsched_import(*asked, "--variant", f"100={files[1]}", "--quality", "100=2")
    assert "holds a_w030 of family a from before, which are served too" in result.output


def test_compressed_data_that_is_damaged_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    items = np.random.default_rng(0).standard_normal((400, 4)).astype(np.float32)
    np.savez_compressed(tmp_path / "test.npz", x=items, labels=np.zeros(400, int))
    damaged = bytearray((tmp_path / "test.npz").read_bytes())
    damaged[100:140] = bytes(40)
    (tmp_path / "test.npz").write_bytes(damaged)
    asked = ("--family", "a", "--variant", f"100={files[1]}", "--metric", "top-1", "--data", tmp_path / "test.npz")
    assert_refused(slimsched_import(*asked, "--repository", tmp_path / "models"), "can't read it", tmp_path / "models")


@pytest.mark.parametrize("kind", KINDS)
def test_data_that_opens_and_can_not_be_read_is_refused(kind: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    data = save_damaged(kind, tmp_path / "test.npz", x=np.zeros((4, CLASSES), np.float32), labels=np.arange(4))
    asked = ("--family", "a", "--variant", f"100={files[1]}", "--metric", "top-1", "--data", data)
    assert_refused(
        slimsched_import(*asked, "--repository", tmp_path / "models"), f"--data {data}: ", tmp_path / "models"
    )


@pytest.mark.parametrize("shape", ["999999999999", "9999999999999999999999"])
def test_an_item_that_no_request_carries_is_refused(shape: str, tmp_path: Path) -> None:
    path = save(identity(TensorProto.FLOAT, ("batch", "n")), tmp_path / "a.onnx")
    asked = ("--family", "a", "--variant", f"100={path}", "--quality", "100=1", "--shape", f"x={shape}")
    result = slimsched_import(*asked, "--repository", tmp_path / "models")
    assert_refused(result, "above 2147483647, which no request carries; give a smaller --shape", tmp_path / "models")


@pytest.mark.parametrize("metric", ["a:b:c", ":x", "x:"])
def test_a_metric_that_is_no_name_of_a_function_is_told_so(
    metric: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    data = save_items(tmp_path / "test.npz")
    asked = ("--family", "a", "--variant", f"100={files[1]}", "--metric", metric, "--data", data)
    result = slimsched_import(*asked, "--repository", tmp_path / "models")
    assert_refused(result, "has not the form package.module:function", tmp_path / "models")


def _import_one(file: Path, repository: Path) -> Result:
    arguments = ("--family", "toys", "--variant", f"100={file}", "--quality", "100=0.5", "--repository", repository)
    return slimsched_import(*arguments)


def test_what_no_triton_or_router_would_serve_is_refused(tmp_path: Path) -> None:
    empty = save(
        build_model(
            [helper.make_node("Identity", ["x"], ["y"])],
            [("x", TensorProto.FLOAT, ["batch", 0])],
            [("y", TensorProto.FLOAT, ["batch", 0])],
        ),
        tmp_path / "empty.onnx",
    )
    repository = tmp_path / "models"
    assert_refused(_import_one(empty, repository), "has a dim of 0, which Triton refuses", repository)
    constant = save(
        build_model(
            [helper.make_node("Identity", ["one"], ["y"])],
            [],
            [("y", TensorProto.FLOAT, [1])],
            {"one": np.ones(1, "f")},
        ),
        tmp_path / "constant.onnx",
    )
    assert_refused(_import_one(constant, repository), "the graph has no input", repository)


def test_the_long_name_of_the_usual_operators_is_no_way_past_the_limit(tmp_path: Path) -> None:
    model = classifier((0, 0, 0, 0))
    model.opset_import[0].domain, model.opset_import[0].version = "ai.onnx", 22
    new = save(model, tmp_path / "new.onnx")
    assert _import_one(new, tmp_path / "models").exit_code == 0
    written = onnx.load(tmp_path / "models" / "toys_w100" / "1" / "model.onnx")
    assert max(entry.version for entry in written.opset_import) == 20
