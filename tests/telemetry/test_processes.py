"""Triton's processes, played by real ones."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestrator.telemetry import HostReading, TritonProcesses
from orchestrator.telemetry.processes import read_memory_total
from tests.telemetry.privileges import without_privileges
from tests.telemetry.processes import FakeTriton

MIB = 1 << 20
Start = Callable[..., FakeTriton]


def follow(port: int | None) -> TritonProcesses:
    return TritonProcesses(port, search_interval_s=0)


def wait_for(processes: TritonProcesses, is_reached: Callable[[HostReading], bool]) -> HostReading:
    deadline_s = time.monotonic() + 20
    while not is_reached(reading := processes.read()):
        assert time.monotonic() < deadline_s, reading
        time.sleep(0.01)
    return reading


def compute(stub: int, cpu_s: float) -> None:
    """Have a stub compute (0.35 s) and return when it has taken so much CPU time."""
    process = psutil.Process(stub)
    enough_s = sum(process.cpu_times()[:2]) + cpu_s
    os.kill(stub, signal.SIGUSR2)
    deadline_s = time.monotonic() + 20
    while sum(process.cpu_times()[:2]) < enough_s:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_stubs_are_counted_by_model(start_triton: Start) -> None:
    triton = start_triton()
    for instance in ("fashion_w025_0_0", "fashion_w025_0_1", "fashion_w100_1_0", "a_0_1_0_0"):
        triton.spawn(instance)
    reading = follow(triton.port).read()
    assert reading.live_instances == {"fashion_w025": 2, "fashion_w100": 1, "a_0_1": 1}
    assert reading.server_id == f"{triton.pid}:{psutil.Process(triton.pid).create_time():.2f}"


def test_the_threads_of_the_server_are_counted_and_no_stubs(start_triton: Start) -> None:
    triton = start_triton()
    triton.spawn("m_0_0")
    assert follow(triton.port).read().server_threads == psutil.Process(triton.pid).num_threads() == 1


def test_stubs_that_come_later_are_seen(start_triton: Start) -> None:
    triton = start_triton()
    processes = follow(triton.port)
    assert processes.read().live_instances is None, "no stub ever: this may be a backend without any"
    triton.spawn("m_0_0")
    assert processes.read().live_instances == {"m": 1}
    triton.spawn("m_0_1")
    triton.spawn("n_0_0")
    assert processes.read().live_instances == {"m": 2, "n": 1}


def test_a_killed_stub_is_not_alive_as_a_zombie_nor_when_reaped(start_triton: Start) -> None:
    triton = start_triton()
    victim, _ = triton.spawn("m_0_0"), triton.spawn("n_0_0")
    processes = follow(triton.port)
    before = processes.read()
    assert before.live_instances == {"m": 1, "n": 1}
    os.kill(victim, signal.SIGKILL)
    zombie = wait_for(processes, lambda reading: reading.live_instances == {"n": 1})
    assert psutil.Process(victim).status() == psutil.STATUS_ZOMBIE
    assert zombie.server_id == before.server_id
    assert zombie.memory_used_bytes.value < before.memory_used_bytes.value
    triton.reap(victim)
    assert processes.read().live_instances == {"n": 1}


def test_the_last_stub_dead_is_no_model_alive_rather_than_unknown(start_triton: Start) -> None:
    triton = start_triton()
    victim = triton.spawn("m_0_0")
    processes = follow(triton.port)
    processes.read()
    os.kill(victim, signal.SIGKILL)
    wait_for(processes, lambda reading: reading.live_instances == {})
    assert follow(triton.port).read().live_instances == {}, "one that comes late sees the zombie"
    triton.reap(victim)
    assert processes.read().live_instances == {}


def test_arguments_that_are_not_understood_leave_the_counts_unknown(start_triton: Start) -> None:
    triton = start_triton()
    triton.spawn("m_0_0")
    processes = follow(triton.port)
    processes.read()
    odd = triton.spawn_with("another", "version")
    assert processes.read().live_instances is None
    os.kill(odd, signal.SIGKILL)
    triton.reap(odd)
    odd = triton.spawn("noindex")
    assert processes.read().live_instances is None


def end(triton: FakeTriton, *stubs: int) -> None:
    """Take stubs down as Triton does when it scales in place: nothing is left of them."""
    for stub in stubs:
        os.kill(stub, signal.SIGKILL)
        triton.reap(stub)


def test_what_a_reload_left_of_the_old_version_is_not_alive(start_triton: Start) -> None:
    triton = start_triton()
    processes = follow(triton.port)
    victim, orphan = triton.spawn("m_0_0"), triton.spawn("m_0_1")
    assert processes.read().live_instances == {"m": 2}
    os.kill(victim, signal.SIGKILL)
    wait_for(processes, lambda reading: reading.live_instances == {"m": 1})
    os.kill(orphan, signal.SIGUSR1)
    large = wait_for(processes, lambda reading: reading.instance_bytes["m"] > 60 * MIB)
    second, first = triton.spawn("m_0_1"), triton.spawn("m_0_0")  # side by side: the order is any
    reloaded = processes.read()
    assert reloaded.live_instances == {"m": 2}
    assert reloaded.instance_bytes["m"] < 60 * MIB, "the orphan's size is no instance's"
    assert reloaded.memory_used_bytes.value > large.memory_used_bytes.value, "and yet it is in memory"
    assert follow(triton.port).read().live_instances == {"m": 2}, "one that comes late sees as much"
    os.kill(first, signal.SIGKILL)
    wait_for(processes, lambda reading: reading.live_instances == {"m": 1})
    end(triton, second)
    assert processes.read().live_instances == {}
    triton.reap(first)
    assert processes.read().live_instances == {}, "nobody older comes back when the newer have gone"
    triton.spawn("m_0_0")
    assert processes.read().live_instances == {"m": 1}


def test_names_that_a_change_in_place_uses_again_count_each_time(start_triton: Start) -> None:
    triton = start_triton()
    processes = follow(triton.port)
    first = triton.spawn("m_0_0")
    second = triton.spawn("m_0_1")
    processes.read()
    end(triton, first)
    assert processes.read().live_instances == {"m": 1}
    triton.spawn("m_0_1")
    assert processes.read().live_instances == {"m": 2}, "two of one name, and both serve"
    third = triton.spawn("m_0_2")
    assert processes.read().live_instances == {"m": 3}
    end(triton, second)
    triton.spawn("m_0_2")
    assert processes.read().live_instances == {"m": 3}
    os.kill(third, signal.SIGKILL)
    wait_for(processes, lambda reading: reading.live_instances == {"m": 2})


def test_models_and_groups_are_reloaded_each_for_itself(start_triton: Start) -> None:
    triton = start_triton()
    processes = follow(triton.port)
    for instance in ("m_0_0", "m_1_0", "m_1_1", "n_0_0"):
        triton.spawn(instance)
    assert processes.read().live_instances == {"m": 3, "n": 1}
    triton.spawn("m_0_0")
    assert processes.read().live_instances == {"m": 3, "n": 1}


def test_memory_grows_with_what_a_stub_takes(start_triton: Start) -> None:
    triton = start_triton()
    stub = triton.spawn("m_0_0")
    processes = follow(triton.port)
    before = processes.read().memory_used_bytes
    assert before.source == "psutil"
    assert 2 * MIB < before.value < 60 * MIB
    os.kill(stub, signal.SIGUSR1)
    grown = wait_for(processes, lambda reading: reading.memory_used_bytes.value > before.value + 63 * MIB)
    assert grown.memory_used_bytes.value < before.value + 70 * MIB


def test_utilisation_counts_stubs_even_after_their_end(start_triton: Start) -> None:
    triton = start_triton()
    stub = triton.spawn("m_0_0")
    os.sched_setaffinity(triton.pid, {next(iter(os.sched_getaffinity(0)))})
    now_s = 50.0
    processes = TritonProcesses(triton.port, clock=lambda: now_s)
    first = processes.read()
    assert "second read" in first.utilisation_ratio.reason
    compute(stub, 0.3)
    os.kill(stub, signal.SIGKILL)
    triton.reap(stub)
    now_s += 3
    utilisation = processes.read().utilisation_ratio
    assert utilisation.source == "psutil"
    assert utilisation.value == pytest.approx(0.35 / 3, abs=0.05)
    now_s += 3
    assert processes.read().utilisation_ratio.value == pytest.approx(0, abs=0.02), "its time counts once"


def test_utilisation_is_a_share_of_the_cpus_allowed_and_never_above_1(start_triton: Start) -> None:
    triton = start_triton()
    stub = triton.spawn("m_0_0")
    now_s = 50.0
    processes = TritonProcesses(triton.port, clock=lambda: now_s)
    processes.read()
    compute(stub, 0.2)
    now_s += 0.1  # less than the CPU time taken
    assert 0.9 / len(os.sched_getaffinity(triton.pid)) < processes.read().utilisation_ratio.value <= 1


def test_a_restarted_server_is_another_one(start_triton: Start) -> None:
    first = start_triton()
    first.spawn("m_0_0")
    processes = follow(first.port)
    before = processes.read()
    assert processes.read().server_id == before.server_id
    first.kill(is_reaped=False)
    nobody = f"nobody listens on port {first.port} of this host"  # at first it may only "have just ended"
    gone = wait_for(processes, lambda reading: reading.memory_used_bytes.reason == nobody)
    assert gone.server_id is None
    assert gone.live_instances is None
    assert gone.memory_total_bytes.value == before.memory_total_bytes.value
    second = start_triton(port=first.port)
    second.spawn("n_0_0")
    after = processes.read()
    assert after.server_id not in (None, before.server_id)
    assert after.live_instances == {"n": 1}
    assert "second read" in after.utilisation_ratio.reason


def test_a_server_that_is_down_is_not_searched_for_all_the_time(start_triton: Start) -> None:
    now_s = 10.0
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    processes = TritonProcesses(port, clock=lambda: now_s, search_interval_s=2)
    assert "nobody listens" in processes.read().memory_used_bytes.reason
    start_triton(port=port)
    now_s += 1.9
    assert processes.read().server_id is None
    now_s += 0.2
    assert processes.read().server_id is not None


def test_who_else_listens_on_the_port_is_named(start_triton: Start) -> None:
    proxy = start_triton(name="docker-proxy")
    reading = follow(proxy.port).read()
    assert reading.server_id is None
    assert reading.live_instances is None
    assert reading.memory_used_bytes.reason == (
        f"port {proxy.port} of this host belongs to docker-proxy (pid {proxy.pid}), not to tritonserver"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to own a process that another user can't look into")
def test_a_triton_of_another_user_can_be_watched_only_once_it_was_found(start_triton: Start) -> None:
    triton = start_triton()
    processes = follow(triton.port)
    with without_privileges():
        reading = processes.read()
    assert reading.memory_used_bytes.reason.startswith(f"who listens on port {triton.port} can't be seen")
    assert reading.live_instances is None
    assert processes.read().server_id is not None
    with without_privileges():
        assert processes.read().memory_used_bytes.value > 0, "once found, it may be watched by anybody"


def test_of_a_host_without_triton_only_the_memory_in_total_is_known() -> None:
    reading = follow(None).read()
    assert reading.memory_used_bytes.reason == reading.utilisation_ratio.reason == "Triton isn't on this host"
    assert reading.memory_total_bytes.value > 0


def test_nothing_is_raised_while_processes_come_and_go(start_triton: Start) -> None:
    triton = start_triton()
    processes = follow(triton.port)
    for number in range(4):
        pid = triton.spawn(f"m_0_{number}")
        processes.read()
        os.kill(pid, signal.SIGKILL)
        processes.read()
        triton.reap(pid)
        assert processes.read().live_instances == {}
    triton.kill(is_reaped=False)
    for _ in range(50):
        reading = processes.read()
        assert reading.memory_used_bytes.value != 0, "a process on its way out is no process without memory"
    assert reading.server_id is None


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/pod/triton\n", {"pod/memory.max": "1000", "pod/triton/memory.max": "max"}, 1000),
        ("0::/pod/triton\n", {"pod/memory.max": "1000", "pod/triton/memory.max": "600"}, 600),
        ("0::/from/the/host\n", {"memory.max": "700"}, 700),
        ("0::/\n5:cpu:/x\n4:memory:/x/y\n", {"memory/x/memory.limit_in_bytes": "800"}, 800),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/\n", {}, None),
        ("", {}, None),
    ],
    ids=["parent", "own", "container", "v1", "v1 unlimited", "no limit", "no groups"],
)
def test_memory_is_what_the_control_group_allows(
    tmp_path: Path, membership: str, files: dict[str, str], expected: int | None
) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    total = read_memory_total(7, proc=tmp_path / "proc", cgroup_root=tmp_path / "cgroup")
    if expected is None:
        assert (total.value, total.source) == (psutil.virtual_memory().total, "psutil")
    else:
        assert (total.value, total.source) == (expected, "cgroup")


def test_memory_of_a_triton_in_another_container_is_what_its_own_group_allows(tmp_path: Path) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text("0::/../triton\n")
    own_view = (tmp_path / "proc" / "7" / "root").joinpath(*tmp_path.parts[1:])
    for root, limit_bytes in ((tmp_path / "cgroup", 5), (own_view / "cgroup", 900)):
        root.mkdir(parents=True)
        (root / "memory.max").write_text(str(limit_bytes))
    total = read_memory_total(7, proc=tmp_path / "proc", cgroup_root=tmp_path / "cgroup")
    assert (total.value, total.source) == (900, "cgroup"), "and not what the controller's does"


def test_memory_of_a_process_that_has_gone(tmp_path: Path) -> None:
    assert read_memory_total(7, proc=tmp_path, cgroup_root=tmp_path).value == psutil.virtual_memory().total
