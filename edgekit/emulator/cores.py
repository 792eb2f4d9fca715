"""The processors that can be emulated, and what Linux says of each in ``/proc/cpuinfo``.

Engines choose their kernels by the features of the processor, and one of them crashes where that file shows no ARM
processor, so a core and its file go together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from edgekit_runtime.errors import UsageError

__all__ = ["CORES", "Core", "get_core"]

Arch = Literal["aarch64", "armv7"]

_PROCESSORS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """One core.

    Attributes:
        name: What the user types after ``arm:`` or ``armv7:``; the emulator knows it by the same name.
        arch: Guest that runs on it.
        part: Number of the design in the main identification register (MIDR).
        variant: Major revision, likewise.
        revision: Minor revision, likewise.
        features: As the kernel lists them.
        model_name: As a 32-bit kernel writes it; a 64-bit one writes none.
        engines: That the guest has, by the runtime whose models they run.
    """

    name: str
    arch: Arch
    part: int
    variant: int
    revision: int
    features: str
    model_name: str = ""
    engines: Mapping[str, str]

    @property
    def place(self) -> str:
        """What names the core in a lane: ``arm:cortex-a72``."""
        return f"{'arm' if self.arch == 'aarch64' else 'armv7'}:{self.name}"

    def cpuinfo(self) -> str:
        """Give the content of ``/proc/cpuinfo``."""
        name = [f"model name\t: {self.model_name}"] if self.model_name else []
        known = [
            f"Features\t: {self.features}",
            "CPU implementer\t: 0x41",
            f"CPU architecture: {8 if self.arch == 'aarch64' else 7}",
            f"CPU variant\t: 0x{self.variant:x}",
            f"CPU part\t: 0x{self.part:03x}",
            f"CPU revision\t: {self.revision}",
        ]
        blocks = ([f"processor\t: {place}", *name, "BogoMIPS\t: 108.00", *known, ""] for place in range(_PROCESSORS))
        return "\n".join(line for block in blocks for line in block) + "\n"


_AARCH64 = MappingProxyType({"onnxruntime": "onnxruntime", "litert": "litert"})
# No wheel of ONNX Runtime, LiteRT or numpy is made for 32-bit ARM; numpy comes from Debian.
_ARMV7 = MappingProxyType({"litert": "tflite-runtime"})

_ROWS = (
    # Cortex-A53 r0p4 as in a Raspberry Pi 3 (BCM2837), which leaves out the cryptography extension.
    Core(
        name="cortex-a53",
        arch="aarch64",
        part=0xD03,
        variant=0,
        revision=4,
        features="fp asimd evtstrm crc32 cpuid",
        engines=_AARCH64,
    ),
    # Cortex-A72 r0p3 as in a Raspberry Pi 4 (BCM2711), without cryptography too.
    Core(
        name="cortex-a72",
        arch="aarch64",
        part=0xD08,
        variant=0,
        revision=3,
        features="fp asimd evtstrm crc32 cpuid",
        engines=_AARCH64,
    ),
    # Cortex-A76 r4p1 as in a Raspberry Pi 5 (BCM2712); asimddp is the integer dot product.
    Core(
        name="cortex-a76",
        arch="aarch64",
        part=0xD0B,
        variant=4,
        revision=1,
        features="fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
        engines=_AARCH64,
    ),
    # Cortex-A7 r0p5 as in a Raspberry Pi 2 (BCM2836).
    Core(
        name="cortex-a7",
        arch="armv7",
        part=0xC07,
        variant=0,
        revision=5,
        features="half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm",
        model_name="ARMv7 Processor rev 5 (v7l)",
        engines=_ARMV7,
    ),
)
CORES: Mapping[str, Core] = MappingProxyType({row.place: row for row in _ROWS})


def get_core(place: str) -> Core:
    """Look up a core by ``arm:NAME`` or ``armv7:NAME``.

    Raises:
        UsageError: There is none (E0160).
    """
    try:
        return CORES[place]
    except KeyError:
        raise UsageError(
            "E0160",
            f"no emulated core {place!r}",
            why=f"known: {', '.join(CORES)}",
            fix="name one of them, or one of its models, for example arm:cortex-a72/tflite-int8",
        ) from None
