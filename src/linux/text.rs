// SPDX-License-Identifier: GPL-2.0-only

//! Text in a buffer that is there already.

use core::fmt;

/// Text that is written to a buffer.
///
/// What does not fit is an error, and nothing of it is written.
pub(crate) struct Text<'a> {
    buffer: &'a mut [u8],
    length: usize,
}

impl<'a> Text<'a> {
    /// No text yet.
    pub(crate) fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, length: 0 }
    }

    /// How many bytes there are.
    pub(crate) fn length(&self) -> usize {
        self.length
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
