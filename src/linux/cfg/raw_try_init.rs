// SPDX-License-Identifier: GPL-2.0-only

//! Up to Linux 7.2 it is a method of the initialiser, `__pinned_init()`.

use kernel::prelude::*;

/// # Safety
///
/// As for `pin_init::raw_try_init()`.
pub unsafe fn call<T, E>(slot: *mut T, init: impl PinInit<T, E>) -> Result<(), E> {
    // SAFETY: The caller promises what the function needs.
    unsafe { pin_init::raw_try_init(slot, init) }
}
