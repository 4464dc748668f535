from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.errors import RepositoryError
from export.repository.model_files import CONFIG_FILE, LABELS_FILE, MODEL_FILE
from export.repository.verification import Finding, Severity, verify_repository
from tests.closed import closed

NAME = "toys_w025"


def findings_of(repository: Path, severity: Severity) -> list[str]:
    findings: tuple[Finding, ...] = verify_repository(repository).findings
    assert all("\n" not in finding.message for finding in findings)
    return [finding.message for finding in findings if finding.severity is severity]


def edit_config(repository: Path, old: str, new: str) -> None:
    path = repository / NAME / CONFIG_FILE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_what_was_exported_is_clean(repository: Path) -> None:
    verification = verify_repository(repository)
    assert verification.findings == ()
    assert [model.name for model in verification.models] == ["toys_w025", "toys_w100"]


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("max_batch_size: 64", "max_batch_size: 16", "max_batch_size is 16, exported was 64"),
        ("  count: 1\n", "  count: 3\n", r"instance_group[0].count is 3, exported was 1"),
        ("dynamic_batching {\n", "dynamic_batching {\n  preferred_batch_size: 8\n", "preferred_batch_size[0] is 8"),
        ('string_value: "1"', 'string_value: "4"', "intra_op_thread_count is '4', exported was '1'"),
        ("dynamic_batching {\n}\n", "", "dynamic_batching is absent"),
    ],
)
def test_tuning_changed_by_hand_is_a_note(old: str, new: str, field: str, repository: Path) -> None:
    edit_config(repository, old, new)
    assert findings_of(repository, Severity.ERROR) == []
    (note,) = findings_of(repository, Severity.NOTE)
    assert f"edited by hand: {field}" in note or field in note


def test_a_queue_policy_is_a_note_that_says_what_it_costs(repository: Path) -> None:
    policy = "dynamic_batching {\n  default_queue_policy { max_queue_size: 8 }\n"
    edit_config(repository, "dynamic_batching {\n", policy)
    (note,) = findings_of(repository, Severity.NOTE)
    assert "prefetching" in note


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('backend: "onnxruntime"', 'backend: "python"', "backend is 'python', exported was 'onnxruntime'"),
        ('backend: "onnxruntime"', 'backend: "onnxruntime"\nruntime: "model.py"', "runtime is 'model.py'"),
        (f'name: "{NAME}"', 'name: "toys_w050"', "names the model 'toys_w050'"),
        ("  dims: 12\n", "  dims: 13\n", "takes and gives"),
        ("data_type: TYPE_FP32", "data_type: TYPE_FP16", "input[0].data_type is 'TYPE_FP16'"),
        ('name: "logits"', 'name: "scores"', "output[0].name is 'scores'"),
        ("FORMAT_NCHW", "FORMAT_NHWC", "input[0].format is 'FORMAT_NHWC'"),
        ("  dims: 3\n", "  dims: 4\n", "output[0].dims[0] is '4', exported was '3'"),
        ('label_filename: "labels.txt"', "", "label_filename is absent"),
        ('string_value: "0.', 'string_value: "0.9', "slim.* parameter"),
        (
            'key: "slim.flops"\n  value {\n    string_value: "',
            'key: "slim.flops"\n  value {\n    string_value: "1',
            "slim.* parameter",
        ),
        (
            'key: "slim.sha256"\n  value {\n    string_value: "',
            'key: "slim.sha256"\n  value {\n    string_value: "0',
            "has sha256",
        ),
        ('key: "slim.labels"', 'key: "slim.tags"', "the parameter slim.labels is missing"),
        ('string_value: "1"', 'string_value: "all"', "intra_op_thread_count is 'all'"),
        ('key: "intra_op_thread_count"', 'key: "threads"', "intra_op_thread_count is ''"),
        ("  count: 1\n", "", "has count 0"),
        ("max_batch_size: 64", "max_batch_size: 0", "max_batch_size is 0"),
        ("max_batch_size: 64", "max_batch: 64", "not a Triton model configuration"),
        ("instance_group {\n  count: 1\n  kind: KIND_CPU\n}\n", "", "no instance_group"),
    ],
)
def test_an_edit_that_makes_it_another_model_is_an_error(old: str, new: str, message: str, repository: Path) -> None:
    edit_config(repository, old, new)
    errors = findings_of(repository, Severity.ERROR)
    assert any(message in error for error in errors), errors


def test_an_export_from_before_formats_were_written_is_a_note(repository: Path) -> None:
    edit_config(repository, "  format: FORMAT_NCHW\n", "")
    (note,) = findings_of(repository, Severity.NOTE)
    assert "lacks input[0].format" in note
    assert findings_of(repository, Severity.ERROR) == []


def test_a_lost_header_is_an_error_because_it_hides_what_was_changed(repository: Path) -> None:
    path = repository / NAME / CONFIG_FILE
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if line[0] != "#"))
    assert "lost its header" in findings_of(repository, Severity.ERROR)[0]


def test_a_second_version_is_found_because_triton_would_serve_it(repository: Path) -> None:
    (repository / NAME / "2").mkdir()
    assert "holds 2, which no export wrote" in findings_of(repository, Severity.ERROR)[0]
    (repository / NAME / "2" / "model.onnx").write_bytes(b"junk")
    assert "holds 2/model.onnx" in findings_of(repository, Severity.ERROR)[0]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "dynamic_batching {\n",
            "dynamic_batching {\n  preferred_batch_size: 128\n",
            "preferred_batch_size 128 exceeds",
        ),
        ('string_value: "1"', 'string_value: "99999999999"', "intra_op_threads is 99999999999; give 1 to 1024"),
        ("kind: KIND_CPU", "kind: KIND_AUTO", "neither KIND_CPU nor KIND_GPU"),
    ],
)
def test_tuning_that_triton_refuses_is_an_error(old: str, new: str, problem: str, repository: Path) -> None:
    edit_config(repository, old, new)
    assert problem in findings_of(repository, Severity.ERROR)[0]


def test_tampered_weights_are_found(repository: Path) -> None:
    path = repository / NAME / MODEL_FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "has sha256" in findings_of(repository, Severity.ERROR)[0]


def test_a_truncated_model_is_found(repository: Path) -> None:
    path = repository / NAME / MODEL_FILE
    path.write_bytes(path.read_bytes()[:500])
    errors = findings_of(repository, Severity.ERROR)
    assert "has sha256" in errors[0]
    assert "can't be loaded by ONNX Runtime" in errors[1]


def test_weights_that_are_no_numbers_are_found(repository: Path) -> None:
    path = repository / NAME / MODEL_FILE
    model = onnx.load(path)
    bias = np.array([np.nan, 0, 0], np.float32)
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(bias, model.graph.initializer[-1].name))
    onnx.save(model, path)
    assert "infinite" in findings_of(repository, Severity.ERROR)[1]


def test_too_new_a_format_is_found(repository: Path) -> None:
    path = repository / NAME / MODEL_FILE
    model = onnx.load(path)
    model.ir_version = 11
    onnx.save(model, path)
    assert any("IR 11 and opset 18" in error for error in findings_of(repository, Severity.ERROR))


@pytest.mark.parametrize("name", [CONFIG_FILE, LABELS_FILE, MODEL_FILE])
def test_a_missing_file_is_found(name: str, repository: Path) -> None:
    (repository / NAME / name).unlink()
    (error,) = findings_of(repository, Severity.ERROR)
    assert f"can't read {Path(NAME, name).parent.name}/{Path(name).name}" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [("top\nbottom\n", "has 2 lines for 3 classes"), ("top\nleft side\nbottom\n", "line 2 is 'left side'")],
)
def test_other_labels_are_found(text: str, message: str, repository: Path) -> None:
    (repository / NAME / LABELS_FILE).write_text(text)
    (error,) = findings_of(repository, Severity.ERROR)
    assert message in error


def test_a_model_in_another_folder_is_found(repository: Path) -> None:
    shutil.copytree(repository / NAME, repository / "toys_w050")
    error, twin = findings_of(repository, Severity.ERROR)
    assert f"names the model '{NAME}'" in error
    assert f"it is width 25 of family toys, as {NAME} is" in twin


def test_models_of_others_are_left_alone(repository: Path) -> None:
    (repository / "other" / "1").mkdir(parents=True)
    (repository / "other" / CONFIG_FILE).write_text('name: "other"\nbackend: "python"\n')
    assert findings_of(repository, Severity.ERROR) == []
    assert findings_of(repository, Severity.NOTE) == ["is not a slimmable model; not checked"]


def test_what_a_crashed_export_left_is_a_note(repository: Path) -> None:
    (repository.parent / f".{repository.name}.partial-1").mkdir()
    (repository / f".{repository.name}.partial-2").mkdir()
    assert findings_of(repository, Severity.ERROR) == []
    assert len(findings_of(repository, Severity.NOTE)) == 2


def test_what_a_crashed_export_left_is_no_model_either_where_the_path_is_relative(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / f".{repository.name}.partial-2").mkdir()
    monkeypatch.chdir(repository.parent)
    relative = Path(repository.name)
    assert findings_of(relative, Severity.ERROR) == []
    assert len(findings_of(relative, Severity.NOTE)) == 1


def test_a_file_of_another_user_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "model.onnx" and NAME in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)  # the superuser, who may run this, could read it
    (error,) = findings_of(repository, Severity.ERROR)
    assert error.startswith("can't read ")
    assert f"{NAME}/1/model.onnx (Permission denied); " in error


def test_an_empty_folder_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="holds no models"):
        verify_repository(tmp_path)
    with pytest.raises(RepositoryError, match="can't read"):
        verify_repository(tmp_path / "none")


def test_a_repository_that_this_user_may_not_look_into_is_named(tmp_path: Path) -> None:
    repository = tmp_path / "theirs" / "models"
    repository.mkdir(parents=True)
    with closed(repository.parent), pytest.raises(RepositoryError, match=r"can't read .*models \(Permission denied\)"):
        verify_repository(repository)


BASE_INSTALL = """
import sys
sys.modules.update(dict.fromkeys(["torch", "torchvision", "onnx", "onnxscript", "matplotlib"]))
from pathlib import Path
from export.repository.verification import verify_repository
for finding in verify_repository(Path(sys.argv[1])).findings:
    print(f"{finding.severity}: {finding.message}")
"""


def test_it_works_on_the_base_install(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BASE_INSTALL, str(repository)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["note: IR and opset were not checked: needs the export extra"] * 2
