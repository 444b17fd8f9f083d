# SPDX-License-Identifier: GPL-2.0-only
"""The guest in which a module is benchmarked."""

import subprocess
from pathlib import Path

BENCH = Path(__file__).resolve().parent
TOP = BENCH.parents[1]
LAB = TOP / "scripts" / "lab"

# A hundred thousand requests and as many floors need much memory and a large log.
MEGABYTES = 2048
KERNEL_ARGUMENTS = "log_buf_len=16M nokaslr"
SECONDS = 1800


def boot(
    kernel: str, module: Path, log: Path, options: tuple[str, ...], program: str, *arguments: str
) -> subprocess.Popen[str]:
    """Boots the guest to run a program of this folder, with the module's name as first argument."""
    additions = {
        BENCH / "guest.py": "/bench/guest.py",
        BENCH / "profile_guest.py": "/bench/profile_guest.py",
        BENCH / "fence_bench.ko": "/bench/fence_bench.ko",
        BENCH.parent / "vm" / "kernel.py": "/bench/kernel.py",
        module: f"/bench/{module.name}",
    }
    return subprocess.Popen(
        [
            LAB / "vm",
            *options,
            *("--kernel", kernel, "--memory", str(MEGABYTES)),
            *("--timeout", str(SECONDS), "--log", log, "--append", KERNEL_ARGUMENTS),
            *(f"--add={source}:{target}" for source, target in additions.items()),
            *("--", "env", "FENCE_TEST_MODULES=/bench"),
            *("python3", f"/bench/{program}", module.stem, *arguments),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
