"""What ``make release`` makes, and what it refuses."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.packaging.builds import build, copy_tracked
from tools.release import (
    CHART,
    ReleaseError,
    check_images,
    check_versions,
    copies_of_images,
    copy_context,
    find_faults,
    make_release,
    package_chart,
)

ROOT = Path(__file__).parents[2]


def test_all_files_name_one_version() -> None:
    assert check_versions(ROOT) == yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("CITATION.cff", "version: 0.1.0", "version: 0.2.0", "CITATION.cff names version 0.2.0, pyproject.toml 0.1.0"),
        ("Makefile", "target:0.1.0", "target", "Makefile names version none"),
        ("deploy/images/Dockerfile", "VERSION=0.1.0", "VERSION=1", "names version 1, pyproject.toml 0.1.0"),
    ],
)
def test_a_file_that_names_another_version_is_refused(
    tmp_path: Path, name: str, old: str, new: str, problem: str
) -> None:
    sources = copy_tracked(ROOT, tmp_path)
    assert old in (sources / name).read_text()
    (sources / name).write_text((sources / name).read_text().replace(old, new))
    with pytest.raises(ReleaseError, match=problem):
        check_versions(sources)


def test_the_images_context_has_all_that_their_package_is_built_of(tmp_path: Path) -> None:
    copy_context(copy_tracked(ROOT, tmp_path / "sources"), tmp_path / "context")
    assert build(tmp_path / "context", "wheel", tmp_path / "dist").suffix == ".whl"
    assert Path("tools/build_package.py") in dict(copies_of_images(ROOT))


INSPECTED = {
    "Config": {
        "Labels": {"org.opencontainers.image.version": "0.1.0", "org.opencontainers.image.revision": "abc"},
        "User": "1000:1000",
    },
    "Size": 590_000_000,
}


def test_an_image_that_says_what_it_is_is_small_and_not_of_root_has_no_fault() -> None:
    assert list(find_faults("gateway", INSPECTED, version="0.1.0", revision="abc")) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"Size": 601_000_000}, "gateway: 601 MB are more than 600"),
        ({"Config": {**INSPECTED["Config"], "User": ""}}, "gateway: it runs as root"),
        (
            {"Config": {**INSPECTED["Config"], "Labels": None}},
            "gateway: label org.opencontainers.image.version is None",
        ),
    ],
)
def test_a_fault_of_an_image_is_told(changes: dict[str, Any], fault: str) -> None:
    found = list(find_faults("gateway", {**INSPECTED, **changes}, version="0.1.0", revision="abc"))
    assert found[0].startswith(fault)


def test_an_image_that_was_not_built_is_told_with_the_engine_s_words(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.write_text("#!/bin/sh\necho no such image: $3 >&2\nexit 1\n")
    engine.chmod(0o755)
    with pytest.raises(ReleaseError, match=r"image inspect slim-scheduler/gateway:.* failed: no such image"):
        check_images(ROOT, str(engine))


def test_the_chart_is_packaged_by_helm(tmp_path: Path) -> None:
    with tarfile.open(package_chart(ROOT, tmp_path)) as archive:
        names = archive.getnames()
        assert "slim-scheduler/values.schema.json" in names
        chart = archive.extractfile("slim-scheduler/Chart.yaml")
        assert chart is not None
        assert yaml.safe_load(chart.read()) == yaml.safe_load((ROOT / CHART / "Chart.yaml").read_text())


def test_a_release_is_a_wheel_an_sdist_and_a_chart_that_pass_all_checks(tmp_path: Path) -> None:
    out = tmp_path / "dist"
    out.mkdir()
    (out / "of-an-earlier-release.whl").touch()
    made = make_release(copy_tracked(ROOT, tmp_path / "sources"), out)
    assert [path.name for path in made] == [
        "slim-scheduler-0.1.0.tgz",
        "slim_scheduler-0.1.0-py3-none-any.whl",
        "slim_scheduler-0.1.0.tar.gz",
    ]
