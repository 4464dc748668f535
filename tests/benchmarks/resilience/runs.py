"""Made-up runs of the resilience benchmark, for what reads and shows them."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.machine import Machine
from benchmarks.resilience.results import Burst, Outage, Phase, Rest, Results, Soak, SoakProcess, TimeBin

TIME_BIN = TimeBin(0.0, 50, {"100": 49}, {"a": 49}, 0, 1, 0.01, 0.02)


def outage(**changes: Any) -> Outage:
    values: dict[str, Any] = {
        "name": "death",
        "detail": "kill -9",
        "rps": 200.0,
        "deadline_s": 1.0,
        "fault_at_s": 4.0,
        "mended_at_s": 14.0,
        "sent": 5200,
        "answered": 5200,
        "lost": {},
        "twice": 0,
        "wrong": 0,
        "last_wrong_s": None,
        "worst_s": 0.4,
        "p99_before_s": 0.05,
        "p99_after_s": 0.2,
        "accuracy_before": 0.942,
        "accuracy_during": 0.93,
        "noticed_after_s": None,
        "back_after_s": 0.5,
        "counted": 0,
        "retries": 5,
        "sender_late_s": 0.01,
        "examples": (),
        "moments": (TIME_BIN,),
    }
    return Outage(**{**values, **changes})


def phase(name: str, from_s: float, until_s: float, **changes: Any) -> Phase:
    values: dict[str, Any] = {
        "rps": 100.0,
        "sent": 600,
        "in_time": 600,
        "late": 0,
        "overdue": 0,
        "refused": 0,
        "failed": 0,
        "narrowest_ratio": 1.0,
        "accuracy": 0.92,
        "worst_answer_s": 0.9,
        "worst_refusal_s": None,
        "twice": 0,
    }
    return Phase(name, from_s, until_s, **{**values, **changes})


def burst(**changes: Any) -> Burst:
    values: dict[str, Any] = {
        "items": 4,
        "deadline_s": 1.0,
        "wide_rps": 40.0,
        "narrow_rps": 110.0,
        "phases": (
            phase("calm", 0, 4),
            phase("pressed", 4, 10),
            phase("burst", 10, 16, sent=3300, refused=2700, worst_refusal_s=0.8),
            phase("calm again", 16, 24),
            phase("second burst", 24, 30, sent=3300, refused=2700, worst_refusal_s=0.7),
            phase("calm at last", 30, 38),
        ),
        "narrowed_at_s": 4.5,
        "refused_at_s": 10.2,
        "rss_bytes": (100 * 2**20, 200 * 2**20, 210 * 2**20, 190 * 2**20),
        "gateway_cpu_ratio": 0.3,
        "sender_late_s": 0.01,
        "examples": (),
        "moments": (TIME_BIN,),
    }
    return Burst(**{**values, **changes})


def rest(**changes: Any) -> Rest:
    names = ("supervisor", "worker 1")
    values: dict[str, Any] = {
        "rss_bytes": dict.fromkeys(names, 100 * 2**20),
        "descriptors": dict.fromkeys(names, 20),
        "threads": dict.fromkeys(names, 10),
        "tasks": 26,
        "in_flight": 0,
        "requests": 1000,
    }
    return Rest(**{**values, **changes})


def process(name: str, *, growth_kib_per_s: float = 0.0) -> SoakProcess:
    at_s = tuple(float(second) for second in range(0, 1800, 2))
    readings = tuple(int(100_000 + growth_kib_per_s * second + 50 * (second % 7)) for second in at_s)
    return SoakProcess(name, at_s, readings, (20,) * len(at_s), (10,) * len(at_s))


def soak(**changes: Any) -> Soak:
    values: dict[str, Any] = {
        "took_s": 1800.0,
        "processes": (process("supervisor"), process("worker 1")),
        "tasks": ((0.0, 30), (2.0, 40)),
        "before": rest(),
        "after": rest(requests=145_000, tasks=22),
        "ended": {"HTTP, JSON": {"ok": 9000}},
        "skipped": {"HTTP, JSON": 3},
        "unexpected": 0,
        "examples": (),
    }
    return Soak(**{**values, **changes})


def results(**changes: Any) -> Results:
    machine = Machine(cpu="a processor", cpus=2, memory_bytes=24 * 2**30, kernel="Linux 6", load_before=0.5)
    values: dict[str, Any] = {
        "taken_at": "2026-01-01T00:00:00+00:00",
        "machine": machine,
        "versions": {"python": "3.11"},
        "failures": {},
        "outages": {"death": outage()},
        "burst": burst(),
        "soak": soak(),
    }
    return Results(**{**values, **changes})
