# SPDX-License-Identifier: GPL-2.0-only
"""Looks for memory that the other cases have leaked; runs after all of them."""

import kernel
from case import Case, case_with
from fence import CaseFailed


@case_with("CONFIG_DEBUG_KMEMLEAK")
def nothing_is_leaked(case: Case) -> None:
    """kmemleak finds no unreferenced memory among all allocations since the kernel booted."""
    if leaks := kernel.leaks():
        raise CaseFailed(f"{len(leaks)} leaks, the first of them at {leaks[0]}")
