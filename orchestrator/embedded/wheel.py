"""The real tritonserver inside the nvidia-pytriton wheel, and the private directory that makes it serve ONNX.

The wheel is found without importing it: `import pytriton` would start its own machinery, and all we want are four
files. It carries no onnxruntime backend, so each server gets a backend directory of its own:

    <directory>/python/       library, helper module and the stub built for the running Python
    <directory>/onnxruntime/  our `backend/` files; a `model.py` without a library is a Python-based backend

Triton refuses a backend library that is a symbolic link out of its directory ("escapes backend directory"), so the
3 MB are copied.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import EmbeddedServerError
from orchestrator.installed.extras import install_hint

# The same names as in backend/onnx_contract.py, which must not be imported.
SLOWDOWN_VARIABLE = "SLIM_SLOWDOWN"
DEVICE_LOCK_VARIABLE = "SLIM_DEVICE_LOCK"
BACKEND_MODULES = ("numpy", "onnxruntime")
"""What the backend imports in a stub."""
_NEWEST = (3, 12)
"""Python; the wheel asks for numpy 1, of which there is none for later ones."""


@dataclass(frozen=True, slots=True)
class TritonWheel:
    """Where the parts of an installed wheel lie."""

    server: Path
    libraries: Path
    python_backend: Path
    stub: Path


def check_installation() -> None:
    """Raise EmbeddedServerError, before the work that ends in a server, when one can't be run by this Python."""
    locate_wheel()
    find_module_directories(*BACKEND_MODULES)


def locate_wheel(package: str = "pytriton") -> TritonWheel:
    """Find the installed wheel and its stub for this Python, without importing the package.

    Raises EmbeddedServerError when it is not installed, or has no stub for this Python.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerError(
            f"the embedded tritonserver needs the nvidia-pytriton wheel, which is not installed: {_hint()}"
        )
    root = Path(spec.submodule_search_locations[0])
    triton = root / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel = TritonWheel(
        server=triton / "bin" / "tritonserver",
        libraries=root.parent / "nvidia_pytriton.libs",
        python_backend=triton / "backends" / "python",
        stub=triton / "python_backend_stubs" / version / "triton_python_backend_stub",
    )
    if not wheel.stub.is_file() and wheel.server.is_file():
        raise EmbeddedServerError(
            f"the nvidia-pytriton wheel has no Python {version} stub ({wheel.stub}); use Python 3.11 or 3.12"
        )
    for path in (wheel.server, wheel.libraries, wheel.python_backend, wheel.stub):
        if not path.exists():
            raise EmbeddedServerError(f"the nvidia-pytriton wheel lacks {path}; reinstall it: {_hint()}")
    return wheel


def assemble_backends(wheel: TritonWheel, directory: Path) -> None:
    """Fill a new directory with the Python backend and our onnxruntime backend; raises OSError."""
    python = directory / "python"
    python.mkdir(parents=True)
    for source in (
        wheel.python_backend / "libtriton_python.so",
        wheel.python_backend / "triton_python_backend_utils.py",
        wheel.stub,
    ):
        shutil.copy(source, python)
    onnxruntime = directory / "onnxruntime"
    onnxruntime.mkdir()
    for source in sorted((Path(__file__).parent / "backend").glob("*.py")):
        if source.name != "__init__.py":
            shutil.copy(source, onnxruntime)


def find_module_directories(*modules: str) -> tuple[str, ...]:
    """Return the import directories of some packages, each once; raises EmbeddedServerError when one is missing."""
    directories: dict[str, None] = {}
    for module in modules:
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            raise EmbeddedServerError(f"the embedded onnxruntime backend needs {module}: {install_hint('local')}")
        directories[str(Path(spec.submodule_search_locations[0]).parent)] = None
    return tuple(directories)


def find_python_library_directory() -> str | None:
    """Return where the running Python keeps its shared library; None leaves it to the system's loader.

    The stub is linked against libpython3.X; taking the running Python's own keeps it in step with its standard
    library and with the extension modules of the environment.
    """
    directory = sysconfig.get_config_var("LIBDIR")
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    return str(directory) if directory and (Path(directory) / name).exists() else None


def build_environment(
    base: Mapping[str, str],
    wheel: TritonWheel,
    *,
    module_directories: tuple[str, ...],
    python_library_directory: str | None,
    slowdown: float = 1.0,
) -> dict[str, str]:
    """Return the environment of a tritonserver and, by inheritance, of its stubs.

    Args:
        base: The environment to start from; what would lead the stub to another Python is dropped.
        wheel: The wheel whose libraries go first on the loader's path.
        module_directories: Where the stub finds numpy and onnxruntime.
        python_library_directory: Where the stub finds libpython, or None.
        slowdown: Emulated slow-down of the onnxruntime backend, >= 1.
    """
    environment = {key: value for key, value in base.items() if key not in ("PYTHONHOME", SLOWDOWN_VARIABLE)}
    libraries = (str(wheel.libraries), python_library_directory, base.get("LD_LIBRARY_PATH"))
    environment["LD_LIBRARY_PATH"] = ":".join(part for part in libraries if part)
    environment["PYTHONPATH"] = os.pathsep.join(module_directories)
    # The embedded interpreter finds its standard library through the first python3 on PATH.
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), base.get("PATH", os.defpath)))
    # numpy's BLAS would start a thread per core in every stub, and is never used for a computation there.
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    if slowdown > 1.0:
        environment[SLOWDOWN_VARIABLE] = f"{slowdown:g}"
    return environment


def check_executable(directory: Path) -> None:
    """Raise EmbeddedServerError when nothing may be run from a directory's file system, such as a container's tmpfs."""
    if os.statvfs(directory).f_flag & os.ST_NOEXEC:
        raise EmbeddedServerError(
            f"tritonserver can't load its backends from {directory}, which is mounted noexec; set TMPDIR to a folder "
            "that programs may run from, or give a container --tmpfs /tmp:exec"
        )


def check_libraries(program: Path, environment: Mapping[str, str]) -> None:
    """Raise EmbeddedServerError when the loader lacks libraries of a program, naming all of them."""
    result = subprocess.run(
        [program],
        env={**environment, "LD_TRACE_LOADED_OBJECTS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    missing = [line.split()[0] for line in result.stdout.splitlines() if "not found" in line]
    if missing:
        raise EmbeddedServerError(
            f"{program.name} needs {', '.join(missing)}, which the loader can't find; install it (Debian: "
            f"apt install libpython{sys.version_info.major}.{sys.version_info.minor}) or add its directory to "
            "LD_LIBRARY_PATH"
        )


def _hint() -> str:
    if sys.version_info[:2] > _NEWEST:
        return f"it is not for Python {sys.version_info[0]}.{sys.version_info[1]}; use 3.11 or 3.12"
    return install_hint("local")
