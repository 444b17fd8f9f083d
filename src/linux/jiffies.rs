// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's tick counter, and deadlines that it reaches.
//!
//! C header: [`include/linux/jiffies.h`](srctree/include/linux/jiffies.h)

#![allow(unsafe_code)]

use kernel::bindings;
pub(crate) use kernel::time::Jiffies;

/// A timeout that never expires. Mirrors `MAX_SCHEDULE_TIMEOUT` of `include/linux/sched.h`.
pub(crate) const MAX_SCHEDULE_TIMEOUT: Jiffies = Jiffies::MAX >> 1;

/// The tick counter, which wraps. Any context.
pub(crate) fn jiffies() -> Jiffies {
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

/// A point in time after another one, in jiffies.
///
/// Only differences of [`jiffies`] are computed, so the counter may wrap.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    set: Jiffies,
    span: Jiffies,
}

impl Deadline {
    /// `span` jiffies after `now`.
    pub(crate) fn new(now: Jiffies, span: Jiffies) -> Self {
        Self { set: now, span }
    }

    /// The jiffies from `now` to the deadline; 0 if it has passed.
    pub(crate) fn remaining(&self, now: Jiffies) -> Jiffies {
        self.span.saturating_sub(self.elapsed(now))
    }

    /// The tick of the deadline, to order deadlines by: 64 bits do not wrap in practice.
    pub(crate) fn tick(&self) -> Jiffies {
        const { assert!(Jiffies::BITS == 64) };
        self.set.saturating_add(self.span)
    }

    /// The jiffies from the `now` of [`new`](Self::new) to this one.
    pub(crate) fn elapsed(&self, now: Jiffies) -> Jiffies {
        now.wrapping_sub(self.set)
    }
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
            a_deadline_passes_once,
            a_deadline_survives_a_wrap,
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

    fn a_deadline_passes_once() {
        let deadline = Deadline::new(100, 7);
        for (now, elapsed, remaining) in [(100, 0, 7), (106, 6, 1), (107, 7, 0), (108, 8, 0)] {
            check_eq!(deadline.elapsed(now), elapsed);
            check_eq!(deadline.remaining(now), remaining);
        }
        check_eq!(Deadline::new(100, 0).remaining(100), 0);
        check_eq!(Deadline::new(0, Jiffies::MAX).remaining(Jiffies::MAX), 0);
    }

    fn a_deadline_survives_a_wrap() {
        let deadline = Deadline::new(Jiffies::MAX - 2, 7);
        for (now, elapsed, remaining) in [(Jiffies::MAX, 2, 5), (0, 3, 4), (4, 7, 0), (9, 12, 0)] {
            check_eq!(deadline.elapsed(now), elapsed);
            check_eq!(deadline.remaining(now), remaining);
        }
    }
}
