// SPDX-License-Identifier: GPL-2.0-only

//! The parameter, log lines and tracepoints of this module, which `src/glue.c` declares.
//!
//! Lines are printed by C code: the kernel crate's `pr_*!` print with `%pA`, which kernels that
//! were built without Rust do not know.
//!
//! C header: [`include/linux/printk.h`](srctree/include/linux/printk.h)

#![allow(unsafe_code)]

use super::{
    header,
    inet::Octets,
    jiffies::Jiffies, //
};
use kernel::{
    ffi::{
        c_int,
        c_long, //
    },
    prelude::*,
    str::CStr, //
};

/// The parameter `timeout_ms`, in milliseconds. Any context.
pub(crate) fn timeout_ms() -> u32 {
    // SAFETY: The function reads one integer.
    unsafe { header::scoutfs_fence_glue_timeout_ms() }
}

/// Defines safe functions that pass their arguments to a C function of the same name.
///
/// Each line: the name, the arguments, and what the C function gets for them.
macro_rules! calls {
    ($($(#[$attribute:meta])* $name:ident($($argument:ident: $type:ty),*)
       => $function:ident($($value:expr),*);)*) => {$(
        $(#[$attribute])*
        pub(crate) fn $name($($argument: $type),*) {
            // SAFETY: Strings are NUL-terminated or passed with their length, bytes are passed
            // with their length, and the function keeps no pointer.
            unsafe { header::$function($($value),*) }
        }
    )*};
}

// Log lines. `mount` is the mount's label. They may wait for a slow console.
calls! {
    /// Debug: a request was listed.
    log_made(mount: &CStr, rid: u64, address: &Octets, reason: &str) =>
        scoutfs_fence_glue_log_made(
            mount.as_char_ptr(),
            rid,
            address.as_slice().as_ptr(),
            address.as_slice().len(),
            reason.as_ptr().cast(),
            reason.len()
        );
    /// Debug: the agent wrote to `fenced`, so many milliseconds after the start.
    log_fenced(mount: &CStr, rid: u64, elapsed_ms: u64) =>
        scoutfs_fence_glue_log_fenced(mount.as_char_ptr(), rid, elapsed_ms);
    /// Error: the agent wrote to `error`.
    log_error(mount: &CStr, rid: u64) =>
        scoutfs_fence_glue_log_error(mount.as_char_ptr(), rid);
    /// Error: the request's timeout expired.
    log_timed_out(mount: &CStr, rid: u64, timeout_ms: u32) =>
        scoutfs_fence_glue_log_timed_out(mount.as_char_ptr(), rid, timeout_ms);
    /// Debug: the request was freed, or dropped by stop or destroy.
    log_removed(mount: &CStr, rid: u64, dropped: bool) =>
        scoutfs_fence_glue_log_removed(mount.as_char_ptr(), rid, dropped);
    /// Error: the module is unloaded with this mount set up.
    log_left_behind(mount: &CStr) =>
        scoutfs_fence_glue_log_left_behind(mount.as_char_ptr());
    /// Error, rate-limited: a function was called for a superblock that is not set up.
    log_not_set_up(function: &CStr) =>
        scoutfs_fence_glue_log_not_set_up(function.as_char_ptr());
}

// Tracepoints. Any context; a call and a no-op while they are off.
calls! {
    /// A request was listed.
    trace_start(mount: &CStr, rid: u64, address: &Octets, reason: c_int) =>
        scoutfs_fence_glue_trace_start(
            mount.as_char_ptr(),
            rid,
            address.as_slice().as_ptr(),
            address.as_slice().len(),
            reason
        );
    /// A reason was added to a listed request.
    trace_duplicate(mount: &CStr, rid: u64, reason: c_int) =>
        scoutfs_fence_glue_trace_duplicate(mount.as_char_ptr(), rid, reason);
    /// A request was fenced.
    trace_fenced(mount: &CStr, rid: u64) =>
        scoutfs_fence_glue_trace_fenced(mount.as_char_ptr(), rid);
    /// A request failed.
    trace_failed(mount: &CStr, rid: u64, timed_out: bool) =>
        scoutfs_fence_glue_trace_failed(mount.as_char_ptr(), rid, timed_out);
    /// A request was freed.
    trace_freed(mount: &CStr, rid: u64) =>
        scoutfs_fence_glue_trace_freed(mount.as_char_ptr(), rid);
    /// A request was dropped by stop or destroy.
    trace_dropped(mount: &CStr, rid: u64) =>
        scoutfs_fence_glue_trace_dropped(mount.as_char_ptr(), rid);
    /// `wait_next`, or else `wait_fenced`, begins.
    trace_wait_begin(mount: &CStr, next: bool, timeout: Jiffies) =>
        scoutfs_fence_glue_trace_wait_begin(mount.as_char_ptr(), next, timeout);
    /// `wait_next`, or else `wait_fenced`, returns `result`.
    trace_wait_end(mount: &CStr, next: bool, result: Result<Jiffies>) =>
        scoutfs_fence_glue_trace_wait_end(
            mount.as_char_ptr(),
            next,
            result.map_or_else(|error| error.to_errno() as c_long, |jiffies| jiffies as c_long)
        );
}
