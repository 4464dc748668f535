"""What a process holds, read from /proc, and what a gateway tells of itself."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds at one moment.

    Attributes:
        rss_bytes: resident, of no file (RssAnon): what the process itself has asked for.
        descriptors: open files and sockets.
        threads: of the kernel.
    """

    rss_bytes: int
    descriptors: int
    threads: int


def read_held(pid: int) -> Held:
    """Return what a process holds.

    Raises:
        OSError: when it is gone.
    """
    folder = _PROC / str(pid)
    sizes = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return Held(
        rss_bytes=int(sizes["RssAnon"].split()[0]) * 1024,
        descriptors=sum(1 for _ in (folder / "fd").iterdir()),
        threads=int(sizes["Threads"]),
    )


def read_metrics(address: str) -> dict[str, float]:
    """Return the sums over labels of all that a gateway counts, by sample name.

    Raises:
        OSError: when it does not answer.
    """
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums
