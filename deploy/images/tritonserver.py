#!/opt/slimsched/bin/python
"""`tritonserver` as NVIDIA's image has it, carried out by the wheel's server.

So the same manifest runs on either image: the chart's command line is Triton's, and what the wheel's server needs
beside, backends and libraries, is added here. This process becomes the server, so that signals reach it.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from orchestrator.embedded.wheel import (
    assemble_backends,
    build_environment,
    check_libraries,
    find_module_directories,
    find_python_library_directory,
    locate_wheel,
)

wheel = locate_wheel()
environment = build_environment(
    os.environ,
    wheel,
    module_directories=find_module_directories("numpy", "onnxruntime"),
    python_library_directory=find_python_library_directory(),
)
check_libraries(wheel.stub, environment)
# A container's first process has the same number at each start, so what the last one left is replaced.
backends = Path(tempfile.gettempdir()) / f"slimsched-backends-{os.getpid()}"
shutil.rmtree(backends, ignore_errors=True)
assemble_backends(wheel, backends)
# Ahead of what is given: of a flag that is given twice Triton takes the later one.
os.execve(wheel.server, ["tritonserver", f"--backend-directory={backends}", *sys.argv[1:]], environment)
