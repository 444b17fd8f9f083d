// SPDX-License-Identifier: GPL-2.0-only

//! Parsing text. The kernel crate of Linux 6.12 has no `kstrtobool`.
//!
//! C header: [`include/linux/kstrtox.h`](srctree/include/linux/kstrtox.h)

#![allow(unsafe_code)]

use super::prelude::*;
use kernel::{
    bindings,
    error::to_result, //
};

/// Parses a boolean as all of sysfs does: `1`, `y`, `on` and the like are true, `0`, `n`, `off` and
/// the like are false. Any context.
/// Errors: `EINVAL` for anything else.
pub(crate) fn kstrtobool(text: &CStr) -> Result<bool> {
    let mut value = false;
    // SAFETY: `text` is NUL-terminated, and `value` is valid for a write.
    to_result(unsafe { bindings::kstrtobool(text.as_char_ptr(), &mut value) })?;
    Ok(value)
}

#[cfg(kunit)]
mod tests {
    use super::*;
    use crate::linux::kunit::{
        check_eq,
        suite, //
    };

    suite!(
        scoutfs_fence_kstrtox,
        [
            words_for_true,
            words_for_false,
            other_words_are_invalid, //
        ]
    );

    fn words_for_true() {
        for text in [
            c_str!("1"),
            c_str!("y"),
            c_str!("Y\n"),
            c_str!("on"),
            c_str!("oN\n"),
        ] {
            check_eq!(kstrtobool(text), Ok(true));
        }
    }

    fn words_for_false() {
        for text in [
            c_str!("0"),
            c_str!("n"),
            c_str!("N\n"),
            c_str!("off"),
            c_str!("oFf\n"),
        ] {
            check_eq!(kstrtobool(text), Ok(false));
        }
    }

    fn other_words_are_invalid() {
        for text in [
            c_str!(""),
            c_str!("\n"),
            c_str!("2"),
            c_str!("o"),
            c_str!(" y"),
        ] {
            check_eq!(kstrtobool(text), Err(EINVAL));
        }
    }
}
