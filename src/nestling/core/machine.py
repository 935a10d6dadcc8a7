"""Fingerprint of the machine: what the bits of a result depend on besides the seed."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def fingerprint() -> dict[str, str | int]:
    """Describe the machine as far as it changes the bits or the speed of a result.

    The same script gives other bits with another number of threads or another
    instruction set, so every result is kept with this.

    Returns: JSON-ready names and values.

    >>> sorted(fingerprint())[:3]
    ['cpu', 'cpu_capability', 'cuda']
    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": _read_cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "num_cores": os.cpu_count() or 0,
        "num_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda or "none",
        "system": f"{platform.system()} {platform.machine()}",
        "mkl_cbwr": os.environ.get("MKL_CBWR", ""),
    }


@contextmanager
def use_threads(num_threads: int) -> Iterator[None]:
    """Compute with this many threads for a block of code.

    Args:
        num_threads: torch's threads within an operation, at least 1.

    >>> with use_threads(1):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read_cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
