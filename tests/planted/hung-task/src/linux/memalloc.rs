// SPDX-License-Identifier: GPL-2.0-only

//! Scopes in which memory allocation is restricted.
//!
//! C header: [`include/linux/sched/mm.h`](srctree/include/linux/sched/mm.h)

#![allow(unsafe_code)]

use super::header;
use core::marker::PhantomData;

/// A scope in which no allocation of this task recurses into a filesystem.
///
/// It covers what the C side allocates with `GFP_KERNEL` too. Scopes nest; task context only.
///
/// # Examples
///
/// ```ignore
/// let _nofs = NofsScope::enter();
/// // No allocation from here to the end of the block waits for a filesystem.
/// ```
///
/// # Invariants
///
/// `flags` is what `memalloc_nofs_save` returned to this task for this scope.
#[must_use = "the scope ends when this is dropped"]
pub(crate) struct NofsScope {
    flags: u32,
    _not_send: PhantomData<*mut ()>,
}

impl NofsScope {
    /// Enters the scope. It ends when the result is dropped.
    pub(crate) fn enter() -> Self {
        // INVARIANT: The flags are saved here, for the current task.
        Self {
            // SAFETY: The function changes a flag of the current task, nothing else.
            flags: unsafe { header::scoutfs_fence_glue_memalloc_nofs_save() },
            _not_send: PhantomData,
        }
    }
}

impl Drop for NofsScope {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the flags come from the matching save, and as the scope
        // cannot leave its task, they are given back to the task that saved them.
        unsafe { header::scoutfs_fence_glue_memalloc_nofs_restore(self.flags) };
    }
}
