// SPDX-License-Identifier: GPL-2.0-only

//! Safe wrappers for kernel facilities that the `kernel` crate does not wrap on every supported
//! kernel.
//!
//! They know nothing of fencing. Besides `exports.rs` only they may use `unsafe`, and only they
//! may depend on the kernel's version.

pub(crate) mod delayed_work;
pub(crate) mod errno;
pub(crate) mod glue;
pub(crate) mod header;
pub(crate) mod inet;
pub(crate) mod jiffies;
pub(crate) mod kobject;
pub(crate) mod kstrtox;
#[cfg(kunit)]
pub(crate) mod kunit;
pub(crate) mod list;
pub(crate) mod lock_class;
pub(crate) mod memalloc;
pub(crate) mod prelude;
pub(crate) mod set_once;
pub(crate) mod super_block;
pub(crate) mod sysfs;
pub(crate) mod text;
pub(crate) mod uevent;
pub(crate) mod wait_queue;
