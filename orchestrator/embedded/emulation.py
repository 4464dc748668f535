"""Unlike machines, emulated on one: what the user writes for CPU sets and slow-downs.

An emulated machine is a tritonserver bound to some CPUs whose onnxruntime backend is made slower by a factor. Both
are labelled as emulation wherever they show, in fleet.yaml, in reports and in the backend's own docstring.
"""

import os

from orchestrator.errors import ConfigError

MAX_CPUS = 65_536  # more than any machine has; a range is built in memory


def parse_cpu_list(text: str) -> frozenset[int]:
    """Return the CPUs of a list such as `0`, `0-1` or `0-1,3`, as taskset writes it; raises ConfigError for others."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise ConfigError(f"CPU list '{text}': '{part}' is neither a CPU nor a range; write it like 0-1,3")
        if int(last or first) >= MAX_CPUS:
            raise ConfigError(f"CPU list '{text}': '{part}' goes beyond CPU {MAX_CPUS - 1}; write it like 0-1,3")
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def check_cpus(cpus: frozenset[int]) -> None:
    """Raise ConfigError unless this process may use some CPUs."""
    available = os.sched_getaffinity(0)
    if not cpus or not cpus <= available:
        missing = ", ".join(str(cpu) for cpu in sorted(cpus - available)) or "none given"
        raise ConfigError(f"CPUs not available here: {missing}; choose among {', '.join(map(str, sorted(available)))}")


def check_slowdown(factor: float) -> None:
    """Raise ConfigError unless an emulated slow-down factor is a finite number >= 1."""
    if not 1.0 <= factor < float("inf"):
        raise ConfigError(f"slow-down {factor:g}: must be a number >= 1; 1 means as fast as this machine")


def parse_slowdowns(text: str, server_count: int) -> tuple[float, ...]:
    """Return one factor per server from a list such as `1,3`; raises ConfigError when their number differs."""
    parts = _split("--slowdown", text, ",", server_count)
    factors = []
    for part in parts:
        try:
            factor = float(part)
        except ValueError:
            raise ConfigError(f"--slowdown {text}: '{part}' is not a number; write it like 1,3") from None
        check_slowdown(factor)
        factors.append(factor)
    return tuple(factors)


def parse_cpu_sets(text: str, server_count: int) -> tuple[frozenset[int], ...]:
    """Return one CPU set per server from CPU lists such as `0;1-3`; raises ConfigError when their number differs."""
    return tuple(parse_cpu_list(part) for part in _split("--cpus", text, ";", server_count))


def _split(flag: str, text: str, separator: str, server_count: int) -> list[str]:
    parts = [part.strip() for part in text.split(separator)]
    if len(parts) != server_count:
        raise ConfigError(
            f"{flag} {text}: {len(parts)} value(s) for {server_count} server(s); give one per server, "
            f"separated by '{separator}'"
        )
    return parts
