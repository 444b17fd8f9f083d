// SPDX-License-Identifier: GPL-2.0-only

//! Bindings of `include/fence.h` and `src/glue.h`, which Kbuild generates with bindgen.
//!
//! `exports.rs` checks the exported functions against them.

#![allow(
    dead_code,
    improper_ctypes,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_code,
    clippy::all
)]

use kernel::{
    bindings::*,
    ffi, //
};

include!("header_generated.rs");
