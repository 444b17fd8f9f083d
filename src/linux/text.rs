// SPDX-License-Identifier: GPL-2.0-only

//! Formatting into a buffer. The kernel crate's `RawFormatter` is private in Linux 6.12.

use core::fmt;

/// Text in a buffer. A piece that does not fit is an error and is not written.
pub(crate) struct Text<'a> {
    buffer: &'a mut [u8],
    length: usize,
}

impl<'a> Text<'a> {
    /// No text yet.
    pub(crate) fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, length: 0 }
    }

    /// The bytes written.
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
    use core::fmt::Write as _;

    suite!(
        scoutfs_fence_text,
        [
            a_buffer_takes_what_fits,
            a_piece_that_does_not_fit_is_not_written, //
        ]
    );

    fn a_buffer_takes_what_fits() {
        let mut buffer = [0; 8];
        let mut text = Text::new(&mut buffer);
        check_eq!(write!(text, "{:04x}", 0xab), Ok(()));
        check_eq!(write!(text, "cdef"), Ok(()));
        check_eq!(text.written(), b"00abcdef");
        check_eq!(text.written().len(), 8);
        check_eq!(write!(text, ""), Ok(()));
    }

    fn a_piece_that_does_not_fit_is_not_written() {
        let mut buffer = [0; 4];
        let mut text = Text::new(&mut buffer);
        check_eq!(text.write_str("ab"), Ok(()));
        check_eq!(text.write_str("cde"), Err(fmt::Error));
        check_eq!(text.written(), b"ab");
    }
}
