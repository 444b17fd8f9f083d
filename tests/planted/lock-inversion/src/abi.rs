// SPDX-License-Identifier: GPL-2.0-only

//! The functions that filesystems call, as `include/fence.h` declares and documents them.
//!
//! Pointers and integers in, an errno out, and no logic. At the end of this file each function is
//! checked against the declaration that bindgen made of the header.

#![allow(unsafe_code)]

use crate::{
    linux::{
        header,
        inet,
        jiffies::Jiffies,
        kobject::Kobject,
        super_block::SuperBlock, //
    },
    mount::Mount,
    registry, //
};
use core::ptr::NonNull;
use kernel::{
    bindings::{
        __be32,
        __kernel_sockaddr_storage,
        kobject,
        super_block, //
    },
    ffi::{
        c_int,
        c_long, //
    },
    prelude::*, //
};

/// What C functions return.
fn errno(result: Result<c_int>) -> c_int {
    result.unwrap_or_else(Error::to_errno)
}

/// See `include/fence.h`.
///
/// # Safety
///
/// `sb` is null, or a superblock that lives until it is destroyed here.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_setup(sb: *mut super_block) -> c_int {
    errno((|| {
        let sb = SuperBlock::from_raw(sb)?;
        // SAFETY: The caller passes a superblock that lives.
        registry::setup(sb, unsafe { sb.device() })?;
        Ok(0)
    })())
}

/// See `include/fence.h`.
///
/// # Safety
///
/// `parent` is null, or a kobject that lives and keeps its name during the call.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_setup_under(
    sb: *mut super_block,
    parent: *mut kobject,
) -> c_int {
    errno((|| {
        let sb = SuperBlock::from_raw(sb)?;
        // SAFETY: The caller passes such a kobject.
        registry::setup_under(sb, unsafe { Kobject::from_raw(parent) }?)?;
        Ok(0)
    })())
}

/// See `include/fence.h`.
///
/// # Safety
///
/// None: `sb` is an identity only. C functions are `unsafe` to Rust callers.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_start(
    sb: *mut super_block,
    rid: u64,
    ipv4_addr: __be32,
    reason: c_int,
) -> c_int {
    errno((|| {
        let mount = registry::find(SuperBlock::from_raw(sb)?, "scoutfs_fence_start")?;
        Mount::start(&mount, rid, inet::ipv4(ipv4_addr).into(), reason)?;
        Ok(0)
    })())
}

/// See `include/fence.h`.
///
/// # Safety
///
/// `addr` is null, or an address as long as its family says.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_start_addr(
    sb: *mut super_block,
    rid: u64,
    addr: *const __kernel_sockaddr_storage,
    reason: c_int,
) -> c_int {
    errno((|| {
        let sb = SuperBlock::from_raw(sb)?;
        // SAFETY: The caller passes such an address.
        let address = unsafe { inet::address(addr) }?;
        let mount = registry::find(sb, "scoutfs_fence_start_addr")?;
        Mount::start(&mount, rid, address, reason)?;
        Ok(0)
    })())
}

/// See `include/fence.h`.
///
/// # Safety
///
/// Each of `rid`, `reason` and `error` is null or valid for a write.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_next(
    sb: *mut super_block,
    rid: *mut u64,
    reason: *mut c_int,
    error: *mut bool,
) -> c_int {
    errno((|| {
        let sb = SuperBlock::from_raw(sb)?;
        let rid = NonNull::new(rid).ok_or(EINVAL)?;
        let reason = NonNull::new(reason).ok_or(EINVAL)?;
        let error = NonNull::new(error).ok_or(EINVAL)?;
        let finished = registry::find(sb, "scoutfs_fence_next")?
            .next()
            .ok_or(ENOENT)?;
        // SAFETY: The caller passes pointers that are valid for writes.
        unsafe {
            rid.write(finished.rid);
            reason.write(finished.reason);
            error.write(finished.error);
        }
        Ok(0)
    })())
}

/// See `include/fence.h`.
///
/// # Safety
///
/// None: `sb` is an identity only. C functions are `unsafe` to Rust callers.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_wait_next(
    sb: *mut super_block,
    timeout_jiffies: c_long,
) -> c_long {
    let result: Result<c_long> = (|| {
        let sb = SuperBlock::from_raw(sb)?;
        let timeout = Jiffies::try_from(timeout_jiffies).map_err(|_| EINVAL)?;
        let remaining = registry::find(sb, "scoutfs_fence_wait_next")?.wait_next(timeout)?;
        // It is no more than the timeout, which was a c_long.
        Ok(remaining.map_or(0, |remaining| remaining.max(1) as c_long))
    })();
    result.unwrap_or_else(|error| error.to_errno() as c_long)
}

/// See `include/fence.h`.
///
/// # Safety
///
/// `error` is null or valid for a write.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_drained(
    sb: *mut super_block,
    error: *mut bool,
) -> bool {
    let (drained, failed) = SuperBlock::from_raw(sb)
        .and_then(|sb| registry::find(sb, "scoutfs_fence_drained"))
        // Nobody may take requests that cannot be looked at for reclaimed.
        .map_or((false, true), |mount| mount.drained());
    let Some(error) = NonNull::new(error) else {
        return false;
    };
    // SAFETY: The caller passes a pointer that is valid for a write.
    unsafe { error.write(failed) };
    drained
}

/// See `include/fence.h`.
///
/// # Safety
///
/// None: `sb` is an identity only. C functions are `unsafe` to Rust callers.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_reason_pending(
    sb: *mut super_block,
    reason: c_int,
) -> c_int {
    errno((|| {
        let mount = registry::find(SuperBlock::from_raw(sb)?, "scoutfs_fence_reason_pending")?;
        Ok(mount.reason_pending(reason).into())
    })())
}

/// See `include/fence.h`.
///
/// # Safety
///
/// None: `sb` is an identity only. C functions are `unsafe` to Rust callers.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_free(sb: *mut super_block, rid: u64) -> c_int {
    errno((|| {
        registry::find(SuperBlock::from_raw(sb)?, "scoutfs_fence_free")?.free(rid)?;
        Ok(0)
    })())
}

/// See `include/fence.h`.
///
/// # Safety
///
/// None: `sb` is an identity only. C functions are `unsafe` to Rust callers.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_wait_fenced(
    sb: *mut super_block,
    timeout_jiffies: c_long,
) -> c_int {
    errno((|| {
        let sb = SuperBlock::from_raw(sb)?;
        let timeout = Jiffies::try_from(timeout_jiffies).map_err(|_| EINVAL)?;
        registry::find(sb, "scoutfs_fence_wait_fenced")?.wait_fenced(timeout)?;
        Ok(0)
    })())
}

/// See `include/fence.h`.
///
/// # Safety
///
/// None: `sb` is an identity only. C functions are `unsafe` to Rust callers.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_stop(sb: *mut super_block) {
    if let Ok(sb) = SuperBlock::from_raw(sb) {
        registry::stop(sb);
    }
}

/// See `include/fence.h`.
///
/// # Safety
///
/// None: `sb` is an identity only. C functions are `unsafe` to Rust callers.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_destroy(sb: *mut super_block) {
    if let Ok(sb) = SuperBlock::from_raw(sb) {
        registry::destroy(sb);
    }
}

/// Fails to compile where a function's type is not that of its declaration in the header: both
/// arms must be of one type.
macro_rules! check_against_header {
    ($($function:ident),* $(,)?) => {
        $(const _: () = {
            let _ = if true { header::$function } else { $function };
        };)*
    };
}

check_against_header! {
    scoutfs_fence_setup,
    scoutfs_fence_setup_under,
    scoutfs_fence_start,
    scoutfs_fence_start_addr,
    scoutfs_fence_next,
    scoutfs_fence_wait_next,
    scoutfs_fence_drained,
    scoutfs_fence_reason_pending,
    scoutfs_fence_free,
    scoutfs_fence_wait_fenced,
    scoutfs_fence_stop,
    scoutfs_fence_destroy,
}
