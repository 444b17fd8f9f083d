// SPDX-License-Identifier: GPL-2.0-only

//! What people are told: one line in the kernel's log for each event.
//!
//! The words of the two lines about failed requests are looked for by existing monitors. They never
//! change.

use crate::linux::{
    inet,
    module, //
};
use core::net::IpAddr;
use kernel::{
    prelude::*,
    str::CStr, //
};

/// The module is there.
pub(crate) fn loaded() {
    pr_info!("version {} loaded\n", module::version());
}

/// A request was made, and its directory can be seen.
pub(crate) fn requested(mount: &CStr, rid: u64, address: IpAddr, reason: &str) {
    let address = inet::Display(address);
    pr_info!(
        "{mount}: fence request for rid {rid:016x} at {} made: {reason}\n",
        format_args!("{address}")
    );
}

/// Userspace has fenced the mount.
pub(crate) fn fenced(mount: &CStr, rid: u64, elapsed_ms: u64) {
    pr_info!("{mount}: fence request for rid {rid:016x} fenced after {elapsed_ms}ms\n");
}

/// Userspace could not fence the mount.
pub(crate) fn error(mount: &CStr, rid: u64) {
    pr_err!("{mount}: error indicated by fence action for rid {rid:016x}\n");
}

/// Nobody answered in time.
pub(crate) fn timed_out(mount: &CStr, rid: u64, timeout_ms: u32) {
    pr_err!(
        "{mount}: fence request for rid {rid:016x} was not serviced in {timeout_ms}ms, raising error\n"
    );
}

/// The leader stepped down, or the mount went, with requests still listed.
pub(crate) fn dropped(mount: &CStr, count: usize) {
    pr_info!("{mount}: fencing stopped, {count} requests dropped\n");
}

/// A filesystem module went without destroying what it had set up.
pub(crate) fn left_behind(mount: &CStr) {
    pr_err!("{mount}: still set up while the module is unloaded, destroying it\n");
}

/// A function was called for a superblock that is not set up.
pub(crate) fn unknown_super_block(function: &str) {
    pr_err!("{function}: the superblock was never set up\n");
}
