// SPDX-License-Identifier: GPL-2.0-only

//! Fencing for the clustered filesystem scoutfs.
//!
//! The leader of a cluster requests that silent mounts be fenced. Each request is a directory in
//! sysfs; an agent in userspace finds it, fences the mount's host, and writes the result back.
//! `include/fence.h` is the interface for filesystems, `docs/ABI/sysfs-fs-scoutfs-fence` the one
//! for agents.
//!
//! # Map
//!
//! - [`exports`]: the C functions that filesystems call;
//! - [`mounts`]: from a superblock to its mount;
//! - [`mount`]: one mount: start, free, stop, destroy, waits, timeouts. **Locking, waiting and
//!   lifetime rules are at the head of this file**;
//! - [`table`]: a mount's listed requests, sorted and counted;
//! - [`request`]: the state machine of one request, and its events that are still to be sent;
//! - [`attrs`]: a request, and its directory and files in sysfs;
//! - [`notify`]: uevents, poll wake-ups and log lines, sent by the mount's notify work;
//! - [`linux`]: safe wrappers for kernel facilities that the kernel crate lacks.
//!
//! `glue.c` exports the symbols, declares the parameter, prints, and defines the tracepoints of
//! `trace.h`.

#![deny(unsafe_code)]

mod attrs;
mod exports;
mod linux;
mod mount;
mod mounts;
mod notify;
mod request;
mod table;

use kernel::prelude::*;

module! {
    type: ScoutfsFence,
    name: "scoutfs_fence",
    description: "Fence requests of scoutfs, served by an agent in userspace",
    license: "GPL",
}

/// The loaded module.
struct ScoutfsFence;

impl kernel::Module for ScoutfsFence {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        mounts::init()?;
        Ok(Self)
    }
}

impl Drop for ScoutfsFence {
    fn drop(&mut self) {
        mounts::exit();
    }
}
