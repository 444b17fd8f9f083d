// SPDX-License-Identifier: GPL-2.0-only

//! Unit tests that KUnit runs when the module is loaded.
//!
//! The kernel crate has macros for this on some supported kernels only, and they print no values
//! when a check fails.
//!
//! C header: [`include/kunit/test.h`](srctree/include/kunit/test.h)
//!
//! # Examples
//!
//! ```ignore
//! #[cfg(kunit)]
//! mod tests {
//!     use super::*;
//!     use crate::linux::kunit::{check, check_eq, suite};
//!
//!     suite!(arithmetic, [one_and_one_is_two]);
//!
//!     fn one_and_one_is_two() {
//!         check_eq!(1 + 1, 2);
//!         check!(1 + 1 < 3);
//!     }
//! }
//! ```

#![allow(unsafe_code)]

use super::prelude::*;
use core::{
    cell::UnsafeCell,
    fmt,
    mem::MaybeUninit,
    ptr, //
};
use kernel::bindings;

/// A static that KUnit writes to while it runs a suite.
#[repr(transparent)]
pub(crate) struct Static<T>(UnsafeCell<T>);

// SAFETY: Only KUnit accesses the content, under its own locks.
unsafe impl<T> Sync for Static<T> {}

impl<T> Static<T> {
    pub(crate) const fn new(content: T) -> Self {
        Self(UnsafeCell::new(content))
    }

    pub(crate) const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// Terminates a suite's table.
pub(crate) const NO_CASE: bindings::kunit_case =
    // SAFETY: It has integers and nullable pointers only.
    unsafe { MaybeUninit::zeroed().assume_init() };

/// A test with this NUL-terminated name.
pub(crate) const fn case(
    name: &'static str,
    run: extern "C" fn(*mut bindings::kunit),
) -> bindings::kunit_case {
    let mut case = NO_CASE;
    case.name = name.as_ptr().cast();
    case.run_case = Some(run);
    case
}

/// A suite of the tests in a table that [`NO_CASE`] terminates.
pub(crate) const fn suite_of(
    name: &str,
    cases: *mut bindings::kunit_case,
) -> bindings::kunit_suite {
    let mut copy = [0; 256];
    let mut i = 0;
    while i < name.len() {
        copy[i] = name.as_bytes()[i] as c_char;
        i += 1;
    }
    // SAFETY: It has integers and nullable pointers only.
    let mut suite: bindings::kunit_suite = unsafe { MaybeUninit::zeroed().assume_init() };
    suite.name = copy;
    suite.test_cases = cases;
    suite
}

/// Registers functions as one suite of tests.
macro_rules! suite {
    ($name:ident, [$($case:ident),* $(,)?]) => {
        #[allow(unsafe_code)]
        const _: () = {
            use $crate::linux::kunit;

            static CASES: kunit::Static<
                [::kernel::bindings::kunit_case; [$(stringify!($case)),*].len() + 1],
            > = kunit::Static::new([
                $({
                    extern "C" fn run(_test: *mut ::kernel::bindings::kunit) {
                        kunit::Outcome::check($case());
                    }
                    kunit::case(concat!(stringify!($case), "\0"), run)
                },)*
                kunit::NO_CASE,
            ]);
            static SUITE: kunit::Static<::kernel::bindings::kunit_suite> =
                kunit::Static::new(kunit::suite_of(stringify!($name), CASES.get().cast()));

            #[used]
            #[link_section = ".kunit_test_suites"]
            static ENTRY: kunit::Static<*mut ::kernel::bindings::kunit_suite> =
                kunit::Static::new(SUITE.get());
        };
    };
}
pub(crate) use suite;

/// The return type of a test.
pub(crate) trait Outcome {
    fn check(self);
}

impl Outcome for () {
    fn check(self) {}
}

impl Outcome for Result {
    fn check(self) {
        if let Err(error) = self {
            fail("\0", 0, format_args!("ended by {error:?}"));
        }
    }
}

/// Marks the running test as failed; it continues. `file` is NUL-terminated.
pub(crate) fn fail(file: &'static str, line: u32, what: fmt::Arguments<'_>) {
    let text = CString::try_from_fmt(what);
    let what: &CStr = match &text {
        Ok(text) => text,
        Err(_) => c_str!("no memory to print what failed"),
    };
    let location = bindings::kunit_loc {
        file: file.as_ptr().cast(),
        line: line as c_int,
    };
    let assertion = bindings::kunit_fail_assert::default();
    let format: &CStr = c_str!("%s\n");
    // SAFETY: Only tests call this, so there is a current one. All pointers are valid during the
    // call, and the format takes one string.
    unsafe {
        bindings::__kunit_do_failed_assertion(
            bindings::kunit_get_current_test(),
            &location,
            bindings::kunit_assert_type_KUNIT_EXPECTATION,
            ptr::from_ref(&assertion.assert),
            Some(bindings::kunit_fail_assert_format),
            format.as_char_ptr(),
            what.as_char_ptr(),
        )
    };
}

/// Fails the running test unless a condition holds.
macro_rules! check {
    ($condition:expr $(,)?) => {
        if !$condition {
            $crate::linux::kunit::fail(
                concat!(file!(), "\0"),
                line!(),
                format_args!("not so: {}", stringify!($condition)),
            );
        }
    };
}
pub(crate) use check;

/// Fails the running test if two values differ.
macro_rules! check_eq {
    ($got:expr, $wanted:expr $(,)?) => {{
        // A lock that is taken for a value is released before the test fails.
        let got = $got;
        let wanted = $wanted;
        if got != wanted {
            $crate::linux::kunit::fail(
                concat!(file!(), "\0"),
                line!(),
                format_args!("{}: got {got:?}, wanted {wanted:?}", stringify!($got)),
            );
        }
    }};
}
pub(crate) use check_eq;
