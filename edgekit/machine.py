"""Which machine measured: CPU times hold for it alone."""

import platform
from pathlib import Path

__all__ = ["machine"]


def machine() -> str:
    """Give the name of this machine's CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return f"{names[0] if names else platform.processor() or 'unknown CPU'}, {platform.machine()}"
