"""What a wheel and an sdist hold, and what their description links to."""

from __future__ import annotations

import re
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.packaging.builds import build, copy_tracked
from tools.build_package import SHIPPED, relink

ROOT = Path(__file__).parents[2]
PREFIX = "orchestrator/shipped/"


def shipped_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        own = [n for n in archive.namelist() if n.startswith(PREFIX) and n != f"{PREFIX}__init__.py"]
        return {name.removeprefix(PREFIX): archive.read(name) for name in own}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tracked(ROOT, tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(sources, "wheel", tmp_path_factory.mktemp("dist"))


def test_a_wheel_holds_what_ships_as_it_is_in_the_checkout(wheel: Path) -> None:
    found = shipped_of(wheel)
    assert all(content == (ROOT / name).read_bytes() for name, content in found.items())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for name in SHIPPED
        for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.name.endswith(".trials.json")
    }
    assert found.keys() == wanted


def test_a_wheel_made_of_the_sdist_holds_the_same(sources: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build(sources, "sdist", tmp_path / "dist")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    again = build(unpacked, "wheel", tmp_path / "dist")
    assert shipped_of(again) == shipped_of(wheel)
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(wheel) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


def test_nothing_of_tests_tools_or_benchmarks_is_installed_as_a_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"export", "orchestrator"}


def test_the_installed_packages_say_that_they_are_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert {"export/py.typed", "orchestrator/py.typed"} <= set(archive.namelist())


@pytest.mark.parametrize("repository", [None, "https://example.org/slim"])
def test_the_description_links_to_nothing_that_is_not_beside_it(
    sources: Path, tmp_path: Path, repository: str | None
) -> None:
    environment = {} if repository is None else {"SLIMSCHED_REPOSITORY": repository}
    with zipfile.ZipFile(build(sources, "wheel", tmp_path, **environment)) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = message_from_bytes(archive.read(name)).get_payload()
    targets = re.findall(r"\]\(([^)]+)\)", str(text))
    assert targets
    assert all(target.startswith("https://") for target in targets)
    there = "https://example.org/slim/blob/HEAD/docs/gateway.md#status-page"
    assert (there in targets) == (repository is not None)
    if repository is not None:
        for target in targets:
            kind, _, path = target.partition("/HEAD/")
            if kind.startswith(repository):
                assert (ROOT / path.partition("#")[0]).exists(), target
                assert kind.endswith("/raw") == path.endswith((".svg", ".png"))


def test_links_become_words_and_paths_where_nothing_says_where_files_are_read() -> None:
    page = "[the page](docs/a.md#part) ![A picture](b.svg) [site](https://e.org) [up](#here) [docs/c.md](docs/c.md)"
    assert relink(page, None) == ("the page (`docs/a.md`) A picture [site](https://e.org) [up](#here) docs/c.md")
