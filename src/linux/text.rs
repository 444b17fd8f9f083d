// SPDX-License-Identifier: GPL-2.0-only

//! Text in a buffer that is there already.

#![allow(unsafe_code)]

use core::{
    fmt,
    str, //
};

// The kernel crate's own format_args!, which prints its strings too.
#[cfg(linux_6_12)]
pub(crate) use kernel::fmt;
#[cfg(not(linux_6_12))]
pub(crate) use kernel::prelude::fmt;

/// Text that is written to a buffer.
///
/// What does not fit is an error, and nothing of it is written.
///
/// # Invariants
///
/// The first `length` bytes of the buffer are UTF-8.
pub(crate) struct Text<'a> {
    buffer: &'a mut [u8],
    length: usize,
}

impl<'a> Text<'a> {
    /// No text yet.
    pub(crate) fn new(buffer: &'a mut [u8]) -> Self {
        // INVARIANT: No bytes are UTF-8.
        Self { buffer, length: 0 }
    }

    /// What was written.
    pub(crate) fn as_str(&self) -> &str {
        // SAFETY: By the type invariant these bytes are UTF-8.
        unsafe { str::from_utf8_unchecked(&self.buffer[..self.length]) }
    }

    /// How many bytes there are.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// What has been written so far.
    #[cfg(kunit)]
    pub(crate) fn written(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.buffer
            .get_mut(self.length..end)
            .ok_or(fmt::Error)?
            .copy_from_slice(text.as_bytes());
        // INVARIANT: What was appended is UTF-8.
        self.length = end;
        Ok(())
    }
}

#[cfg(kunit)]
mod tests {
    use super::*;
    use crate::linux::kunit::{
        check_eq,
        suite, //
    };
    use fmt::Write as _;

    suite!(
        scoutfs_fence_text,
        [
            a_buffer_takes_what_fits,
            what_does_not_fit_is_not_written, //
        ]
    );

    fn a_buffer_takes_what_fits() {
        let mut buffer = [0; 8];
        let mut text = Text::new(&mut buffer);
        check_eq!(write!(text, "{:04x}", 0xab), Ok(()));
        check_eq!(write!(text, "cdef"), Ok(()));
        check_eq!(text.written(), b"00abcdef");
        check_eq!(text.length(), 8);
        check_eq!(write!(text, ""), Ok(()));
    }

    fn what_does_not_fit_is_not_written() {
        let mut buffer = [0; 4];
        let mut text = Text::new(&mut buffer);
        check_eq!(text.write_str("ab"), Ok(()));
        check_eq!(text.write_str("cde"), Err(fmt::Error));
        check_eq!(text.written(), b"ab");
    }
}
