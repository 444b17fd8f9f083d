// SPDX-License-Identifier: GPL-2.0-only

//! This module's own version and parameters, which `src/glue.c` declares.
//!
//! C header: [`include/linux/moduleparam.h`](srctree/include/linux/moduleparam.h)

#![allow(unsafe_code)]

use super::header;
use kernel::prelude::*;

/// The version, as `modinfo` shows it.
///
/// Any context.
pub(crate) fn version() -> &'static CStr {
    // SAFETY: The function returns a C string literal.
    unsafe { CStr::from_char_ptr(header::scoutfs_fence_glue_version()) }
}

/// The parameter `timeout_ms`, in milliseconds: what root wrote last.
///
/// Any context.
pub(crate) fn timeout_ms() -> u32 {
    // SAFETY: The function reads one integer that is always there.
    unsafe { header::scoutfs_fence_glue_timeout_ms() }
}
