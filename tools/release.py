"""What is released: wheel, sdist and chart, made in one folder, and images; all are checked, and nothing is published.

    python -m tools.release dist
    python -m tools.release --images docker

Checked is that all files name one version, that package and description are fit for an index (Twine), that the images'
context has all that their package is built of, and that Helm has nothing against the chart; of images that are built,
what they say of themselves, as whom they run, and their size.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
CHART: Final = Path("deploy") / "helm" / "slim-scheduler"
_VERSIONS: Final = (
    ("pyproject.toml", r'^version = "(.+)"$'),
    ("CITATION.cff", r"^version: (.+)$"),
    ("Makefile", r"slim-scheduler/\$\$target:(\S+)"),
    ("deploy/images/Dockerfile", r"^ARG VERSION=(.+)$"),
    ("deploy/kind.sh", r'slim-scheduler/\$target:([^"]+)'),
    (f"{CHART}/Chart.yaml", r"^version: (.+)$"),
    (f"{CHART}/Chart.yaml", r"^appVersion: (.+)$"),
)
"""Where the version is written, and how."""


IMAGES: Final = ("gateway", "controller", "embedded")
MOST_BYTES: Final = {"gateway": 600e6, "controller": 600e6}
_LABELS: Final = "org.opencontainers.image"


class ReleaseError(Exception):
    """What stands in the way of a release, in one line."""


def check_versions(root: Path) -> str:
    """Return the version; raises ReleaseError when a file names another one, or none."""
    wanted = str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"])
    for name, pattern in _VERSIONS:
        found = set(re.findall(pattern, (root / name).read_text(), re.MULTILINE))
        if found != {wanted}:
            raise ReleaseError(f"{name} names version {', '.join(sorted(found)) or 'none'}, pyproject.toml {wanted}")
    return wanted


def build_package(root: Path, what: str, out: Path) -> None:
    """Build the ``wheel`` or the ``sdist`` of sources, with the tools that are installed."""
    _run("-m", "build", "--no-isolation", f"--{what}", "--outdir", str(out), str(root))


def copies_of_images(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield what the images' first stage copies, relative to the context, and to where, relative to its folder."""
    text = (root / "deploy" / "images" / "Dockerfile").read_text()
    stage = text.split(" AS package\n")[1].split("\nFROM ")[0]
    for line in re.findall(r"^COPY (.+)$", stage, re.MULTILINE):
        *sources, target = line.split()
        for source in map(Path, sources):
            yield source, Path(target) / source.name if target.endswith("/") else Path(target)


def copy_context(root: Path, folder: Path) -> None:
    """Copy into a folder what the images' package is built of."""
    for source, target in copies_of_images(root):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        if (root / source).is_dir():
            shutil.copytree(root / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(root / source, folder / target)


def package_chart(root: Path, out: Path) -> Path:
    """Write the chart as Helm packages it, and return the file; raises ReleaseError when Helm finds fault with it."""
    import helm_python

    report = helm_python.lint(root / CHART, {}, strict=True)
    if report["errors"]:
        raise ReleaseError(f"{CHART}: {report['errors'][0]}")
    return Path(helm_python.package(root / CHART, destination=out))


def make_release(root: Path, out: Path) -> list[Path]:
    """Build and check all of it, and return the files, in a folder that holds nothing else afterwards."""
    check_versions(root)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for what in ("sdist", "wheel"):
        build_package(root, what, out)
    _run("-m", "twine", "check", "--strict", *map(str, sorted(out.iterdir())))
    with tempfile.TemporaryDirectory() as folder:
        copy_context(root, Path(folder) / "context")
        build_package(Path(folder) / "context", "wheel", Path(folder) / "dist")
    package_chart(root, out)
    return sorted(out.iterdir())


def find_faults(image: str, inspected: Mapping[str, Any], *, version: str, revision: str) -> Iterator[str]:
    """Yield what is wrong with a built image, by what ``image inspect`` says of it."""
    config, wanted = inspected["Config"], {"version": version, "revision": revision}
    labels = config.get("Labels") or {}
    for key, value in wanted.items():
        if labels.get(f"{_LABELS}.{key}") != value:
            yield f"{image}: label {_LABELS}.{key} is {labels.get(f'{_LABELS}.{key}')}, not {value}"
    if config.get("User", "") in ("", "0", "root", "0:0"):
        yield f"{image}: it runs as root"
    size, most = inspected["Size"], MOST_BYTES.get(image, float("inf"))
    if size > most:
        yield f"{image}: {size / 1e6:.0f} MB are more than {most / 1e6:.0f}"


def check_images(root: Path, engine: str) -> None:
    """Look at the images that ``make images`` has built; raises ReleaseError when one is missing or has a fault."""
    version = check_versions(root)
    revision = _output("git", "-C", str(root), "rev-parse", "HEAD")
    for image in IMAGES:
        [inspected] = json.loads(_output(engine, "image", "inspect", f"slim-scheduler/{image}:{version}"))
        for fault in find_faults(image, inspected, version=version, revision=revision):
            raise ReleaseError(fault)


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def _run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"python {' '.join(arguments)} failed: {(done.stdout + done.stderr).strip()[-1500:]}")


if __name__ == "__main__":
    try:
        if sys.argv[1] == "--images":
            check_images(ROOT, sys.argv[2])
        else:
            for path in make_release(ROOT, Path(sys.argv[1]).absolute()):
                print(f"{path.stat().st_size / 2**20:6.2f} MiB  {path}")
    except ReleaseError as exc:
        sys.exit(str(exc))
