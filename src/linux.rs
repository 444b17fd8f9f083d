// SPDX-License-Identifier: GPL-2.0-only

//! Safe wrappers of kernel facilities that the `kernel` crate does not wrap on every supported
//! kernel.
//!
//! They know nothing of fencing. Besides `abi.rs` this is the only place of `unsafe` code, and the
//! only place of differences between kernel versions.

pub(crate) mod delayed_work;
pub(crate) mod errno;
pub(crate) mod global;
pub(crate) mod header;
pub(crate) mod hex;
pub(crate) mod inet;
pub(crate) mod jiffies;
pub(crate) mod kobject;
pub(crate) mod kstrtox;
#[cfg(kunit)]
pub(crate) mod kunit;
pub(crate) mod list;
pub(crate) mod memalloc;
pub(crate) mod module;
pub(crate) mod super_block;
pub(crate) mod sysfs;
pub(crate) mod text;
pub(crate) mod wait_queue;
