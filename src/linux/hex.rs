// SPDX-License-Identifier: GPL-2.0-only

//! Hexadecimal digits.
//!
//! C header: [`include/linux/hex.h`](srctree/include/linux/hex.h)

#![allow(unsafe_code)]

use super::header;
use core::str;
use kernel::str::CStr;

/// How many digits there are.
const DIGITS: usize = 16;

/// A number as 16 lower-case digits.
///
/// # Examples
///
/// ```ignore
/// assert_eq!(Hex64::new(0x41).as_c_str(), c_str!("0000000000000041"));
/// ```
///
/// # Invariants
///
/// They are [`DIGITS`] digits, and a zero.
pub(crate) struct Hex64([u8; DIGITS + 1]);

impl Hex64 {
    /// The digits of `number`. Any context.
    pub(crate) fn new(number: u64) -> Self {
        let bytes = number.to_be_bytes();
        let mut digits = [0; DIGITS + 1];
        const { assert!(2 * size_of::<u64>() == DIGITS) };
        // SAFETY: Two digits are written for each byte, and so much room there is.
        unsafe {
            header::scoutfs_fence_glue_bin2hex(
                digits.as_mut_ptr().cast(),
                bytes.as_ptr().cast(),
                bytes.len(),
            )
        };
        // INVARIANT: All but the last byte were written.
        Self(digits)
    }

    /// The digits, for C code.
    pub(crate) fn as_c_str(&self) -> &CStr {
        // SAFETY: By the type invariant the only zero is at the end.
        unsafe { CStr::from_bytes_with_nul_unchecked(&self.0) }
    }

    /// The digits.
    pub(crate) fn as_str(&self) -> &str {
        // SAFETY: By the type invariant they are digits, which are ASCII.
        unsafe { str::from_utf8_unchecked(&self.0[..DIGITS]) }
    }
}

#[cfg(kunit)]
mod tests {
    use super::*;
    use crate::linux::kunit::{
        check_eq,
        suite, //
    };

    suite!(scoutfs_fence_hex, [numbers_have_all_their_digits]);

    fn numbers_have_all_their_digits() {
        for (number, digits) in [
            (0, "0000000000000000"),
            (0x41, "0000000000000041"),
            (0x0123_4567_89ab_cdef, "0123456789abcdef"),
            (u64::MAX, "ffffffffffffffff"),
        ] {
            let number = Hex64::new(number);
            check_eq!(number.as_str(), digits);
            check_eq!(number.0[DIGITS], 0);
        }
    }
}
