// SPDX-License-Identifier: GPL-2.0-only

//! Values from text.
//!
//! C header: [`include/linux/kstrtox.h`](srctree/include/linux/kstrtox.h)

#![allow(unsafe_code)]

use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    str::CStr, //
};

/// Reads a boolean as every boolean in sysfs is read: `1`, `y`, `on` and their like are true, `0`,
/// `n`, `off` and their like are false.
///
/// Any context.
///
/// # Errors
///
/// `EINVAL` for everything else.
pub(crate) fn kstrtobool(text: &CStr) -> Result<bool> {
    let mut value = false;
    // SAFETY: `text` is terminated, and `value` is valid for the write.
    to_result(unsafe { bindings::kstrtobool(text.as_char_ptr(), &mut value) })?;
    Ok(value)
}
