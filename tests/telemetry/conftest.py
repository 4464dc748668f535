"""A stand-in NVML compiled from C, and processes that look like Triton and its stubs."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.telemetry.gpu import FakeGpu
from tests.telemetry.processes import FakeTriton, write_programs


@pytest.fixture(scope="session")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the stand-in library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here (cc) to build the stand-in NVML with")
    directory = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    library = directory / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", str(library), str(source)], check=True)
    return directory


@pytest.fixture(scope="session")
def gpu_process(fake_nvml: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGpu]:
    """The process that reads the GPU, shared because starting it takes longer than most tests."""
    with FakeGpu(fake_nvml, tmp_path_factory.mktemp("gpu")) as running:
        yield running


@pytest.fixture
def gpu(gpu_process: FakeGpu) -> FakeGpu:
    """A GPU that answers everything, and that nobody has read yet."""
    gpu_process.open(0)
    return gpu_process


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the programs that are called like Triton's."""
    return write_programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture
def start_triton(programs: Path) -> Iterator[Callable[..., FakeTriton]]:
    """Starts a process that looks like Triton; all are ended with the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(FakeTriton(programs, **options))
