// SPDX-License-Identifier: GPL-2.0-only

//! The parameter, log lines and tracepoints of this module, which `src/glue.c` declares.
//!
//! C code prints the lines: the kernel crate's `pr_*!` print with `%pA`, which kernels that were
//! built without Rust do not know.
//!
//! C header: [`include/linux/printk.h`](srctree/include/linux/printk.h)

#![allow(unsafe_code)]

use super::{
    header,
    jiffies::Jiffies,
    prelude::*,
    text::Text, //
};
use core::{
    fmt::{
        self,
        Write as _, //
    },
    net::IpAddr, //
};

/// The parameter `timeout_ms`, in milliseconds. Any context.
pub(crate) fn timeout_ms() -> u32 {
    // SAFETY: The function reads one integer.
    unsafe { header::scoutfs_fence_glue_timeout_ms() }
}

/// Logs an error of a mount. Sleeps, perhaps for long: a console may be slow.
pub(crate) fn log_error(mount: &CStr, text: fmt::Arguments<'_>) {
    log(mount, text, header::scoutfs_fence_glue_log_error);
}

/// Logs a debug line of a mount, if that is on. See [`log_error`].
pub(crate) fn log_debug(mount: &CStr, text: fmt::Arguments<'_>) {
    log(mount, text, header::scoutfs_fence_glue_log_debug);
}

fn log(
    mount: &CStr,
    text: fmt::Arguments<'_>,
    print: unsafe extern "C" fn(*const c_char, *const c_char, usize),
) {
    let mut buffer = [0; 160];
    let mut line = Text::new(&mut buffer);
    // What does not fit is left out.
    let _ = line.write_fmt(text);
    let line = line.written();
    // SAFETY: The mount's label is NUL-terminated, the text has its length, and both are copied.
    unsafe { print(mount.as_char_ptr(), line.as_ptr().cast(), line.len()) };
}

/// Logs an error, rate-limited: a function was called for a superblock that is not set up.
pub(crate) fn log_not_set_up(function: &CStr) {
    // SAFETY: The name is NUL-terminated.
    unsafe { header::scoutfs_fence_glue_log_not_set_up(function.as_char_ptr()) };
}

/// The tracepoint `start`: a request was listed.
pub(crate) fn trace_start(mount: &CStr, rid: u64, address: IpAddr, reason: c_int) {
    let (ipv4, ipv6);
    let octets: &[u8] = match address {
        IpAddr::V4(address) => {
            ipv4 = address.octets();
            &ipv4
        }
        IpAddr::V6(address) => {
            ipv6 = address.octets();
            &ipv6
        }
    };
    // SAFETY: The label is NUL-terminated, and the address has its length.
    unsafe {
        header::scoutfs_fence_glue_trace_start(
            mount.as_char_ptr(),
            rid,
            octets.as_ptr(),
            octets.len(),
            reason,
        )
    };
}

/// Defines functions that emit a tracepoint of `src/trace.h`, whose first field is a mount's label.
macro_rules! tracepoints {
    ($($(#[$attribute:meta])*
       $name:ident($($argument:ident: $type:ty),*) = $function:ident;)*) => {$(
        $(#[$attribute])*
        pub(crate) fn $name(mount: &CStr, $($argument: $type),*) {
            // SAFETY: The label is NUL-terminated, and copied.
            unsafe { header::$function(mount.as_char_ptr(), $($argument),*) }
        }
    )*};
}

tracepoints! {
    /// A reason was added to a listed request.
    trace_duplicate(rid: u64, reason: c_int) = scoutfs_fence_glue_trace_duplicate;
    /// A request was fenced.
    trace_fenced(rid: u64) = scoutfs_fence_glue_trace_fenced;
    /// A request failed.
    trace_failed(rid: u64, timed_out: bool) = scoutfs_fence_glue_trace_failed;
    /// A request was freed.
    trace_freed(rid: u64) = scoutfs_fence_glue_trace_freed;
    /// A request was dropped by stop or destroy.
    trace_dropped(rid: u64) = scoutfs_fence_glue_trace_dropped;
    /// `wait_next`, or else `wait_fenced`, begins.
    trace_wait_begin(next: bool, timeout: Jiffies) = scoutfs_fence_glue_trace_wait_begin;
}

/// The tracepoint `wait_end`: `wait_next`, or else `wait_fenced`, returns.
pub(crate) fn trace_wait_end(mount: &CStr, next: bool, result: Result<Jiffies>) {
    let result = match result {
        Ok(jiffies) => jiffies as c_long,
        Err(error) => error.to_errno() as c_long,
    };
    // SAFETY: The label is NUL-terminated, and copied.
    unsafe { header::scoutfs_fence_glue_trace_wait_end(mount.as_char_ptr(), next, result) }
}
