// SPDX-License-Identifier: GPL-2.0-only

//! What is told of requests: to programs by uevents and by files that can be polled, to people by
//! one line in the kernel's log for each event.
//!
//! The words of the two lines about failed requests are looked for by existing monitors. They never
//! change.

use crate::{
    directory::{
        RequestDirectory,
        Subject,
        ERROR,
        FENCED, //
    },
    linux::{
        inet,
        kobject::Action,
        memalloc::NofsScope,
        module, //
    },
    request::{
        Request,
        State, //
    }, //
};
use core::net::IpAddr;
use kernel::{
    new_mutex,
    prelude::*,
    str::CStr,
    sync::{
        Arc,
        Mutex, //
    }, //
};

/// What programs have been told of one request.
///
/// Each is told first that its directory is there, then of each change, and last that its directory
/// goes, whoever comes first: the one that made the directory, writers, the timeout, or the one that
/// removes it.
///
/// All methods may sleep, and do not recurse into the filesystem. Nobody is told where there is no
/// memory for it: an agent that misses nothing looks at the directories too, from time to time.
#[pin_data]
pub(crate) struct Announcement<S: Subject> {
    /// There from the first uevent to the last. A lock of its own, because uevents are sent under
    /// it; it is not held while a directory is removed, which waits for writers that take it.
    #[pin]
    told: Mutex<Option<Told<S>>>,
}

/// What was told last.
struct Told<S: 'static> {
    directory: Arc<RequestDirectory<S>>,
    state: State,
}

impl<S: Subject> Announcement<S> {
    /// One of a request that nobody has been told of.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            told <- new_mutex!(None, "scoutfs_fence_told"),
        })
    }

    /// Tells that the directory is complete.
    pub(crate) fn add(&self, directory: Arc<RequestDirectory<S>>) {
        let _nofs = NofsScope::enter();
        let told = Told {
            directory,
            state: State::Pending,
        };
        let mut slot = self.told.lock();
        told.send(Action::Add);
        // Who found the directory by looking may have answered already.
        slot.insert(told).update();
    }

    /// Tells what has changed, after it has.
    pub(crate) fn change(&self) {
        let _nofs = NofsScope::enter();
        if let Some(told) = &mut *self.told.lock() {
            told.update();
        }
    }

    /// Tells that the directory is about to go.
    pub(crate) fn remove(&self) {
        let _nofs = NofsScope::enter();
        let told = self.told.lock().take();
        if let Some(mut told) = told {
            told.update();
            told.send(Action::Remove);
        }
    }
}

impl<S: Subject> Told<S> {
    /// Tells of the state, where it is news.
    fn update(&mut self) {
        let old = self.state;
        self.state = self.directory.subject().look(Request::state);
        if self.state == old {
            return;
        }
        for (file, shown) in [(FENCED, State::Fenced), (ERROR, State::Failed)] {
            if (old == shown) != (self.state == shown) {
                self.directory.directory().notify(file);
            }
        }
        self.send(Action::Change);
    }

    fn send(&self, action: Action) {
        let (rid, address, reason) = self
            .directory
            .subject()
            .look(|request| (request.rid(), request.address(), request.reason_name()));
        // Nothing to be done about an error, see above.
        let _ = self.directory.directory().uevent(
            action,
            &[
                ("SCOUTFS_FENCE_RID", &format_args!("{rid:016x}")),
                ("SCOUTFS_FENCE_ADDRESS", &inet::Display(address)),
                ("SCOUTFS_FENCE_REASON", &reason),
                ("SCOUTFS_FENCE_STATE", &self.state.name()),
            ],
        );
    }
}

/// The module is there.
pub(crate) fn loaded() {
    pr_info!("version {} loaded\n", module::version());
}

/// A request was made, and its directory can be seen.
pub(crate) fn requested(mount: &CStr, rid: u64, address: IpAddr, reason: &str) {
    let address = inet::Display(address);
    pr_info!(
        "{mount}: fence request for rid {rid:016x} at {} made: {reason}\n",
        format_args!("{address}")
    );
}

/// Userspace has fenced the mount.
pub(crate) fn fenced(mount: &CStr, rid: u64, elapsed_ms: u64) {
    pr_info!("{mount}: fence request for rid {rid:016x} fenced after {elapsed_ms}ms\n");
}

/// Userspace could not fence the mount.
pub(crate) fn error(mount: &CStr, rid: u64) {
    pr_err!("{mount}: error indicated by fence action for rid {rid:016x}\n");
}

/// Nobody answered in time.
pub(crate) fn timed_out(mount: &CStr, rid: u64, timeout_ms: u32) {
    pr_err!(
        "{mount}: fence request for rid {rid:016x} was not serviced in {timeout_ms}ms, raising error\n"
    );
}

/// The leader stepped down, or the mount went, with requests still listed.
pub(crate) fn dropped(mount: &CStr, count: usize) {
    pr_info!("{mount}: fencing stopped, {count} requests dropped\n");
}

/// A filesystem module went without destroying what it had set up.
pub(crate) fn left_behind(mount: &CStr) {
    pr_err!("{mount}: still set up while the module is unloaded, destroying it\n");
}

/// A function was called for a superblock that is not set up.
pub(crate) fn unknown_super_block(function: &str) {
    pr_err!("{function}: the superblock was never set up\n");
}
