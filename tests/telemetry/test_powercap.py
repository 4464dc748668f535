"""Powercap counters, from a tree like the kernel's."""

import tempfile
from pathlib import Path

import pytest

from orchestrator.telemetry.powercap import Powercap
from tests.telemetry.privileges import without_privileges

RANGE_UJ = 262_143_328_850


class Tree:
    """A directory like /sys/class/powercap, and a clock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now_s = 10.0
        self.powercap = Powercap(root, clock=lambda: self.now_s)

    def write(self, zone: str, name: str, energy_uj: int) -> Path:
        directory = self.root / zone
        directory.mkdir(exist_ok=True, parents=True)
        (directory / "name").write_text(name + "\n")
        (directory / "energy_uj").write_text(f"{energy_uj}\n")
        (directory / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        return directory


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "powercap")


def test_energy_is_the_growth_of_all_packages_and_power_its_rate(tree: Tree) -> None:
    tree.write("intel-rapl:0", "package-0", 5_000_000)
    tree.write("intel-rapl:1", "package-1", 70_000_000)
    first = tree.powercap.read()
    assert (first.energy_j.value, first.energy_j.source) == (0, "rapl")
    assert first.power_w.value is None
    assert "second read" in first.power_w.reason
    tree.write("intel-rapl:0", "package-0", 25_000_000)
    tree.write("intel-rapl:1", "package-1", 80_000_000)
    tree.now_s += 2
    second = tree.powercap.read()
    assert second.energy_j.value == 30
    assert (second.power_w.value, second.power_w.source) == (15, "rapl")


def test_no_joule_counts_twice(tree: Tree) -> None:
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    (tree.root / "intel-rapl").mkdir(parents=True)  # the control type itself
    for energy_uj in (0, 1_000_000):
        for zone, name in zones.items():
            tree.write(zone, name, energy_uj)
        reading = tree.powercap.read()
    assert reading.energy_j.value == 1


def test_a_counter_that_wraps_loses_no_energy(tree: Tree) -> None:
    tree.write("intel-rapl:0", "package-0", RANGE_UJ - 4_000_000)
    tree.powercap.read()
    for now_uj, total_j in ((6_000_000, 10), (7_000_000, 11)):
        tree.write("intel-rapl:0", "package-0", now_uj)
        assert tree.powercap.read().energy_j.value == pytest.approx(total_j)


def test_reads_in_quick_succession_keep_the_last_power(tree: Tree) -> None:
    for energy_uj, step_s, power_w in ((0, 1, None), (20_000_000, 1, 20), (20_000_001, 0.001, 20), (50_000_000, 1, 30)):
        tree.now_s += step_s
        tree.write("intel-rapl:0", "package-0", energy_uj)
        assert tree.powercap.read().power_w.value == (None if power_w is None else pytest.approx(power_w, rel=0.01))


def test_without_a_package_zone_energy_and_power_have_a_reason(tree: Tree) -> None:
    assert "has no package zone" in tree.powercap.read().energy_j.reason
    tree.write("intel-rapl:0", "psys", 1)
    assert "has no package zone" in tree.powercap.read().power_w.reason


def test_a_counter_that_can_not_be_read_is_named_with_the_reason(tree: Tree) -> None:
    # Root may read whatever its mode is, so a directory stands in the file's place: it can't be read by anybody.
    directory = tree.write("intel-rapl:0", "package-0", 0)
    (directory / "energy_uj").unlink()
    (directory / "energy_uj").mkdir()
    reading = tree.powercap.read()
    assert reading.energy_j.reason == f"can't read {directory / 'energy_uj'}: Is a directory"
    assert reading.power_w.value is None


def test_no_permission_is_reported_with_its_remedy() -> None:
    with tempfile.TemporaryDirectory() as directory:  # tmp_path is closed to others altogether
        Path(directory).chmod(0o755)
        tree = Tree(Path(directory) / "powercap")
        counter = tree.write("intel-rapl:0", "package-0", 0) / "energy_uj"
        counter.chmod(0)
        with without_privileges():
            reason = tree.powercap.read().energy_j.reason
        assert reason.startswith(f"no permission to read {counter}")
        assert "root's unless made readable" in reason


def test_one_package_unreadable_is_no_drop_of_power(tree: Tree) -> None:
    for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:1", "package-1")):
        tree.write(zone, name, 0)
    tree.powercap.read()
    tree.write("intel-rapl:0", "package-0", 5_000_000)
    (tree.root / "intel-rapl:1/energy_uj").write_text("")
    assert "holds no number" in tree.powercap.read().energy_j.reason
    tree.write("intel-rapl:1", "package-1", 2_000_000)
    assert tree.powercap.read().energy_j.value == 7, "nothing was lost meanwhile"
