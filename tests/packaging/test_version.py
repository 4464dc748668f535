from __future__ import annotations

import re
import subprocess
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.installed.version import _commit
from tests.packaging.builds import build
from tools.build_package import SHIPPED

ROOT = Path(__file__).parents[2]


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(
        ["git", *identity, "-C", folder, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with what a build of the package needs: small packages of the same names."""
    folder = tmp_path / "checkout"
    for package in ("orchestrator", "export", "tools"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").touch()
    for file in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "tools/build_package.py"):
        (folder / file).write_bytes((ROOT / file).read_bytes())
    for name in SHIPPED:
        file = folder / name / "one.py" if (ROOT / name).is_dir() else folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "All")
    return folder


def test_the_version_is_that_of_the_metadata_with_the_commit_in_a_checkout() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    commit = r" \(commit [0-9a-f]{12}(-dirty)?\)" if (ROOT / ".git").exists() else ""
    assert re.fullmatch(rf"slimsched {re.escape(version('slim-scheduler'))}{commit}\n", result.output)


def test_a_wheel_has_the_commit_of_the_checkout_even_when_it_was_built_from_the_sdist(
    checkout: Path, tmp_path: Path
) -> None:
    commit = git(checkout, "rev-parse", "--short=12", "HEAD")
    sdist = build(checkout, "sdist", tmp_path / "dist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    for source in (checkout, unpacked):
        wheel = build(source, "wheel", tmp_path / f"wheel-of-{source.name}")
        with zipfile.ZipFile(wheel) as archive:
            assert archive.read("orchestrator/commit.txt").decode().strip().removesuffix("-dirty") == commit
    assert _commit(unpacked / "orchestrator") is not None


def test_a_changed_checkout_says_so_and_a_repository_around_an_installation_is_not_asked(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert _commit(checkout / "orchestrator") == commit
    (checkout / "README.md").write_text("other")
    assert _commit(checkout / "orchestrator") == f"{commit}-dirty"
    installed = checkout / ".venv" / "site-packages" / "orchestrator"
    installed.mkdir(parents=True)
    assert _commit(installed) is None
