// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's tick counter.
//!
//! C header: [`include/linux/jiffies.h`](srctree/include/linux/jiffies.h)

#![allow(unsafe_code)]

use kernel::bindings;
pub(crate) use kernel::time::Jiffies;

/// A timeout that never expires.
pub(crate) const MAX_SCHEDULE_TIMEOUT: Jiffies = kernel::task::MAX_SCHEDULE_TIMEOUT as Jiffies;

/// The tick counter: 64 bits, which do not wrap in practice. Any context.
pub(crate) fn jiffies() -> Jiffies {
    const { assert!(Jiffies::BITS == 64) };
    // SAFETY: `jiffies` is one aligned machine word. C reads it as volatile too, because the timer
    // interrupt writes it.
    unsafe { (&raw const bindings::jiffies).read_volatile() }
}

/// Converts a span to milliseconds, rounding down. Any context.
pub(crate) fn jiffies64_to_msecs(span: Jiffies) -> u64 {
    // SAFETY: The function only calculates.
    unsafe { bindings::jiffies64_to_msecs(span as u64) }
}

/// Converts milliseconds to jiffies, rounding up. Any context.
pub(crate) fn msecs_to_jiffies(msecs: u32) -> Jiffies {
    kernel::time::msecs_to_jiffies(msecs)
}

#[cfg(kunit)]
mod tests {
    use super::*;
    use crate::linux::kunit::{
        check,
        check_eq,
        suite, //
    };

    suite!(
        scoutfs_fence_jiffies,
        [
            spans_last_at_least_as_long_as_asked_for,
            jiffies_never_go_back,
        ]
    );

    fn spans_last_at_least_as_long_as_asked_for() {
        for msecs in [0, 1, 3, 4, 5, 100, 999, 30_000, 3_600_000] {
            let span = msecs_to_jiffies(msecs);
            check!(jiffies64_to_msecs(span) >= u64::from(msecs));
            check!(span == 0 || jiffies64_to_msecs(span - 1) < u64::from(msecs));
        }
        check_eq!(msecs_to_jiffies(0), 0);
        check_eq!(msecs_to_jiffies(1), 1);
    }

    fn jiffies_never_go_back() {
        let earlier = jiffies();
        check!(jiffies().wrapping_sub(earlier) <= MAX_SCHEDULE_TIMEOUT);
    }
}
