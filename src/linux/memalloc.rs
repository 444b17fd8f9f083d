// SPDX-License-Identifier: GPL-2.0-only

//! Allocation scopes.
//!
//! C header: [`include/linux/sched/mm.h`](srctree/include/linux/sched/mm.h)

#![allow(unsafe_code)]

use super::header;

/// Calls `f` in a scope in which no allocation of this task recurses into a filesystem, whatever
/// its GFP flags are. Task context. The kernel crate has no such scope.
///
/// A function and not a guard, so that scopes cannot but nest: one that ended out of order would
/// end another one early.
pub(crate) fn memalloc_nofs<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: The function only changes a flag of the current task.
    let flags = unsafe { header::scoutfs_fence_glue_memalloc_nofs_save() };
    let result = f();
    // SAFETY: The same task saved the flags, and scopes that began later have ended.
    unsafe { header::scoutfs_fence_glue_memalloc_nofs_restore(flags) };
    result
}
