"""A profile as a table for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from orchestrator.profile import ModelProfile, Origin, Profile, ServerProfile


def render_profile_table(profile: Profile) -> Table:
    """Return a row a model, for a terminal of 80 columns.

    Latencies of the smallest and the largest batch and the line a·n + b are in milliseconds, ``error`` is the line's
    on held-out batches, J a batch of one above idle, MiB an instance, ``load`` in seconds.
    """
    columns = ("server", "width", "1", "largest", "a", "b", "error", "J", "MiB", "load")
    table = Table(*columns, box=SIMPLE_HEAD, collapse_padding=True, title="latency of a batch in ms, and a·n + b")
    if any(server.origin is Origin.EMULATED for server in profile.servers):
        table.caption = "(3×): the machine is emulated, so many times slower than this one"
    for column in table.columns[1:]:
        column.justify = "right"
    for server in profile.servers:
        for model in server.models:
            slowdown = f" ({server.slowdown:g}×)" if server.origin is Origin.EMULATED else ""
            table.add_row(f"{server.name}{slowdown}", f"{model.width} %", *_figures(model))
    return table


def describe_server(server: ServerProfile) -> str:
    """Return a server's name with what must be known of its figures."""
    if server.origin is Origin.EMULATED:
        return f"{server.name}, emulated {server.slowdown:g}×"
    return f"{server.name}, synthetic" if server.origin is Origin.SYNTHETIC else server.name


def _figures(model: ModelProfile) -> list[str]:
    first, last, line, changes = model.batches[0], model.batches[-1], model.line, model.changes
    error = line.held_out_error_ratio
    instance_bytes = None if changes is None else changes.instance_bytes
    return [
        f"{first.mean_s * 1e3:.2f}",
        f"{last.mean_s * 1e3:.2f}",
        f"{line.per_item_s * 1e3:.3f}",
        f"{line.fixed_s * 1e3:.2f}",
        "-" if error is None else f"{error:.1%}",
        "-" if first.energy_j is None else f"{first.energy_j:.2g}",
        "-" if instance_bytes is None else f"{instance_bytes / 2**20:.0f}",
        "-" if changes is None else f"{changes.load.mean_s:.2f}",
    ]
