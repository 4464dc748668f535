"""Draws scenarios: of each kind as many as one likes, from a seed, so that nobody picks them.

``python -m benchmarks.frozen.drawing`` writes the frozen ones, two of each kind. Other seeds give other worlds of the
same kinds. A fleet and a load are drawn first, then a deadline of few to many times what an item takes at full width.
What comes to too few or too many requests a deadline is drawn again: 5 to 50 in one half of the worlds, 50 to 120 in
the other, so that a run of 200 deadlines is short enough to be run many times; days last a thousand. As live by
default, a server has four batches of a width in flight, and Triton joins those that wait.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from orchestrator.errors import ConfigError
from orchestrator.simulation.scenario.capacity import capacity_rps
from orchestrator.simulation.scenario.digest import digest_scenario
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings, eligible_fleet, load_scenario, parse_scenario

FOLDER: Final = Path("scenarios/test/frozen")
SMALL: Final = 3
"""Servers of a small fleet at the most."""
_SEED: Final = 20_261_130
_FEW, _MANY = (5.0, 50.0), (50.0, 120.0)  # requests a deadline
_DEADLINES: Final = (200, 300)  # of a run
_DAYS_DEADLINES: Final = 1000
_CLASSES: Final = (
    ("h100", "a100", "a10", "rtx-2080-ti", "t4"),
    ("cpu-16-cores", "cpu-edge", "jetson-agx-orin"),
    ("a10", "t4", "jetson-agx-orin", "cpu-16-cores"),
)
"""Of machines: data centre, edge, and both."""
_TRIES: Final = 2000

Values = dict[str, Any]
Rng = np.random.Generator


def draw(kind: str, name: str, seed: int, *, is_few: bool, root: Path) -> str:
    """Return a scenario's YAML; ``root`` is the project's folder, as the file that it is written to sees it.

    Raises:
        ConfigError: when none of many draws has as many requests a deadline as it should.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, *kind.encode()]))
    least, most = _FEW if is_few else _MANY
    for _ in range(_TRIES):
        values = KINDS[kind](rng, is_few)
        text = _render(name, kind, values, root)
        settings, servers = parse_scenario(text, source=name, folder=FOLDER)
        per_deadline = requests_a_deadline(settings, servers)
        if least <= per_deadline <= most:
            deadlines = _DAYS_DEADLINES if kind == "days" else int(rng.integers(*_DEADLINES, endpoint=True))
            values["workload"]["requests"] = math.ceil(deadlines * per_deadline)
            return _render(name, kind, values, root)
    raise ConfigError(f"kind {kind!r}: none of {_TRIES} draws has {least:g} to {most:g} requests a deadline")


def requests_a_deadline(settings: ScenarioSettings, servers: tuple[SimulatedServer, ...]) -> float:
    """Return how many requests arrive in the time of a deadline, on average; of unlike ones, of the mean."""
    workload, shares = settings.workload, settings.family_shares()
    taken = eligible_fleet(settings, servers)
    rate_rps = workload.load_ratio * capacity_rps(taken, width=workload.load_of_width, shares=shares)
    own_ms, classes = settings.objectives.deadline_ms, workload.classes
    if shares is not None:
        own_ms = sum(part * (settings.families[name].deadline_ms or own_ms) for name, part in shares.items())
    elif classes:
        own_ms = sum(c.share * (c.deadline_ms or own_ms) for c in classes) / sum(c.share for c in classes)
    elif workload.deadlines_ms is not None:
        own_ms = sum(ms * part for ms, part in workload.deadlines_ms.items()) / sum(workload.deadlines_ms.values())
    return rate_rps / workload.items * own_ms / 1e3


def draw_all(seed: int, folder: Path, root: Path, *, each: int) -> Iterator[tuple[Path, str]]:
    """Yield paths and texts of so many scenarios of each kind, those with few requests a deadline and many in turn."""
    for kind in KINDS:
        for number in range(each):
            name = f"{kind}-{number + 1}"
            is_few = kind == "days" or number % 2 == 0  # days are long
            yield folder / f"{name}.yaml", draw(kind, name, seed + number, is_few=is_few, root=root)


def digest_all(folder: Path) -> str:
    """Return the digest of all that the scenarios of a folder say, the profiles that they name included."""
    digests = [f"{path.stem} {digest_scenario(*load_scenario(path))}" for path in sorted(folder.glob("*.yaml"))]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def _log(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _machines(rng: Rng, least: int, most: int) -> list[Values]:
    """Return a fleet of so many servers, of one to three classes."""
    count = int(rng.integers(least, most, endpoint=True))
    among = _CLASSES[int(rng.integers(len(_CLASSES)))]
    classes = rng.choice(among, size=min(count, int(rng.integers(1, 3, endpoint=True))), replace=False)
    cuts: list[int] = []
    if len(classes) > 1:
        cuts = sorted(rng.choice(np.arange(1, count), size=len(classes) - 1, replace=False).tolist())
    counts = np.diff([0, *cuts, count])
    return [{"name": f"{c}-", "count": int(n), "profile": f"{c}.json"} for c, n in zip(classes, counts, strict=True)]


def _world(rng: Rng, is_few: bool, *, least: int = 2, most: int = 8, **workload: Any) -> Values:
    return {
        "servers": _machines(rng, least, min(most, 4) if is_few else most),
        "workload": {"load_ratio": _short(rng.uniform(0.2, 0.7)), **workload},
        "objectives": {"deadline_ms": _short(_log(rng, 8, 1000))},
    }


def _steady(rng: Rng, is_few: bool) -> Values:
    return _world(rng, is_few, kind="poisson")


def _bursts(rng: Rng, is_few: bool) -> Values:
    return _world(rng, is_few, kind="gamma", cv2=_short(_log(rng, 3, 20)))


def _on_off(rng: Rng, is_few: bool) -> Values:
    sojourn = round(_log(rng, 30, 1000))
    values = _world(rng, is_few, kind="mmpp", rates=[0.0, 2.0], sojourn_requests=sojourn)
    values["workload"]["load_ratio"] = _short(rng.uniform(0.15, 0.45))
    return values


def _self_similar(rng: Rng, is_few: bool) -> Values:
    rates = [0.1, 0.4, 1.0, 2.5]
    return _world(rng, is_few, kind="self-similar", rates=rates, sojourn_requests=round(_log(rng, 10, 100)))


def _days(rng: Rng, is_few: bool) -> Values:
    return _world(rng, is_few, kind="diurnal", amplitude=_short(rng.uniform(0.5, 0.95)), periods=2)


def _crowd(rng: Rng, is_few: bool) -> Values:
    shape: Values = {"factor": _short(rng.uniform(2, 6)), "begins": 0.4, "lasts": _short(rng.uniform(0.05, 0.2))}
    return _world(rng, is_few, kind="flash-crowd", **shape)


def _with_faults(values: Values, **faults: float) -> Values:
    deadline_s = values["objectives"]["deadline_ms"] / 1e3
    times = ("fail_every_s", "down_s", "notice_s", "throttle_every_s", "throttle_s")  # drawn in deadlines
    values["faults"] = {k: _short(v * deadline_s if k in times else v) for k, v in faults.items()}
    return values


def _failing(rng: Rng) -> dict[str, float]:
    return {"fail_every_s": _log(rng, 30, 200), "down_s": _log(rng, 3, 20), "notice_s": _log(rng, 0.3, 3)}


def _throttling(rng: Rng) -> dict[str, float]:
    times = {"throttle_every_s": _log(rng, 20, 100), "throttle_s": _log(rng, 5, 40)}
    return {**times, "throttle_factor": rng.uniform(1.5, 4)}


def _failures(rng: Rng, is_few: bool) -> Values:
    return _with_faults(_world(rng, is_few, least=3, kind="gamma", cv2=4), **_failing(rng))


def _throttled(rng: Rng, is_few: bool) -> Values:
    return _with_faults(_world(rng, is_few, kind="gamma", cv2=4), **_throttling(rng))


def _small_throttled(rng: Rng, is_few: bool) -> Values:
    sojourn = round(_log(rng, 30, 1000))
    kind = {"kind": "mmpp", "rates": [0.3, 1.7], "sojourn_requests": sojourn}
    return _with_faults(_world(rng, is_few, least=1, most=SMALL, **kind), **_throttling(rng))


def _small_failing(rng: Rng, is_few: bool) -> Values:
    values = _world(rng, is_few, least=2, most=SMALL, kind="poisson")
    return _with_faults(values, **_failing(rng), **_throttling(rng))


def _late_reports(rng: Rng, is_few: bool) -> Values:
    values = _world(rng, is_few, least=3, kind="gamma", cv2=4)
    every_s = _short(values["objectives"]["deadline_ms"] / 1e3 * rng.uniform(0.1, 0.5))
    lost, noise = _short(rng.uniform(0, 0.1)), _short(rng.uniform(0.1, 0.3))
    values["telemetry"] = {
        "report_every_s": every_s,
        "delay_s": _short(every_s / 2),
        "lost_ratio": lost,
        "noise": noise,
    }
    return values


def _shedding(rng: Rng, is_few: bool) -> Values:
    values = _bursts(rng, is_few)
    values["workload"]["load_ratio"] = _short(rng.uniform(0.7, 1.1))
    values["objectives"]["shed_late"] = True
    return values


def _priorities(rng: Rng, is_few: bool) -> Values:
    values = _bursts(rng, is_few)
    values["workload"]["priorities"] = {1: 1.0, 2: _short(rng.uniform(1, 9))}
    return values


def _several_items(rng: Rng, is_few: bool) -> Values:
    return _world(rng, is_few, kind="gamma", cv2=4, items=int(rng.integers(2, 8, endpoint=True)))


def _tenants(rng: Rng, is_few: bool) -> Values:
    """Return families of unlike deadlines, floors, shares and weights on the same servers."""
    names = ("one", "two", "three")[: int(rng.integers(2, 3, endpoint=True))]
    deadline_ms = _log(rng, 20, 400)
    least, most = rng.uniform(0.6, 0.85, len(names)), rng.uniform(0.86, 0.96, len(names))
    cost = [_log(rng, 0.2, 1.0) for _ in names]
    servers = []
    for server in range(int(rng.integers(2, 3, endpoint=True))):
        slow, watts = 1.0 if not server else _log(rng, 1, 5), _log(rng, 10, 40)
        own: Values = {}
        for name, low, high, item_ms in zip(names, least, most, cost, strict=True):
            widths = {}
            for width, factor, part in ((25, 1.0, 0.0), (50, 2.5, 0.6), (100, 7.0, 1.0)):
                ms, accuracy = item_ms * slow * factor, low + (high - low) * part
                widths[width] = {"accuracy": _short(accuracy), "item_ms": _short(ms), "group_ms": _short(slow)} | {
                    "item_mj": _short(ms * watts), "group_mj": _short(slow * watts), "sigma": 0.1
                }  # fmt: skip
            own[name] = widths
        servers.append({"name": f"s{server}", "idle_w": _short(watts / 2), "families": own})
    families: Values = {
        name: {"share": _short(rng.uniform(0.5, 3)), "weight": _short(rng.uniform(0.5, 3))} for name in names
    }
    families["one"]["deadline_ms"] = _short(deadline_ms * rng.uniform(0.3, 0.8))
    families[names[-1]]["min_accuracy"] = _short(float(least[-1]) + 0.01)
    return {
        "families": families,
        "servers": servers,
        "workload": {"kind": "gamma", "cv2": 4, "load_ratio": _short(rng.uniform(0.2, 0.6)), "drift_amplitude": 0.8},
        "objectives": {"deadline_ms": _short(deadline_ms)},
    }


def _busy_host(rng: Rng, is_few: bool) -> Values:
    """Return the fleet of ``slimsched up`` on a host that it shares, with recorded residuals and live shedding."""
    servers = []
    for name, slow in (("local-0", 1.0), ("local-1", _short(rng.uniform(1.5, 4)))):
        widths = {}
        for width, accuracy, ms in ((25, 0.939, 0.089), (50, 0.947, 0.147), (75, 0.949, 0.29), (100, 0.951, 0.351)):
            widths[width] = {"accuracy": accuracy, "item_ms": _short(ms * slow), "group_ms": _short(0.4 + 0.1 * slow)}
            widths[width] |= {"max_batch_size": 64, "sigma": 0.2}
        servers.append({"name": name, "widths": widths})
    router = {"request_us": 60, "decision_us": 50, "batch_us": 250, "answer_us": 40, "has_callers": True}
    host = {
        "name": "machine", "cores": 2, "slice_ms": 2, "servers": {"local-0": 1, "local-1": 0.5}, "router": router,
        "competing": [[0, _short(rng.uniform(0.3, 1.8))]],
        "residuals": {"file": "scenarios/hosts/recorded.txt", "correlation": 0.3, "drift_s": 0.2},
    }  # fmt: skip
    return {
        "servers": servers,
        "workload": {"kind": "gamma", "cv2": _short(_log(rng, 1, 8)), "load_ratio": _short(rng.uniform(0.05, 0.25))},
        "objectives": {"deadline_ms": _short(_log(rng, 8, 200)), "shed_late": True},
        "hosts": [host],
    }


def _callers(rng: Rng, is_few: bool) -> Values:
    """Return callers each of whom waits for an answer before he sends again."""
    values = _bursts(rng, is_few)
    values["workload"] |= {"load_ratio": _short(rng.uniform(0.5, 1.2)), "callers": round(_log(rng, 8, 120))}
    return values


def _shared_device(rng: Rng, is_few: bool) -> Values:
    """Return servers with several instances of each width, which hinder each other on one device."""
    item_ms, accuracy, servers = _log(rng, 0.2, 1.0), rng.uniform(0.6, 0.8), []
    for server in range(int(rng.integers(1, 3, endpoint=True))):
        slow, watts, instances = _log(rng, 1, 4), _log(rng, 20, 100), int(rng.integers(2, 4, endpoint=True))
        widths = {}
        for width, factor, gain in ((25, 1.0, 0.0), (50, 2.5, 0.05), (75, 4.5, 0.08), (100, 7.0, 0.1)):
            ms = item_ms * slow * factor
            widths[width] = {"accuracy": _short(accuracy + gain), "item_ms": _short(ms), "group_ms": _short(slow)} | {
                "item_mj": _short(ms * watts), "group_mj": _short(slow * watts), "sigma": 0.1, "instances": instances
            }  # fmt: skip
        contention = _short(rng.uniform(0.3, 1.0))
        servers.append({"name": f"s{server}", "idle_w": _short(watts / 2), "contention": contention, "widths": widths})
    return {
        "servers": servers,
        "workload": {"kind": "gamma", "cv2": _short(_log(rng, 1, 8)), "load_ratio": _short(rng.uniform(0.15, 0.5))},
        "objectives": {"deadline_ms": _short(_log(rng, 8, 500))},
        "telemetry": {"read_every_s": 1.0},
    }


def _controllers(rng: Rng, is_few: bool) -> Values:
    """Return machines whose controllers load widths and scale them within memory and utilisation."""
    kind = {"kind": "diurnal", "amplitude": _short(rng.uniform(0.4, 0.9)), "periods": 2}
    values = _world(rng, is_few, least=1, most=3, **kind)
    among = ("jetson-agx-orin", "t4", "cpu-16-cores") if is_few else _CLASSES[0]
    classes = rng.choice(among, size=len(values["servers"]), replace=False)
    for server, name in zip(values["servers"], classes, strict=True):
        limits = {"memory_budget_mib": round(rng.uniform(1500, 6000))}
        server |= {"profile": f"{name}.json", "name": f"{name}-", "contention": _short(rng.uniform(0.3, 0.9))}
        server["limits"] = limits
    values["controller"] = {"period_s": 0.5, "grow_after_s": 0.5, "cooldown_s": 1, "idle_s": 5, "unload_after_s": 20}
    values["objectives"]["deadline_ms"] = _short(_log(rng, 40, 120) if is_few else _log(rng, 100, 500))
    values["telemetry"] = {"read_every_s": 1.0}
    return values


def _heat(rng: Rng, is_few: bool) -> Values:
    """Return servers that throttle when they are used for long."""
    sojourn = round(_log(rng, 100, 1000))
    values = _world(rng, is_few, least=1, most=4, kind="mmpp", rates=[0.3, 1.7], sojourn_requests=sojourn)
    deadline_s = values["objectives"]["deadline_ms"] / 1e3
    faults = {"heat_s": _short(deadline_s * _log(rng, 5, 50)), "hot_above": _short(rng.uniform(0.5, 0.8))}
    values["faults"] = faults | {"throttle_factor": _short(rng.uniform(1.5, 3))}
    return values


def _mixed_deadlines(rng: Rng, is_few: bool) -> Values:
    values = _bursts(rng, is_few)
    deadline_ms = values["objectives"]["deadline_ms"]
    factors = (rng.uniform(0.3, 0.7), 1.0, rng.uniform(2, 5))
    shares = [_short(rng.uniform(0.5, 3)) for _ in factors]
    values["workload"]["deadlines_ms"] = {_short(deadline_ms * f): s for f, s in zip(factors, shares, strict=True)}
    values["objectives"]["shed_late"] = bool(rng.integers(2))
    return values


def _classes(rng: Rng, is_few: bool) -> Values:
    """Return callers of one family with unlike deadlines, floors and preferences; the network's widths are known."""
    values = _bursts(rng, is_few)
    deadline_ms = values["objectives"]["deadline_ms"]
    values["workload"]["load_ratio"] = _short(rng.uniform(0.15, 0.45))
    values["workload"]["classes"] = [
        {"share": _short(rng.uniform(1, 3))},
        {"share": _short(rng.uniform(0.3, 1)), "min_accuracy": float(rng.choice([0.7, 0.74]))},
        {"share": _short(rng.uniform(0.5, 2)), "deadline_ms": _short(deadline_ms * rng.uniform(0.3, 0.8))},
        {"share": _short(rng.uniform(0.3, 1)), "preference": str(rng.choice(["energy", "accuracy", "balanced"]))},
    ]
    return values


def _several_gateways(rng: Rng, is_few: bool) -> Values:
    """Return the world of one of several gateways, to and from which servers are moved."""
    values = _world(rng, is_few, least=3, kind="gamma", cv2=4)
    values["workload"]["load_ratio"] = _short(rng.uniform(0.15, 0.45))
    deadline_s = values["objectives"]["deadline_ms"] / 1e3
    values["sharing"] = {
        "away_every_s": _short(deadline_s * _log(rng, 20, 200)),
        "away_s": _short(deadline_s * _log(rng, 5, 60)),
    }
    return values


KINDS: Final[Mapping[str, Callable[[Rng, bool], Values]]] = {
    "steady": _steady,
    "bursts": _bursts,
    "on-off": _on_off,
    "self-similar": _self_similar,
    "days": _days,
    "crowd": _crowd,
    "failures": _failures,
    "throttled": _throttled,
    "small-throttled": _small_throttled,
    "small-failing": _small_failing,
    "late-reports": _late_reports,
    "shedding": _shedding,
    "priorities": _priorities,
    "several-items": _several_items,
    "tenants": _tenants,
    "busy-host": _busy_host,
    "callers": _callers,
    "shared-device": _shared_device,
    "controllers": _controllers,
    "heat": _heat,
    "mixed-deadlines": _mixed_deadlines,
    "classes": _classes,
    "several-gateways": _several_gateways,
}


def _render(name: str, kind: str, values: Values, root: Path) -> str:
    values = {**values, "servers": [{**server, "dynamic_batching": True} for server in values["servers"]]}
    values["objectives"] = {**values["objectives"], "in_flight_groups": 4}
    for server in values["servers"]:
        if "profile" in server:
            server["profile"] = str(root / "profiles/synthetic" / server["profile"])
    if "hosts" in values:
        (host,) = values["hosts"]
        residuals = {**host["residuals"], "file": str(root / host["residuals"]["file"])}
        values["hosts"] = [{**host, "residuals": residuals}]
    return yaml.safe_dump({"name": name, **values}, sort_keys=False, default_flow_style=None, width=120)


def main() -> None:
    """Write the frozen scenarios, and print their digest."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in draw_all(_SEED, FOLDER, Path("../../.."), each=2):
        path.write_text(text)
    print(digest_all(FOLDER))


if __name__ == "__main__":
    main()
