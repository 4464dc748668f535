"""Profiles to test with: every figure is made up, and none contradicts another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.profile.document import (
    BatchProfile,
    Conditions,
    EnergySource,
    IdlePower,
    ModelProfile,
    Origin,
    Profile,
    ServerProfile,
    batch_ladder,
)
from orchestrator.profile.fit import fit_latency
from orchestrator.snapshot import ServedModel
from tests.fakes.servers import served_model

SHA256 = "0123456789abcdef" * 4


def served(width: int, *, sha256: str | None = SHA256, max_batch_size: int = 32) -> ServedModel:
    """Return a served model that ``model_profile`` is about."""
    return replace(served_model(width, max_batch_size=max_batch_size), sha256=sha256)


def batch_profile(items: int, mean_s: float, *, energy_j: float | None = 1.0) -> BatchProfile:
    is_known = energy_j is not None
    return BatchProfile(
        items=items,
        n=100,
        mean_s=mean_s,
        std_s=mean_s / 10,
        p50_s=mean_s,
        p99_s=mean_s * 1.3,
        energy_j=energy_j,
        energy_source=EnergySource.ESTIMATED if is_known else None,
        energy_reason="" if is_known else "no counter",
    )


def model_profile(
    width: int,
    *,
    per_item_s: float = 0.01,
    fixed_s: float = 0.002,
    per_item_j: float | None = 0.1,
    fixed_j: float = 0.5,
    max_batch_size: int = 32,
    sha256: str | None = SHA256,
) -> ModelProfile:
    """Return a model whose batches of n take per_item_s·n + fixed_s and, unless unknown, per_item_j·n + fixed_j."""
    model = served(width, max_batch_size=max_batch_size)
    sizes = batch_ladder(max_batch_size)
    batches = tuple(
        batch_profile(n, per_item_s * n + fixed_s, energy_j=None if per_item_j is None else per_item_j * n + fixed_j)
        for n in sizes
    )
    return ModelProfile(
        name=model.name,
        family=model.family,
        width=width,
        accuracy=model.accuracy,
        flops=model.flops,
        max_batch_size=max_batch_size,
        instances=1,
        sha256=sha256,
        line=fit_latency([(b.items, b.mean_s) for b in batches]),
        changes=None,
        batches=batches,
    )


def server_profile(name: str, *models: ModelProfile, **changes: Any) -> ServerProfile:
    server = ServerProfile(
        name=name,
        device="cpu",
        description="a CPU",
        origin=Origin.MEASURED,
        slowdown=None,
        triton_version="2.51.0",
        memory_bytes=None,
        idle=IdlePower(None, None, "no counter"),
        models=models or (model_profile(25), model_profile(100)),
    )
    return replace(server, **changes)


def profile_of(*servers: ServerProfile) -> Profile:
    conditions = Conditions(
        date="2026-01-01T00:00:00+00:00", host="a CPU, 2 CPUs", onnxruntime="1.20", seed=0, assumptions=()
    )
    return Profile(version=1, conditions=conditions, servers=servers or (server_profile("a"), server_profile("b")))
