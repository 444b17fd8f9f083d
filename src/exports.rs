// SPDX-License-Identifier: GPL-2.0-only

//! The functions that filesystems call; `include/fence.h` declares and documents them.
//!
//! Pointers and integers in, an errno out, and no logic. The end of this file checks each function
//! against bindgen's declaration of it.

#![allow(unsafe_code)]

use crate::{
    linux::{
        header,
        inet,
        jiffies::Jiffies,
        kobject::Kobject,
        prelude::*,
        super_block::{
            Device,
            SuperBlock, //
        }, //
    },
    mount::Mount,
    mounts, //
};
use core::ptr::NonNull;
use kernel::{
    bindings::{
        __be32,
        __kernel_sockaddr_storage,
        kobject,
        super_block, //
    },
    error::from_result, //
};

/// # Safety
///
/// `sb` is null, or a superblock that is alive until it is destroyed here.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_setup(sb: *mut super_block) -> c_int {
    from_result(|| {
        let super_block = SuperBlock::from_raw(sb)?;
        // SAFETY: The caller passes a live superblock, and it is not null.
        mounts::setup(super_block, unsafe { Device::of(sb) })?;
        Ok(0)
    })
}

/// # Safety
///
/// `parent` is null, or a kobject that is neither released nor renamed during the call.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_setup_under(
    sb: *mut super_block,
    parent: *mut kobject,
) -> c_int {
    from_result(|| {
        let sb = SuperBlock::from_raw(sb)?;
        // SAFETY: The caller passes such a kobject.
        mounts::setup_under(sb, unsafe { Kobject::from_raw(parent) }?)?;
        Ok(0)
    })
}

/// # Safety
///
/// `sb` is only an identity.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_start(
    sb: *mut super_block,
    rid: u64,
    ipv4_addr: __be32,
    reason: c_int,
) -> c_int {
    from_result(|| {
        let mount = mounts::find(SuperBlock::from_raw(sb)?, c_str!("scoutfs_fence_start"))?;
        Mount::start(&mount, rid, inet::ipv4(ipv4_addr).into(), reason)?;
        Ok(0)
    })
}

/// # Safety
///
/// `addr` is null, or valid for reads of the size that its family implies.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_start_addr(
    sb: *mut super_block,
    rid: u64,
    addr: *const __kernel_sockaddr_storage,
    reason: c_int,
) -> c_int {
    from_result(|| {
        let sb = SuperBlock::from_raw(sb)?;
        // SAFETY: The caller passes such an address.
        let address = unsafe { inet::address(addr) }?;
        let mount = mounts::find(sb, c_str!("scoutfs_fence_start_addr"))?;
        Mount::start(&mount, rid, address, reason)?;
        Ok(0)
    })
}

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
    from_result(|| {
        let sb = SuperBlock::from_raw(sb)?;
        let rid = NonNull::new(rid).ok_or(EINVAL)?;
        let reason = NonNull::new(reason).ok_or(EINVAL)?;
        let error = NonNull::new(error).ok_or(EINVAL)?;
        let finished = mounts::find(sb, c_str!("scoutfs_fence_next"))?
            .next()
            .ok_or(ENOENT)?;
        // SAFETY: The caller passes pointers that are valid for writes.
        unsafe {
            rid.write(finished.0);
            reason.write(finished.1);
            error.write(finished.2);
        }
        Ok(0)
    })
}

/// # Safety
///
/// `sb` is only an identity.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_wait_next(
    sb: *mut super_block,
    timeout_jiffies: c_long,
) -> c_long {
    from_result(|| {
        let sb = SuperBlock::from_raw(sb)?;
        let timeout = Jiffies::try_from(timeout_jiffies).map_err(|_| EINVAL)?;
        let remaining = mounts::find(sb, c_str!("scoutfs_fence_wait_next"))?.wait_next(timeout)?;
        // No more than the timeout, which is a c_long.
        Ok(remaining as c_long)
    })
}

/// # Safety
///
/// `error` is null or valid for a write.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_drained(
    sb: *mut super_block,
    error: *mut bool,
) -> bool {
    let (drained, failed) = SuperBlock::from_raw(sb)
        .and_then(|sb| mounts::find(sb, c_str!("scoutfs_fence_drained")))
        // Fail safe: an unknown superblock is never drained.
        .map_or((false, true), |mount| mount.drained());
    let Some(error) = NonNull::new(error) else {
        return false;
    };
    // SAFETY: The caller passes a pointer that is valid for a write.
    unsafe { error.write(failed) };
    drained
}

/// # Safety
///
/// `sb` is only an identity.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_reason_pending(
    sb: *mut super_block,
    reason: c_int,
) -> c_int {
    from_result(|| {
        let mount = mounts::find(
            SuperBlock::from_raw(sb)?,
            c_str!("scoutfs_fence_reason_pending"),
        )?;
        Ok(mount.reason_pending(reason).into())
    })
}

/// # Safety
///
/// `sb` is only an identity.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_free(sb: *mut super_block, rid: u64) -> c_int {
    from_result(|| {
        let mount = mounts::find(SuperBlock::from_raw(sb)?, c_str!("scoutfs_fence_free"))?;
        Mount::free(&mount, rid)?;
        Ok(0)
    })
}

/// # Safety
///
/// `sb` is only an identity.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_wait_fenced(
    sb: *mut super_block,
    timeout_jiffies: c_long,
) -> c_int {
    from_result(|| {
        let sb = SuperBlock::from_raw(sb)?;
        let timeout = Jiffies::try_from(timeout_jiffies).map_err(|_| EINVAL)?;
        mounts::find(sb, c_str!("scoutfs_fence_wait_fenced"))?.wait_fenced(timeout)?;
        Ok(0)
    })
}

/// # Safety
///
/// `sb` is only an identity.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_stop(sb: *mut super_block) {
    if let Ok(sb) = SuperBlock::from_raw(sb) {
        mounts::stop(sb);
    }
}

/// # Safety
///
/// `sb` is only an identity.
#[no_mangle]
pub(crate) unsafe extern "C" fn scoutfs_fence_destroy(sb: *mut super_block) {
    if let Ok(sb) = SuperBlock::from_raw(sb) {
        mounts::destroy(sb);
    }
}

/// Fails to compile unless a function has the type that the header declares: both arms must be of
/// one type.
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
