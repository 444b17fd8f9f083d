# SPDX-License-Identifier: GPL-2.0-only
"""A caller that only knows the eight original functions."""

import threading
from pathlib import Path

import kernel
from case import Case, case
from fence import Request, Stopwatch, equal, name, true

# The device number of the test module's superblock.
FENCE = kernel.FENCE_SYSFS / "240:7" / "fence"


@case
def a_module_of_the_eight_old_functions_links_and_works(case: Case) -> None:
    """C code compiled against the eight-function header loads and finds everything unchanged."""
    errors = []

    def load() -> None:
        try:
            kernel.load(kernel.DROPIN)
        except OSError as error:
            errors.append(str(error))

    loading = threading.Thread(target=load)
    loading.start()
    request = Request(FENCE / name(0xC0FFEE))
    watch = Stopwatch()
    try:
        # The directory is there before its files are; see add-is-sent-when-every-file-exists.
        while not request.is_complete() and loading.is_alive():
            watch.at_most(10)
        if loading.is_alive():
            equal(request.read("ipv4_addr"), "10.0.0.1\n")
            equal(request.read("reason"), "client_reconnect\n")
            request.set_fenced()
    finally:
        loading.join()
    equal(errors, [])
    holders = Path("/sys/module", kernel.FENCE, "holders")
    true((holders / kernel.DROPIN).exists(), "it depends on the module by its symbols")
    kernel.unload(kernel.DROPIN)
    true(not FENCE.exists(), "it has left nothing")
