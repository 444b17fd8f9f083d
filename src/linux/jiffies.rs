// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's tick counter.
//!
//! C header: [`include/linux/jiffies.h`](srctree/include/linux/jiffies.h)

#![allow(unsafe_code)]

use kernel::bindings;
pub(crate) use kernel::time::Jiffies;

/// The longest time that a task can sleep: forever.
///
/// Mirrors `MAX_SCHEDULE_TIMEOUT` of `include/linux/sched.h`.
pub(crate) const MAX_SCHEDULE_TIMEOUT: Jiffies = Jiffies::MAX >> 1;

/// The ticks since boot, which wrap.
///
/// Any context.
pub(crate) fn jiffies() -> Jiffies {
    // SAFETY: `jiffies` is always there, aligned, and of one machine word. The volatile read is
    // what C does too: the timer interrupt writes it at any time.
    unsafe { (&raw const bindings::jiffies).read_volatile() }
}

/// Milliseconds of a span of jiffies, rounded down.
///
/// Any context.
pub(crate) fn jiffies64_to_msecs(span: Jiffies) -> u64 {
    // SAFETY: The function only calculates.
    unsafe { bindings::jiffies64_to_msecs(span as u64) }
}

/// The jiffies that last at least `msecs` milliseconds.
///
/// Any context.
pub(crate) fn msecs_to_jiffies(msecs: u32) -> Jiffies {
    kernel::time::msecs_to_jiffies(msecs)
}

/// A moment in the future, told as a span from the moment at which it was set.
///
/// Only differences of [`jiffies`] are used, so that a wrap of the counter does no harm.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    set: Jiffies,
    span: Jiffies,
}

impl Deadline {
    /// The moment that is `span` jiffies after `now`.
    pub(crate) fn new(now: Jiffies, span: Jiffies) -> Self {
        Self { set: now, span }
    }

    /// The jiffies from `now` to the deadline, 0 where it has passed.
    pub(crate) fn remaining(&self, now: Jiffies) -> Jiffies {
        self.span.saturating_sub(self.elapsed(now))
    }

    /// The moment itself, by which deadlines are ordered: a counter of 64 bits wraps in theory
    /// only.
    pub(crate) fn moment(&self) -> Jiffies {
        const { assert!(Jiffies::BITS == 64) };
        self.set.saturating_add(self.span)
    }

    /// The jiffies from the moment at which the deadline was set to `now`.
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
            a_deadline_does_not_mind_a_wrap,
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

    fn a_deadline_does_not_mind_a_wrap() {
        let deadline = Deadline::new(Jiffies::MAX - 2, 7);
        for (now, elapsed, remaining) in [(Jiffies::MAX, 2, 5), (0, 3, 4), (4, 7, 0), (9, 12, 0)] {
            check_eq!(deadline.elapsed(now), elapsed);
            check_eq!(deadline.remaining(now), remaining);
        }
    }
}
