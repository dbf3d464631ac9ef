# SPDX-License-Identifier: MIT
"""What benchmarks say about the machine that they ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.machine()


def foreign_seconds() -> float:
    """Processor time that other processes have used since the machine started."""
    user, nice, system, _, _, irq, softirq = Path("/proc/stat").read_text().split()[1:8]
    all_ticks = sum(map(int, (user, nice, system, irq, softirq)))
    return all_ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])
