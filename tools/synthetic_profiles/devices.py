"""Machines, by the nominal figures that their vendors publish, rounded.

FP32 without tensor cores, because ONNX Runtime computes so unless it is set otherwise. Of CPUs it is cores × base
clock × FP32 operations a cycle (32 with AVX2's two fused multiply-adds). Power is the board's or package's limit. What
machines idle at is not published and is assumed, see ``generator``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """A kind of machine.

    Attributes:
        name: of its profile and of the server in it.
        device: what instances run on.
        description: as its vendor calls it.
        peak_flops: FP32 operations a second, nominal.
        memory_gib: of the device, or of the host that a CPU is taken to have.
        power_limit_w: of the board or package.
        launch_s: least time of a pass over the network: what its kernels take to start.
        width_exponent: computing time goes with the width to this power; below 2 because narrow layers use a machine
            worse.
        efficiency_ratio: of the peak at full width in large batches.
        idle_ratio: of the power limit, with models resident.
        noise_ratio: standard deviation of a latency over its mean.
    """

    name: str
    device: Literal["cpu", "gpu"]
    description: str
    peak_flops: float
    memory_gib: float
    power_limit_w: float
    launch_s: float
    width_exponent: float
    efficiency_ratio: float
    idle_ratio: float
    noise_ratio: float


def _card(name: str, description: str, tflops: float, memory_gib: float, power_limit_w: float) -> DeviceClass:
    """Return a GPU in a server: some 120 kernels of 6 µs."""
    return DeviceClass(
        name=name,
        device="gpu",
        description=description,
        peak_flops=tflops * 1e12,
        memory_gib=memory_gib,
        power_limit_w=power_limit_w,
        launch_s=0.0007,
        width_exponent=1.5,
        efficiency_ratio=0.4,
        idle_ratio=0.15,
        noise_ratio=0.03,
    )


def _module(name: str, description: str, tflops: float, memory_gib: float, power_limit_w: float) -> DeviceClass:
    """Return a module for the edge: a slow CPU starts its kernels, 20 µs each."""
    card = _card(name, description, tflops, memory_gib, power_limit_w)
    return replace(card, launch_s=0.0024, noise_ratio=0.05)


def _processor(
    name: str,
    description: str,
    *,
    cores: int,
    clock_ghz: float,
    flops_a_cycle: int,
    memory_gib: float,
    power_limit_w: float,
) -> DeviceClass:
    """Return a CPU: little to start, and widths that save nearly what they leave out."""
    return DeviceClass(
        name=name,
        device="cpu",
        description=description,
        peak_flops=cores * clock_ghz * 1e9 * flops_a_cycle,
        memory_gib=memory_gib,
        power_limit_w=power_limit_w,
        launch_s=0.0004,
        width_exponent=1.8,
        efficiency_ratio=0.5,
        idle_ratio=0.35,
        noise_ratio=0.08,
    )


DEVICES = (
    _card("t4", "NVIDIA T4", 8.1, 16, 70),
    _card("rtx-2080-ti", "NVIDIA GeForce RTX 2080 Ti", 13.4, 11, 250),
    _card("a10", "NVIDIA A10", 31.2, 24, 150),
    _card("a100", "NVIDIA A100 SXM4 40 GB", 19.5, 40, 400),
    _card("h100", "NVIDIA H100 PCIe", 51.2, 80, 350),
    _module("jetson-agx-orin", "NVIDIA Jetson AGX Orin 64 GB", 5.3, 64, 60),
    _processor(
        "cpu-16-cores",
        "AMD EPYC 7313, 16 cores",
        cores=16,
        clock_ghz=3.0,
        flops_a_cycle=32,
        memory_gib=128,
        power_limit_w=155,
    ),
    _processor(
        "cpu-edge",
        "a CPU for the edge, 4 cores with one 256-bit unit",
        cores=4,
        clock_ghz=2.0,
        flops_a_cycle=16,
        memory_gib=16,
        power_limit_w=15,
    ),
    _card("l4", "NVIDIA L4", 30.3, 24, 72),
    _card("v100", "NVIDIA V100 SXM2 32 GB", 15.7, 32, 300),
    _module("jetson-xavier-nx", "NVIDIA Jetson Xavier NX", 0.85, 8, 15),
    _processor(
        "cpu-64-cores",
        "AMD EPYC 7763, 64 cores",
        cores=64,
        clock_ghz=2.45,
        flops_a_cycle=32,
        memory_gib=256,
        power_limit_w=280,
    ),
)
