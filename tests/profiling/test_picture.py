from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.errors import ConfigError
from orchestrator.profile.document import Origin
from orchestrator.profiling.view import check_picture, draw_picture, render_profile_table
from orchestrator.snapshot import Family
from tests.profile.profiles import model_profile, profile_of, server_profile

PNG = b"\x89PNG\r\n\x1a\n"
PROFILE = profile_of(
    server_profile("a"),
    server_profile("b", model_profile(50, per_item_s=0.02, per_item_j=None), origin=Origin.EMULATED, slowdown=3.0),
)


@pytest.mark.parametrize("servers", [1, 2, 4])
def test_there_is_a_picture_of_any_number_of_servers(servers: int) -> None:
    profile = profile_of(*(server_profile(f"s{index}") for index in range(servers)))
    assert draw_picture(profile).startswith(PNG)


def test_places_are_checked_before_the_work(tmp_path: Path) -> None:
    check_picture(tmp_path / "p.png")
    for path, problem in [
        (tmp_path / "p.jpg", "a picture's name ends in .png"),
        (tmp_path / "no" / "p.png", "there is no folder"),
    ]:
        with pytest.raises(ConfigError, match=problem):
            check_picture(path)


def test_the_table_fits_a_terminal_and_says_what_is_emulated_and_unknown() -> None:
    console = Console(width=80, record=True, force_terminal=False)
    console.print(render_profile_table(PROFILE))
    lines = console.export_text().splitlines()
    (narrow,) = [line for line in lines if " 25 %" in line]
    assert narrow.split() == ["a", "25", "%", "12.00", "322.00", "10.000", "2.00", "0.0%", "0.6", "-", "-"]
    (slow,) = [line for line in lines if " 50 %" in line]
    assert slow.split()[:3] == ["b", "(3×)", "50"]
    assert any("the machine is emulated" in line for line in lines)
    assert slow.split()[-3:] == ["-", "-", "-"]


def test_of_several_families_each_row_says_whose_it_is() -> None:
    models = [replace(model_profile(25), family=Family(family)) for family in ("plates", "signs")]
    console = Console(width=80, record=True, force_terminal=False)
    console.print(render_profile_table(profile_of(server_profile("a", *models))))
    rows = [line.split()[:3] for line in console.export_text().splitlines() if " 25 %" in line]
    assert rows == [["a", "plates", "25"], ["a", "signs", "25"]]
