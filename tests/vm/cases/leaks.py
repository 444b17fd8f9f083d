# SPDX-License-Identifier: GPL-2.0-only
"""What the other cases have left in the kernel's memory; runs after all of them."""

import kernel
from case import Case, case_with
from fence import CaseFailed


@case_with("CONFIG_DEBUG_KMEMLEAK")
def nothing_is_leaked(case: Case) -> None:
    """No memory that was allocated since the kernel booted is left without a pointer to it."""
    if leaks := kernel.leaks():
        raise CaseFailed(f"{len(leaks)} leaks, the first of them at {leaks[0]}")
