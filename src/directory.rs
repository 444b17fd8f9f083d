// SPDX-License-Identifier: GPL-2.0-only

//! A request's directory in sysfs: `<parent>/fence/<rid>/` and the files in it.
//!
//! What a file shows and what a write to it means stands here, in terms of [`Request`]. Who holds
//! the request, and under which lock, is the business of the [`Subject`].

use crate::{
    linux::{
        hex::Hex64,
        inet,
        jiffies::jiffies,
        kobject::Kobject,
        kstrtox::kstrtobool,
        sysfs::{
            Attribute,
            SubjectDirectory, //
        },
        text::Text, //
    },
    request::Request, //
};
use core::fmt::{
    self,
    Write as _, //
};
use kernel::{
    c_str,
    prelude::*,
    str::CStr,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};

/// What a directory shows, and who is told of a write to it.
///
/// All methods may be called while sysfs holds a file of the directory active. The removal of the
/// directory waits for them then: none may wait for it.
pub(crate) trait Subject: Send + Sync + 'static {
    /// Looks at the request. `look` must not sleep.
    fn look<R>(&self, look: impl FnOnce(&Request) -> R) -> R;

    /// Userspace says that the mount can no longer write.
    ///
    /// # Errors
    ///
    /// `ESTALE` where the request has failed already.
    fn fenced(this: ArcBorrow<'_, Self>) -> Result;

    /// Userspace says that the mount could not be fenced.
    fn error(this: ArcBorrow<'_, Self>);
}

/// The file that says whether the mount was fenced.
pub(crate) const FENCED: &CStr = c_str!("fenced");

/// The file that says whether fencing failed.
pub(crate) const ERROR: &CStr = c_str!("error");

/// A request's directory, which goes when this is dropped.
pub(crate) type RequestDirectory<S> = SubjectDirectory<S>;

/// What the directory of a request is called.
pub(crate) fn name(rid: u64) -> Hex64 {
    Hex64::new(rid)
}

/// Makes the directory of the request `rid`, which `subject` holds, below `fence`. May sleep.
///
/// # Errors
///
/// `ENOMEM`; `ENOENT` where `fence` has gone. Nothing is left of it then.
pub(crate) fn create<S: Subject>(
    rid: u64,
    fence: &Kobject,
    subject: Arc<S>,
) -> Result<RequestDirectory<S>> {
    SubjectDirectory::create(name(rid).as_c_str(), fence, subject, &Files::ATTRIBUTES)
}

/// Carries the table of files for each kind of subject.
struct Files<S>(core::marker::PhantomData<S>);

impl<S: Subject> Files<S> {
    const ATTRIBUTES: [Attribute<S>; 7] = [
        Attribute::read_only(c_str!("rid"), |subject, page| {
            writeln!(page, "{}", name(subject.look(Request::rid)).as_str())
        }),
        Attribute::read_only(c_str!("ipv4_addr"), |subject, page| {
            writeln!(page, "{}", subject.look(Request::ipv4_address))
        }),
        Attribute::read_only(c_str!("inet_addr"), |subject, page| {
            writeln!(page, "{}", inet::Display(subject.look(Request::address)))
        }),
        Attribute::read_only(c_str!("reason"), |subject, page| {
            writeln!(page, "{}", subject.look(Request::reason_name))
        }),
        Attribute::read_only(c_str!("elapsed_secs"), |subject, page| {
            let elapsed_ms = subject.look(|request| request.elapsed_ms(jiffies()));
            writeln!(page, "{}", elapsed_ms / 1000)
        }),
        Attribute::read_write(
            FENCED,
            |subject, page| show_bool(page, subject.look(Request::is_fenced)),
            |subject, text| {
                expect_true(text)?;
                S::fenced(subject)
            },
        ),
        Attribute::read_write(
            ERROR,
            |subject, page| show_bool(page, subject.look(Request::has_failed)),
            |subject, text| {
                expect_true(text)?;
                S::error(subject);
                Ok(())
            },
        ),
    ];
}

fn show_bool(page: &mut Text<'_>, value: bool) -> fmt::Result {
    writeln!(page, "{}", u8::from(value))
}

/// Only true says anything: nothing that is said of a request can be taken back.
fn expect_true(text: &CStr) -> Result {
    if kstrtobool(text)? {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

#[cfg(kunit)]
mod tests {
    use super::*;
    use crate::linux::kunit::{
        check_eq,
        suite, //
    };

    suite!(
        scoutfs_fence_directory,
        [
            true_values_are_taken,
            everything_else_is_invalid,
            booleans_are_shown_as_digits,
        ]
    );

    fn true_values_are_taken() {
        for text in [
            c_str!("1"),
            c_str!("1\n"),
            c_str!("y\n"),
            c_str!("Y"),
            c_str!("on\n"),
            c_str!("ON"),
        ] {
            check_eq!(expect_true(text), Ok(()));
        }
    }

    fn everything_else_is_invalid() {
        for text in [
            c_str!(""),
            c_str!("\n"),
            c_str!(" 1"),
            c_str!("0"),
            c_str!("0\n"),
            c_str!("n"),
            c_str!("off\n"),
            c_str!("2"),
            c_str!("-1"),
            c_str!("o"),
            c_str!("fenced"),
            c_str!("\u{ff}1"),
        ] {
            check_eq!(expect_true(text), Err(EINVAL));
        }
    }

    fn booleans_are_shown_as_digits() {
        for (value, text) in [(false, "0\n"), (true, "1\n")] {
            let mut buffer = [0; 8];
            let mut page = Text::new(&mut buffer);
            check_eq!(show_bool(&mut page, value), Ok(()));
            check_eq!(page.written(), text.as_bytes());
        }
    }
}
