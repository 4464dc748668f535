"""Machines, by the nominal figures that their vendors publish, rounded.

What GPUs reach follows from their memory. ONNX Runtime's CUDA provider uses TF32 unless it is told otherwise (use_tf32
is 1 in onnxruntime/core/providers/cuda/cuda_provider_options.h), which GPUs from Ampere on have in their tensor cores;
older ones compute in FP32. Either is more than memory can feed: what NVIDIA has published of ResNet-50 v1.5 in batches
of 32 is 10.3 to 10.9 operations for each byte a second of the card's memory, on T4 and V100 in FP32 and on A100 in
TF32 alike, and a 2080 Ti trains at such a part of a V100's speed. Those figures are ``FIGURES``; a test holds the
profiles against them. So other GPUs are taken to reach as much, by their memory, up to a part of their peak. L4, A10,
H100 and the Jetsons are held against nothing: nobody is known to publish the same of them. Large caches, as L4 and H100
have, may make them quicker than that.

Peaks are dense, of TF32 where there is any, else of FP32 without tensor cores. Of CPUs it is cores × base clock × FP32
operations a cycle (32 with AVX2's two fused multiply-adds). Power is the board's or package's limit, and of a Jetson
the whole module's. What machines idle at, and what the host around a board or package draws, is not published and is
assumed: for a card its part of a server with several, for a package its memory, board and fans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

FLOPS_A_BYTE: Final = 10.7
"""Operations that a ResNet-50 in batches does for each byte that memory moves, two a multiply-add; see above."""
COMPUTE_RATIO: Final = 0.7
"""Of a GPU's peak, that it reaches at the most."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What somebody has published of a machine.

    Attributes:
        device: name of its class.
        items: of a batch.
        items_a_second: of ResNet-50, for inference.
        source: where it is.
    """

    device: str
    items: int
    items_a_second: float
    source: str


_EXAMPLES: Final = "github.com/NVIDIA/DeepLearningExamples, TensorFlow/Classification/ConvNets/resnet50v1.5/README.md"
FIGURES: Final = (
    Figure("t4", 32, 414.66, f"{_EXAMPLES}, T4, FP32"),
    Figure("v100", 32, 1195.74, f"{_EXAMPLES}, DGX-2, one V100 with 32 GB, FP32"),
    Figure("a100", 32, 1945.44, f"{_EXAMPLES}, DGX A100, one A100 with 40 GB, TF32 with XLA"),
    Figure("rtx-2080-ti", 32, 1195.74 * 294 / 405, "V100's, by what both train: lambdalabs.com/blog/2080-ti-deep-"
           "learning-benchmarks, ResNet-50 in FP32, 294 and 405 images a second"),
)  # fmt: skip
"""As they were published in 2019 and 2020. A network of a compiler that joins layers is nearer to ONNX Runtime's, so
of A100 the figure with XLA is taken; T4 and V100 have none in FP32."""


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """A kind of machine.

    Attributes:
        name: of its profile and of the server in it.
        device: what instances run on.
        description: as its vendor calls it.
        number_format: that it computes in.
        peak_flops: operations a second in that, nominal.
        memory_bytes_s: bytes a second that its memory moves, nominal; None for CPUs, whose caches hold much.
        memory_gib: of the device, or of the host that a CPU is taken to have.
        power_limit_w: of the board or package.
        launch_s: least time of a pass over the network: what its kernels take to start.
        width_exponent: computing time goes with the width to this power; below 2 because narrow layers use a machine
            worse.
        compute_ratio: of the peak that is reached at the most.
        idle_ratio: of the power limit, with models resident.
        host_idle_w: that the host draws for it, beside board or package.
        host_busy_w: that it draws in addition while a batch is under way.
        noise_ratio: standard deviation of a latency over its mean.
    """

    name: str
    device: Literal["cpu", "gpu"]
    description: str
    number_format: Literal["FP32", "TF32"]
    peak_flops: float
    memory_bytes_s: float | None
    memory_gib: float
    power_limit_w: float
    launch_s: float
    width_exponent: float
    compute_ratio: float
    idle_ratio: float
    host_idle_w: float
    host_busy_w: float
    noise_ratio: float

    @property
    def reached_flops(self) -> float:
        """Operations a second that it reaches at full width in large batches."""
        computed = self.compute_ratio * self.peak_flops
        return computed if self.memory_bytes_s is None else min(computed, FLOPS_A_BYTE * self.memory_bytes_s)


def _card(
    name: str,
    description: str,
    number_format: Literal["FP32", "TF32"],
    *,
    tflops: float,
    memory_gb_s: float,
    memory_gib: float,
    power_limit_w: float,
) -> DeviceClass:
    """Return a GPU in a server: some 120 kernels of 6 µs."""
    return DeviceClass(
        name=name,
        device="gpu",
        description=description,
        number_format=number_format,
        peak_flops=tflops * 1e12,
        memory_bytes_s=memory_gb_s * 1e9,
        memory_gib=memory_gib,
        power_limit_w=power_limit_w,
        launch_s=0.0007,
        width_exponent=1.5,
        compute_ratio=COMPUTE_RATIO,
        idle_ratio=0.15,
        host_idle_w=50,
        host_busy_w=30,
        noise_ratio=0.03,
    )


def _module(card: DeviceClass) -> DeviceClass:
    """Return a module for the edge: a slow CPU, whose watts are within the limit, starts its kernels, 20 µs each."""
    return replace(card, launch_s=0.0024, noise_ratio=0.05, host_idle_w=0, host_busy_w=0)


def _processor(
    name: str,
    description: str,
    *,
    cores: int,
    clock_ghz: float,
    flops_a_cycle: int,
    memory_gib: float,
    power_limit_w: float,
    host_idle_w: float,
    host_busy_w: float,
) -> DeviceClass:
    """Return a CPU: little to start, and widths that save nearly what they leave out."""
    return DeviceClass(
        name=name,
        device="cpu",
        description=description,
        number_format="FP32",
        peak_flops=cores * clock_ghz * 1e9 * flops_a_cycle,
        memory_bytes_s=None,
        memory_gib=memory_gib,
        power_limit_w=power_limit_w,
        launch_s=0.0004,
        width_exponent=1.8,
        compute_ratio=0.5,
        idle_ratio=0.35,
        host_idle_w=host_idle_w,
        host_busy_w=host_busy_w,
        noise_ratio=0.08,
    )


DEVICES = (
    _card("t4", "NVIDIA T4", "FP32", tflops=8.1, memory_gb_s=320, memory_gib=16, power_limit_w=70),
    _card(
        "rtx-2080-ti",
        "NVIDIA GeForce RTX 2080 Ti",
        "FP32",
        tflops=13.4,
        memory_gb_s=616,
        memory_gib=11,
        power_limit_w=250,
    ),
    _card("a10", "NVIDIA A10", "TF32", tflops=62.5, memory_gb_s=600, memory_gib=24, power_limit_w=150),
    _card("a100", "NVIDIA A100 SXM4 40 GB", "TF32", tflops=156, memory_gb_s=1555, memory_gib=40, power_limit_w=400),
    _card("h100", "NVIDIA H100 PCIe", "TF32", tflops=378, memory_gb_s=2000, memory_gib=80, power_limit_w=350),
    _module(
        _card(
            "jetson-agx-orin",
            "NVIDIA Jetson AGX Orin 64 GB",
            "FP32",
            tflops=5.3,
            memory_gb_s=205,
            memory_gib=64,
            power_limit_w=60,
        )
    ),
    _processor(
        "cpu-16-cores",
        "AMD EPYC 7313, 16 cores",
        cores=16,
        clock_ghz=3.0,
        flops_a_cycle=32,
        memory_gib=128,
        power_limit_w=155,
        host_idle_w=40,
        host_busy_w=20,
    ),
    _processor(
        "cpu-edge",
        "a CPU for the edge, 4 cores with one 256-bit unit",
        cores=4,
        clock_ghz=2.0,
        flops_a_cycle=16,
        memory_gib=16,
        power_limit_w=15,
        host_idle_w=5,
        host_busy_w=2,
    ),
    _card("l4", "NVIDIA L4", "TF32", tflops=60, memory_gb_s=300, memory_gib=24, power_limit_w=72),
    _card("v100", "NVIDIA V100 SXM2 32 GB", "FP32", tflops=15.7, memory_gb_s=900, memory_gib=32, power_limit_w=300),
    _module(
        _card(
            "jetson-xavier-nx",
            "NVIDIA Jetson Xavier NX",
            "FP32",
            tflops=0.85,
            memory_gb_s=59.7,
            memory_gib=8,
            power_limit_w=15,
        )
    ),
    _processor(
        "cpu-64-cores",
        "AMD EPYC 7763, 64 cores",
        cores=64,
        clock_ghz=2.45,
        flops_a_cycle=32,
        memory_gib=256,
        power_limit_w=280,
        host_idle_w=70,
        host_busy_w=30,
    ),
)
