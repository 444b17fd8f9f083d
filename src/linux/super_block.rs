// SPDX-License-Identifier: GPL-2.0-only

//! Superblocks, as identities.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

#![allow(unsafe_code)]

use super::prelude::*;
use kernel::bindings;

/// The address of a superblock, which no other live superblock has. It is never dereferenced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SuperBlock(usize);

impl SuperBlock {
    /// Takes a pointer that a filesystem passed; `EINVAL` if it is null. Any context.
    pub(crate) fn from_raw(ptr: *mut bindings::super_block) -> Result<Self> {
        if ptr.is_null() {
            return Err(EINVAL);
        }
        Ok(Self(ptr as usize))
    }
}

/// A device number. Mirrors `dev_t`, and the macros of `include/linux/kdev_t.h`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device(bindings::dev_t);

impl Device {
    const MINOR_BITS: u32 = 20;

    /// The device number of a superblock, `s_dev`.
    ///
    /// # Safety
    ///
    /// `ptr` must be to a live superblock.
    pub(crate) unsafe fn of(ptr: *mut bindings::super_block) -> Self {
        // SAFETY: The caller promises a live superblock.
        Self(unsafe { (*ptr).s_dev })
    }

    /// Mirrors `MAJOR()`.
    pub(crate) fn major(self) -> u32 {
        self.0 >> Self::MINOR_BITS
    }

    /// Mirrors `MINOR()`.
    pub(crate) fn minor(self) -> u32 {
        self.0 & ((1 << Self::MINOR_BITS) - 1)
    }
}
