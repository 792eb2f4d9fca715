"""The boards that a build can aim at: one row each, and a source for every number."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Literal

from edgekit_runtime.errors import UsageError

__all__ = ["TARGETS", "Target", "get_target"]

_NUMBERS = ("cores", "threads", "clock_ghz", "memory_mib", "bandwidth_gb_s", "int8_macs_per_cycle", "channel_multiple")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a build must know of a board.

    Attributes:
        name: What the user types after ``--target``.
        description: The board in a few words.
        isa: ``aarch64`` or ``x86-64``.
        features: CPU features that int8 kernels use, as Linux names them in lower case.
        cores: All cores, small ones included.
        threads: Inference threads; one per core of the fast cluster.
        clock_ghz: Clock of those cores in GHz; the lowest of the range sold.
        memory_mib: RAM that a model may take, in MiB: half of the smallest version sold.
        bandwidth_gb_s: Memory bandwidth in GB/s (1e9 bytes), copying.
        int8_macs_per_cycle: Attained int8 multiply-adds per cycle and fast core.
        activations: Preferred type of int8 activations in ONNX.
        channel_multiple: Sizes that fill the kernels' tiles are multiples of this.
        engine: What the runtime should use there.
        emulation_cpu: CPU model for qemu-aarch64 with the same instruction set; empty where none is needed.
        sources: Where each number comes from, by field name; an estimate says so.
    """

    name: str
    description: str
    isa: Literal["aarch64", "x86-64"]
    features: tuple[str, ...]
    cores: int
    threads: int
    clock_ghz: float
    memory_mib: int
    bandwidth_gb_s: float
    int8_macs_per_cycle: float
    activations: Literal["uint8", "int8"]
    channel_multiple: int
    engine: Literal["onnxruntime", "litert"]
    emulation_cpu: str
    sources: Mapping[str, str]

    def __post_init__(self) -> None:
        for number in _NUMBERS:
            if not getattr(self, number) > 0:
                raise ValueError(f"{self.name}: {number} must be above 0")
        wanted = {*_NUMBERS, "activations", "engine", *(("emulation_cpu",) if self.emulation_cpu else ())}
        if set(self.sources) != wanted:
            raise ValueError(f"{self.name}: sources must cite exactly {sorted(wanted)}")
        if self.threads > self.cores:
            raise ValueError(f"{self.name}: more threads than cores")

    @property
    def peak_int8_gmacs(self) -> float:
        """Attainable int8 multiply-adds of all threads together, in 1e9 per second."""
        return self.int8_macs_per_cycle * self.clock_ghz * self.threads

    def as_json(self) -> dict[str, object]:
        """Give all fields in JSON-ready form."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "features": list(self.features), "sources": dict(self.sources)}


_ARM_GEMM = "Arm ComputeLibrary, arm_gemm get_performance_parameters"
_SBC_BENCH = "sbc-bench result, memcpy"
_HALF = "half of the smallest version sold"
_QEMU_7 = "qemu-user 7.2 -cpu list"
_QEMU_10 = "qemu-user 10.0 -cpu list"

# Both types stand on one grid and answer alike; only the kernels differ. On x86 with VNNI the int8 kernels of ONNX
# Runtime are slower than its float ones. ARM takes either type, so the type that x86 needs lets one file serve both.
_U8_ARM = (
    "measured under emulation: MiniLM takes 211.0 M instructions with uint8, 210.7 M with int8 (Cortex-A53; A76: 106.4"
    " and 105.8), so the type that x86 needs; benchmarks/results/activations.json"
)
_U8_X86 = (
    "measured: MiniLM is 2.5x as fast as float32 with uint8 and slower than it (0.71x) with int8, AVX512-VNNI;"
    " benchmarks/results/activations.json"
)
# LiteRT needs 49 M instructions for MobileNetV2 where ONNX Runtime needs 60 M (Cortex-A76), 114 M against 129 M (A53);
# for a transformer the order is the other way round on both. The smaller engine wins the tie.
_LITERT = "measured under emulation: fewer instructions for MobileNetV2 than ONNX Runtime 1.31, more for a transformer"
_TILE_8 = "estimate: NEON int8 tiles without dot products are 8 wide"
_TILE_16 = "estimate: int8 dot-product tiles are 8, 12 or 16 wide"

_ROWS = (
    Target(
        name="rpi-zero2w",
        description="Raspberry Pi Zero 2 W: 4x Cortex-A53",
        isa="aarch64",
        features=("asimd",),
        cores=4,
        threads=4,
        clock_ghz=1.0,
        memory_mib=256,
        bandwidth_gb_s=1.3,
        int8_macs_per_cycle=2.1,
        activations="uint8",
        channel_multiple=8,
        engine="litert",
        emulation_cpu="cortex-a53",
        sources=MappingProxyType(
            {
                "cores": "Raspberry Pi product page",
                "threads": "one per core",
                "clock_ghz": "Raspberry Pi product page",
                "memory_mib": f"{_HALF} (512 MB)",
                "bandwidth_gb_s": _SBC_BENCH,
                "int8_macs_per_cycle": "estimate: whole-net rate of ResNet-50, 497 ms on 4 threads (ncnn benchmark)",
                "activations": _U8_ARM,
                "channel_multiple": _TILE_8,
                "engine": _LITERT,
                "emulation_cpu": _QEMU_7,
            }
        ),
    ),
    Target(
        name="rpi3",
        description="Raspberry Pi 3 B+: 4x Cortex-A53",
        isa="aarch64",
        features=("asimd",),
        cores=4,
        threads=4,
        clock_ghz=1.4,
        memory_mib=512,
        bandwidth_gb_s=1.1,
        int8_macs_per_cycle=2.2,
        activations="uint8",
        channel_multiple=8,
        engine="litert",
        emulation_cpu="cortex-a53",
        sources=MappingProxyType(
            {
                "cores": "Raspberry Pi product page",
                "threads": "one per core",
                "clock_ghz": "Raspberry Pi product page",
                "memory_mib": f"{_HALF} (1 GB)",
                "bandwidth_gb_s": _SBC_BENCH,
                "int8_macs_per_cycle": "estimate: whole-net rate of MobileNetV1, 46 ms on 4 threads (XNNPACK README)",
                "activations": _U8_ARM,
                "channel_multiple": _TILE_8,
                "engine": _LITERT,
                "emulation_cpu": _QEMU_7,
            }
        ),
    ),
    Target(
        name="rpi4",
        description="Raspberry Pi 4 B: 4x Cortex-A72",
        isa="aarch64",
        features=("asimd",),
        cores=4,
        threads=4,
        clock_ghz=1.5,
        memory_mib=512,
        bandwidth_gb_s=2.3,
        int8_macs_per_cycle=7.97,
        activations="uint8",
        channel_multiple=8,
        engine="litert",
        emulation_cpu="cortex-a72",
        sources=MappingProxyType(
            {
                "cores": "Raspberry Pi product page",
                "threads": "one per core",
                "clock_ghz": "Raspberry Pi product page; 1.8 on later boards",
                "memory_mib": f"{_HALF} (1 GB)",
                "bandwidth_gb_s": _SBC_BENCH,
                "int8_macs_per_cycle": f"{_ARM_GEMM}, s8 4x4; whole nets reach about half (3.95)",
                "activations": _U8_ARM,
                "channel_multiple": _TILE_8,
                "engine": _LITERT,
                "emulation_cpu": _QEMU_7,
            }
        ),
    ),
    Target(
        name="rpi5",
        description="Raspberry Pi 5: 4x Cortex-A76",
        isa="aarch64",
        features=("asimd", "asimddp", "asimdhp"),
        cores=4,
        threads=4,
        clock_ghz=2.4,
        memory_mib=1024,
        bandwidth_gb_s=5.3,
        int8_macs_per_cycle=29.07,
        activations="uint8",
        channel_multiple=16,
        engine="litert",
        emulation_cpu="cortex-a76",
        sources=MappingProxyType(
            {
                "cores": "Raspberry Pi product page",
                "threads": "one per core",
                "clock_ghz": "Raspberry Pi product page",
                "memory_mib": f"{_HALF} (2 GB)",
                "bandwidth_gb_s": _SBC_BENCH,
                "int8_macs_per_cycle": f"{_ARM_GEMM}, SDOT 8x12 default",
                "activations": _U8_ARM,
                "channel_multiple": _TILE_16,
                "engine": _LITERT,
                "emulation_cpu": _QEMU_7,
            }
        ),
    ),
    Target(
        name="android-arm64",
        description="Mid-range Android phone: 2x Cortex-A78 or more, 4x Cortex-A55",
        isa="aarch64",
        features=("asimd", "asimddp", "asimdhp"),
        cores=6,
        threads=2,
        clock_ghz=2.2,
        memory_mib=2048,
        bandwidth_gb_s=14.0,
        int8_macs_per_cycle=29.07,
        activations="uint8",
        channel_multiple=16,
        engine="litert",
        emulation_cpu="cortex-a76",
        sources=MappingProxyType(
            {
                "cores": "estimate: the smallest of the usual layouts, 2 + 4",
                "threads": "one per Cortex-A78",
                "clock_ghz": "estimate: the lowest of 2.2 to 2.4",
                "memory_mib": f"estimate: {_HALF} (4 GB)",
                "bandwidth_gb_s": "estimate: the lowest of 14 to 25",
                "int8_macs_per_cycle": f"{_ARM_GEMM}, SDOT 8x12 default; a Cortex-A55 reaches 15.36",
                "activations": _U8_ARM,
                "channel_multiple": _TILE_16,
                "engine": _LITERT,
                "emulation_cpu": f"{_QEMU_7}; the nearest model with dot products, there is no Cortex-A78",
            }
        ),
    ),
    Target(
        name="android-flagship",
        description="Flagship Android phone: 1x Cortex-X4 class, 3x big, 4x small",
        isa="aarch64",
        features=("asimd", "asimddp", "asimdhp", "i8mm"),
        cores=8,
        threads=4,
        clock_ghz=3.2,
        memory_mib=4096,
        bandwidth_gb_s=77.0,
        int8_macs_per_cycle=62.6,
        activations="uint8",
        channel_multiple=16,
        engine="litert",
        emulation_cpu="cortex-a710",
        sources=MappingProxyType(
            {
                "cores": "estimate: the usual layout, 1 + 3 + 4",
                "threads": "estimate: the prime core and three big ones",
                "clock_ghz": "estimate: the lowest of 3.2 to 4.4, prime core",
                "memory_mib": f"{_HALF} (8 GB)",
                "bandwidth_gb_s": "data sheet peak of LPDDR5X, not read again; copying reaches less",
                "int8_macs_per_cycle": f"{_ARM_GEMM}, SMMLA 8x12 default (Cortex-A710); an X-class core reaches 117",
                "activations": _U8_ARM,
                "channel_multiple": _TILE_16,
                "engine": _LITERT,
                "emulation_cpu": _QEMU_10,
            }
        ),
    ),
    Target(
        name="rk3588",
        description="Rockchip RK3588 (CPU only): 4x Cortex-A76, 4x Cortex-A55",
        isa="aarch64",
        features=("asimd", "asimddp", "asimdhp"),
        cores=8,
        threads=4,
        clock_ghz=2.26,
        memory_mib=2048,
        bandwidth_gb_s=10.8,
        int8_macs_per_cycle=29.07,
        activations="uint8",
        channel_multiple=16,
        engine="litert",
        emulation_cpu="cortex-a76",
        sources=MappingProxyType(
            {
                "cores": "RK3588 data sheet",
                "threads": "one per Cortex-A76",
                "clock_ghz": "sbc-bench results: 2.26 to 2.4",
                "memory_mib": f"{_HALF} (4 GB)",
                "bandwidth_gb_s": _SBC_BENCH,
                "int8_macs_per_cycle": f"{_ARM_GEMM}, SDOT 8x12 default",
                "activations": _U8_ARM,
                "channel_multiple": _TILE_16,
                "engine": _LITERT,
                "emulation_cpu": _QEMU_7,
            }
        ),
    ),
    Target(
        name="jetson-orin-nano-cpu",
        description="NVIDIA Jetson Orin Nano (CPU only): 6x Cortex-A78AE",
        isa="aarch64",
        features=("asimd", "asimddp", "asimdhp"),
        cores=6,
        threads=6,
        clock_ghz=1.51,
        memory_mib=4096,
        bandwidth_gb_s=6.7,
        int8_macs_per_cycle=29.07,
        activations="uint8",
        channel_multiple=16,
        engine="litert",
        emulation_cpu="cortex-a76",
        sources=MappingProxyType(
            {
                "cores": "Jetson Orin Nano data sheet",
                "threads": "one per core",
                "clock_ghz": "sbc-bench result; 1.7 in Super mode",
                "memory_mib": "half of the 8 GB version",
                "bandwidth_gb_s": _SBC_BENCH,
                "int8_macs_per_cycle": f"{_ARM_GEMM}, SDOT 8x12 default",
                "activations": _U8_ARM,
                "channel_multiple": _TILE_16,
                "engine": _LITERT,
                "emulation_cpu": f"{_QEMU_7}; the nearest model with dot products, there is no Cortex-A78",
            }
        ),
    ),
    Target(
        name="x86-64",
        description="PC or server with AVX-512 VNNI",
        isa="x86-64",
        features=("avx2", "avx512_vnni"),
        cores=2,
        threads=2,
        clock_ghz=2.3,
        memory_mib=4096,
        bandwidth_gb_s=11.2,
        int8_macs_per_cycle=128.0,
        activations="uint8",
        channel_multiple=16,
        engine="onnxruntime",
        emulation_cpu="",
        sources=MappingProxyType(
            {
                "cores": "estimate: a small cloud machine",
                "threads": "one per core",
                "clock_ghz": "base clock of the Xeon that the figures were measured on",
                "memory_mib": f"estimate: {_HALF} (8 GB)",
                "bandwidth_gb_s": "measured on that Xeon, copying, one core",
                "int8_macs_per_cycle": "estimate: VPDPBUSD, 64 per instruction, two a cycle",
                "activations": _U8_X86,
                "channel_multiple": "16 int32 lanes in a 512-bit register",
                "engine": "measured: static int8 of a transformer is 1.7x fp32 in ONNX Runtime, 0.6x in LiteRT",
            }
        ),
    ),
)
TARGETS: Mapping[str, Target] = MappingProxyType({row.name: row for row in _ROWS})


def get_target(name: str) -> Target:
    """Give the row of a target.

    Raises:
        UsageError: There is none of that name.
    """
    try:
        return TARGETS[name]
    except KeyError:
        near = difflib.get_close_matches(name, TARGETS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError("E0120", f"no target '{name}'{hint}", fix=f"known: {', '.join(TARGETS)}") from None
