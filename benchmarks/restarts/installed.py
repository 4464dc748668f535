"""What is installed beside this environment: programs of the system, and clients that are built or run by them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError

_SOURCES = Path(__file__).parent / "clients"
_GO_PATH = "/usr/share/gocode"  # of Debian's packages


def find_installed(name: str, package: str) -> Path:
    """Return a program of the system; raises ConfigError, which names the package, where it is not installed."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        raise ConfigError(f"no {name}; install the package {package}")
    return Path(found)


def client_command(client: str, folder: Path, modules: Path | None) -> tuple[Sequence[str], Mapping[str, str]]:
    """Return the command of a client and what its environment needs; what has to be built is built into a folder.

    ``modules`` is a folder ``node_modules`` with @grpc/grpc-js. Raises ConfigError where something is missing.
    """
    if client == "grpcio":
        return (sys.executable, "-m", "benchmarks.restarts.clients.grpcio_client"), {}
    if client == "grpc-js":
        if modules is None or not (modules / "@grpc" / "grpc-js").is_dir():
            raise ConfigError("no @grpc/grpc-js; give a folder with it by --node-modules")
        node = find_installed("node", "nodejs")
        return (str(node), str(_SOURCES / "grpc_js_client.cjs")), {"NODE_PATH": str(modules)}
    program = folder / "grpc_go_client"
    if not program.exists():
        go = find_installed("go", "golang-go")
        build = [str(go), "build", "-o", str(program), str(_SOURCES / "grpc_go_client.go")]
        own = {"GO111MODULE": "off", "GOPATH": _GO_PATH}
        done = subprocess.run(build, env={**os.environ, **own}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(f"grpc-go can't be built; install golang-google-grpc-dev ({done.stderr.strip()[:200]})")
    return (str(program),), {}


def read_version(client: str, modules: Path | None) -> str:
    """Return the version of a client's library, of one that is installed."""
    if client == "grpc-js":
        assert modules is not None
        package: dict[str, Any] = json.loads((modules / "@grpc" / "grpc-js" / "package.json").read_text())
        return str(package["version"])
    source = Path(_GO_PATH, "src/google.golang.org/grpc/version.go").read_text()
    return source.partition('const Version = "')[2].partition('"')[0]


def read_printed_version(program: Path, options: Sequence[str]) -> str:
    """Return the version that a program tells when it is asked for it."""
    done = subprocess.run([str(program), *options], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0] if found else "unknown"
