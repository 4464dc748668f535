"""The model behind synthetic profiles: deterministic, a few stated assumptions, no claim to be right.

For width w (0..1), batch n, a machine that reaches R operations a second (``devices`` says why), exponent γ and launch
floor L, of a network with F operations an item at full width:

    compute(w, n) = n · F · w^γ / R
    device(w, n)  = (L³ + compute³)^(1/3)            both floors at once: launch-bound below, compute-bound above
    latency(w, n) = REQUEST_S + n · ITEM_BYTES / LINK_BYTES_A_SECOND + device(w, n)
    joules(w, n)  = device · (busy - idle) · (LAUNCH_POWER + (1 - LAUNCH_POWER) · compute / device) + latency · host

So there is a knee where a machine turns from launch-bound to compute-bound, a straight line misses it, and the error of
the line is in the profile as it would be in a measured one: below the knee a narrower width buys hardly any latency,
which is what public measurements of slimmable networks show. The network is the slimmable ResNet-50 whose accuracies
and operations its authors publish (github.com/JiahuiYu/slimmable_networks).

Figures are rounded to six digits so that the files come out the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from orchestrator.profile.document import (
    BatchProfile,
    Conditions,
    EnergySource,
    FittedLine,
    IdlePower,
    ModelChanges,
    ModelProfile,
    Origin,
    Profile,
    ServerProfile,
    Timing,
    batch_ladder,
    render_profile,
)
from orchestrator.profile.fit import fit_latency
from tools.synthetic_profiles.devices import DEVICES, DeviceClass

FAMILY = "resnet50"
WIDTHS: Mapping[int, tuple[float, float]] = {
    25: (0.650, 0.278e9),
    50: (0.721, 1.1e9),
    75: (0.749, 2.3e9),
    100: (0.760, 4.1e9),
}
"""ImageNet top-1 and multiply-adds an item of S-ResNet-50, by width in percent."""
PARAMETERS = 25.6e6
"""At full width; they go with the square of the width."""
MAX_BATCH_SIZE = 32
ITEM_BYTES = 3 * 224 * 224 * 4
LINK_BYTES_A_SECOND = 4e9
"""Over gRPC and the bus, copies included."""
REQUEST_S = 0.0003
LAUNCH_POWER = 0.35
"""Of the power between idle and busy that a device draws while it is launch-bound."""
SESSION_BYTES: Mapping[str, float] = {"gpu": 250 * 2**20, "cpu": 40 * 2**20}
ACTIVATION_BYTES = 30 * 2**20
"""Of an item at full width."""
LOAD_S: Mapping[str, float] = {"gpu": 1.5, "cpu": 0.3}
DISK_BYTES_A_SECOND = 1e9
UNLOAD_S = 0.2
SCALE_DOWN_S = 0.05
Z_99 = 2.3263
DATE = "2026-01-01T00:00:00+00:00"


def render_files() -> dict[str, str]:
    """Return the text of every synthetic profile by its path below ``profiles/synthetic``."""
    return {f"{device.name}.json": render_profile(synthetic_profile(device)) for device in DEVICES}


def synthetic_profile(device: DeviceClass) -> Profile:
    """Return the profile of one server of this kind with every width of the family."""
    idle_w = device.idle_ratio * device.power_limit_w
    idle = IdlePower(_round(idle_w + device.host_idle_w), EnergySource.ESTIMATED, "")
    server = ServerProfile(
        name=device.name,
        device=device.device,
        description=device.description,
        origin=Origin.SYNTHETIC,
        slowdown=None,
        triton_version=None,
        memory_bytes=round(device.memory_gib * 2**30),
        idle=idle,
        models=tuple(_model(device, width, idle_w) for width in WIDTHS),
    )
    conditions = Conditions(DATE, "none: computed", None, 0, _assumptions(device))
    return Profile(version=1, conditions=conditions, servers=(server,))


def _model(device: DeviceClass, width: int, idle_w: float) -> ModelProfile:
    accuracy, multiply_adds = WIDTHS[width]
    batches = tuple(_batch(device, width / 100, items, idle_w) for items in batch_ladder(MAX_BATCH_SIZE))
    line = fit_latency([(batch.items, batch.mean_s) for batch in batches])
    assert line.held_out_error_ratio is not None  # the ladder is longer than two
    return ModelProfile(
        name=f"{FAMILY}_w{width:03d}",
        family=FAMILY,
        width=width,
        accuracy=accuracy,
        flops=round(2 * multiply_adds),
        max_batch_size=MAX_BATCH_SIZE,
        instances=1,
        sha256=None,
        line=FittedLine(
            _round(line.per_item_s), _round(line.fixed_s), line.held_out, _round(line.held_out_error_ratio)
        ),
        changes=_changes(device, width / 100),
        batches=batches,
    )


def _batch(device: DeviceClass, width: float, items: int, idle_w: float) -> BatchProfile:
    compute_s, device_s = device_times_s(device, width, items)
    mean_s = REQUEST_S + items * ITEM_BYTES / LINK_BYTES_A_SECOND + device_s
    power_w = (device.power_limit_w - idle_w) * (LAUNCH_POWER + (1 - LAUNCH_POWER) * compute_s / device_s)
    # Latencies are taken to be log-normal.
    spread = math.sqrt(math.log1p(device.noise_ratio**2))
    median_s = mean_s * math.exp(-(spread**2) / 2)
    return BatchProfile(
        items=items,
        n=0,
        mean_s=_round(mean_s),
        std_s=_round(device.noise_ratio * mean_s),
        p50_s=_round(median_s),
        p99_s=_round(median_s * math.exp(Z_99 * spread)),
        energy_j=_round(device_s * power_w + mean_s * device.host_busy_w),
        energy_source=EnergySource.ESTIMATED,
        energy_reason="",
    )


def device_times_s(device: DeviceClass, width: float, items: int) -> tuple[float, float]:
    """Return how long a batch computes, and how long it has the device, seconds; ``width`` is a ratio."""
    compute_s = items * 2 * WIDTHS[100][1] * width**device.width_exponent / device.reached_flops
    return compute_s, (device.launch_s**3 + compute_s**3) ** (1 / 3)


def _changes(device: DeviceClass, width: float) -> ModelChanges:
    weights_bytes = 4 * PARAMETERS * width**2
    load_s = LOAD_S[device.device] + weights_bytes / DISK_BYTES_A_SECOND
    instance_bytes = SESSION_BYTES[device.device] + weights_bytes + MAX_BATCH_SIZE * ACTIVATION_BYTES * width
    load = _timing(load_s)
    return ModelChanges(
        load=load,
        unload=_timing(UNLOAD_S),
        reload=load,
        scale_up=load,
        scale_down=_timing(SCALE_DOWN_S),
        instance_bytes=round(instance_bytes),
        memory_source="computed",
        memory_reason="",
    )


def _timing(duration_s: float) -> Timing:
    return Timing(0, _round(duration_s), _round(duration_s))


def _assumptions(device: DeviceClass) -> tuple[str, ...]:
    return (
        f"{device.description}: {device.peak_flops / 1e12:g} TFLOPS {device.number_format}, {device.memory_gib:g} GiB, "
        f"{device.power_limit_w:g} W by its vendor's figures; {device.reached_flops / 1e12:.3g} TFLOPS are reached",
        f"a pass takes at least {device.launch_s * 1e3:g} ms; computing goes with width^{device.width_exponent:g}",
        f"idle power is {device.idle_ratio:.0%} of the limit; busy power is the limit when compute-bound and "
        f"{LAUNCH_POWER:.0%} of the way there when launch-bound; the host draws {device.host_idle_w:g} W for it, and "
        f"{device.host_busy_w:g} W more while a batch is under way",
        f"a request takes {REQUEST_S * 1e3:g} ms and {LINK_BYTES_A_SECOND / 1e9:g} GB/s; latencies are log-normal with "
        f"a standard deviation of {device.noise_ratio:.0%}",
        "the network is S-ResNet-50; accuracies and operations are those that its authors publish",
    )


def _round(value: float) -> float:
    return float(f"{value:.6g}")
