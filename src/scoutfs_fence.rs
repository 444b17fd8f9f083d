// SPDX-License-Identifier: GPL-2.0-only

//! Fencing for the clustered filesystem scoutfs.
//!
//! The leader of a cluster asks for mounts that went silent to be fenced. Each request is a
//! directory in sysfs, where an agent in userspace finds it, and writes back whether the mount
//! can no longer write. `include/fence.h` tells what filesystems call.
//!
//! # Where things are
//!
//! From the filesystem down, each using only what stands below it:
//!
//! - [`abi`]: the exported C functions;
//! - [`registry`]: which mount belongs to which superblock;
//! - [`mount`]: one mount, the lock of its requests, their timeout, and who waits for them;
//! - [`requests`]: which of them are listed, and how it stands with them;
//! - [`events`]: what programs and the log are told of it;
//! - [`directory`]: a request's files in sysfs;
//! - [`request`]: one request;
//! - [`news`]: its states, and what of it is still to be told;
//! - [`linux`]: safe wrappers of what the kernel crate does not wrap.
//!
//! `glue.c` exports the symbols and declares the module's parameter.

#![deny(unsafe_code)]

mod abi;
mod directory;
mod events;
mod linux;
mod mount;
mod news;
mod registry;
mod request;
mod requests;

use kernel::prelude::*;

module! {
    type: ScoutfsFence,
    name: "scoutfs_fence",
    description: "Fencing for scoutfs: requests of the kernel, served by an agent in userspace",
    license: "GPL",
}

/// The loaded module.
struct ScoutfsFence;

impl kernel::Module for ScoutfsFence {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        registry::open()?;
        events::loaded();
        Ok(Self)
    }
}

impl Drop for ScoutfsFence {
    fn drop(&mut self) {
        registry::close();
    }
}
