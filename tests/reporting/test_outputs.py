from __future__ import annotations

import re
import tempfile
from io import BytesIO
from pathlib import Path
from typing import IO

import pytest

from orchestrator.errors import ConfigError
from orchestrator.reporting.outputs import check_file, check_folder, write_file, write_report
from orchestrator.reporting.pictures import draw_image, draw_svg
from tests.closed import closed


def test_a_report_is_written_whole_into_a_folder_that_is_made(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "inner", "move")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "new").mkdir()
    check_folder(tmp_path / "new", "move")
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
    paths = write_report(tmp_path / "new", {"a.md": "text ±", "b.png": b"\x89"}, "move")
    assert [path.read_bytes() for path in paths] == ["text ±".encode(), b"\x89"]
    assert sorted((tmp_path / "new").iterdir()) == paths


def test_a_folder_that_can_not_be_used_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for use in (lambda: check_folder(tmp_path / "file", "move"), lambda: write_report(tmp_path / "file", {}, "move")):
        with pytest.raises(ConfigError, match=r"can't write the report to .*file \(.*\); move"):
            use()


def test_a_single_file_is_written_into_a_folder_that_is_made_or_named_with_what_to_do(tmp_path: Path) -> None:
    write_file(tmp_path / "new" / "a.png", b"\x89")
    assert (tmp_path / "new" / "a.png").read_bytes() == b"\x89"
    for path in (tmp_path / "new" / "a.png" / "b", tmp_path / "new"):
        with pytest.raises(ConfigError, match=rf"^can't write the picture {path} \(.*\); choose another place$"):
            write_file(path, b"", "the picture ")


def test_whether_a_single_file_can_be_written_is_found_out_without_leaving_anything(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_file(tmp_path / "new" / "a.png")
    check_file(None)
    with pytest.raises(ConfigError, match=r"^can't write the picture .*b\.png \(.*\); choose another place$"):
        check_file(tmp_path / "file" / "b.png", "the picture ")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_the_same_picture_is_the_same_text_and_of_the_size_that_was_asked_for() -> None:
    def draw(figure: object) -> None:
        figure.subplots().plot([1, 2])  # type: ignore[attr-defined]

    assert draw_svg(draw, (3, 2), salt="a") == draw_svg(draw, (3, 2), salt="a")
    assert "currentColor" in draw_svg(draw, (3, 2), salt="a")
    assert not re.search(r' id="[a-z]+_\d+"', draw_svg(draw, (3, 2), salt="a"))
    png = draw_image(draw, (3, 2), dpi=100)
    assert png.startswith(b"\x89PNG")
    assert (int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")) == (300, 200)


def test_a_place_in_a_folder_that_is_closed_is_named_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "of another"
    folder.mkdir()
    with closed(folder):
        for place in (folder, folder / "new"):
            with pytest.raises(ConfigError, match=r"can't write the report to .* \(Permission denied\); move"):
                check_folder(place, "move")


def test_a_folder_that_another_command_has_begun_to_use_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_beside(dir: Path) -> IO[bytes]:
        (dir / "other.json").touch()
        return BytesIO()

    monkeypatch.setattr(tempfile, "TemporaryFile", write_beside)
    check_folder(tmp_path / "new", "move")
    assert (tmp_path / "new" / "other.json").exists()
