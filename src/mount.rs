// SPDX-License-Identifier: GPL-2.0-only

//! One mount of a filesystem, and its fence requests.
//!
//! # Locking
//!
//! In this order:
//!
//! - `admin`, a mutex, serialises `start`, `free`, `stop` and the beginning of `destroy`. It is
//!   held while directories are created and removed, so a request is listed if and only if its
//!   directory is complete.
//! - [`FenceRequest`]'s mutex `directory` pins the directory across `sysfs_notify()`. Never held
//!   while the directory is added or removed.
//! - `table`, a spinlock, protects the listed requests and the state of every request. Short
//!   sections: no allocation, no sleep. The workqueue's locks are taken under it.
//! - The spinlock of the [`Notifier`]. Nothing is taken under it.
//!
//! The notify work takes `sender`, a mutex of the [`Notifier`] that nothing else takes, before
//! `directory` and the spinlocks.
//!
//! Store and show callbacks hold a kernfs active reference; the removal of a directory drains
//! those under `admin`, so callbacks take the spinlocks only.
//!
//! Tracepoints fire under `table`, so a trace has events in the order of their effects; except
//! `dropped`, which follows when `stop` has emptied the table, and those of the waits.
//!
//! # Waiting
//!
//! - `start`, `free` and `stop` wait for `admin`, and under it for the readers and writers of this
//!   mount's files and for kernfs's own locks. They never wait for uevents, the console or another
//!   mount's teardown.
//! - `destroy` waits for that and then, without a lock, for the timeout work and the notify work,
//!   which sends uevents and log lines.
//! - `wait_fenced` and `wait_next` sleep on `changed`. Every change that could end a wait is made
//!   under `table` and then wakes `changed`. A request may fail and be freed before a waiter runs,
//!   and a list be dropped and filled again; so the table counts failures, drops and stops, and a
//!   waiter compares the counts with those at its beginning.
//! - Under memory pressure the workqueue's rescuer runs one work item at a time, so timeouts may
//!   then wait for a uevent. The caller's timeout of `wait_fenced` depends on neither.
//! - All allocations are made under `memalloc_nofs_save()`: callers may be on the filesystem's
//!   write-out path, and sysfs allocates with `GFP_KERNEL`.
//!
//! # Lifetime
//!
//! A `Mount` is refcounted: [`mounts`](crate::mounts) holds a reference until `destroy`, each call,
//! each request and each pending work item while it lasts. Each mount holds a reference to the
//! workqueue; that of `mounts` outlives all of these, so a worker never drops the last reference to
//! its own workqueue. A [`FenceRequest`] is referenced by `admin` and the table while it is listed,
//! by its directory, and by the notify work until its events are sent.

use crate::{
    attrs::FenceRequest,
    linux::{
        delayed_work::{
            impl_has_delayed_work,
            DelayedWork,
            DelayedWorkItem,
            Queue, //
        },
        errno::{
            ESHUTDOWN,
            ETIMEDOUT, //
        },
        glue,
        jiffies::{
            jiffies,
            Jiffies, //
        },
        kobject::{
            Directory,
            Kset, //
        },
        lock_class::lock_class,
        memalloc::memalloc_nofs,
        prelude::*,
        wait_queue::WaitQueue, //
    },
    notify::Notifier,
    request::{
        Event,
        Removal, //
    },
    table::{
        Reservation,
        Table,
        TableEntry, //
    }, //
};
use core::{
    mem,
    net::IpAddr, //
};
use kernel::rbtree::{
    RBTree,
    RBTreeNodeReservation, //
};

/// Delay, in jiffies, before queued events are sent; batches them off the caller's path.
const NOTIFY_DELAY: Jiffies = 1;

/// The identifiers of a mount's work items.
const TIMEOUT: u64 = 0;
const NOTIFY: u64 = 1;

/// One mount.
#[pin_data]
pub(crate) struct Mount {
    /// Begins the mount's log lines: `scoutfs_fence <major>:<minor>`, or `scoutfs <name>` for the
    /// name of the filesystem's directory.
    label: CString,
    #[pin]
    admin: Mutex<Admin>,
    #[pin]
    table: SpinLock<Table<FenceRequest>>,
    #[pin]
    changed: WaitQueue,
    #[pin]
    notifier: Notifier,
    /// Fails requests that have timed out. Scheduled under `table`.
    #[pin]
    timeout_work: DelayedWork<Mount, TIMEOUT>,
    /// Sends the events in `notifier`.
    #[pin]
    notify_work: DelayedWork<Mount, NOTIFY>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<TIMEOUT> for Mount { self.timeout_work }
    impl HasDelayedWork<NOTIFY> for Mount { self.notify_work }
}

/// The directories of a mount.
struct Admin {
    /// The listed requests.
    by_rid: RBTree<u64, Arc<FenceRequest>>,
    /// How many requests have been listed so far.
    started: u64,
    /// The parent of the requests' directories, and the parent of that unless it is the
    /// filesystem's; removed in this order. `None` once the mount is destroyed.
    directories: Option<(Directory, Option<Directory>)>,
}

impl Mount {
    /// A mount whose requests have their directories in `fence`. May sleep.
    /// Errors: `ENOMEM`.
    pub(crate) fn new(
        label: CString,
        fence: Directory,
        parent: Option<Directory>,
        kset: &Kset,
        queue: &Arc<Queue>,
    ) -> Result<Arc<Self>> {
        let notifier = Notifier::new(kset, &fence)?;
        let admin = Admin {
            by_rid: RBTree::new(),
            started: 0,
            directories: Some((fence, parent)),
        };
        Arc::pin_init(
            pin_init!(Self {
                label,
                admin <- new_mutex!(admin, "scoutfs_fence_admin"),
                table <- new_spinlock!(Table::new(), "scoutfs_fence_table"),
                changed <- WaitQueue::new(lock_class!("scoutfs_fence_changed")),
                notifier <- notifier,
                timeout_work <- DelayedWork::new(
                    queue.clone(),
                    lock_class!("scoutfs_fence_timeout_work"),
                    lock_class!("scoutfs_fence_timeout_timer"),
                ),
                notify_work <- DelayedWork::new(
                    queue.clone(),
                    lock_class!("scoutfs_fence_notify_work"),
                    lock_class!("scoutfs_fence_notify_timer"),
                ),
            }),
            GFP_KERNEL,
        )
    }

    /// The name of the mount in the log and in traces.
    pub(crate) fn label(&self) -> &CStr {
        &self.label
    }

    /// The listed requests, and the lock of every request's state.
    pub(crate) fn table(&self) -> &SpinLock<Table<FenceRequest>> {
        &self.table
    }

    /// Lists a request for the mount `rid`, or adds the reason to the listed one. May sleep; does
    /// not recurse into the filesystem.
    /// Errors: `ENOMEM`; `ENODEV` if the mount is destroyed, or the filesystem has removed its own
    /// directory, which the C side logs.
    pub(crate) fn start(this: &Arc<Self>, rid: u64, address: IpAddr, reason: c_int) -> Result {
        memalloc_nofs(|| {
            let mut admin = this.admin.lock();
            let (fence, _) = admin.directories.as_ref().ok_or(ENODEV)?;
            if let Some(request) = admin.by_rid.get(&rid) {
                let mut table = this.table.lock();
                table.add_reason(request, reason);
                glue::trace_duplicate(&this.label, rid, reason);
                return Ok(());
            }

            let time = (jiffies(), glue::timeout_ms());
            let request = FenceRequest::new(this, admin.started, (rid, address, reason), time)?;
            let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
            let reservation = RBTreeNodeReservation::new(GFP_KERNEL)?;
            FenceRequest::create_directory(&request, fence).map_err(|error| {
                // The filesystem has removed its directory: like after destroy.
                if error == ENOENT {
                    ENODEV
                } else {
                    error
                }
            })?;
            admin.by_rid.insert(node.into_node(rid, request.clone()));
            admin.started += 1;
            Self::list(this, request, reservation);
            Ok(())
        })
    }

    /// Lists a request whose directory is complete.
    fn list(this: &Arc<Self>, request: Arc<FenceRequest>, reservation: Reservation<FenceRequest>) {
        let mut table = this.table.lock();
        glue::trace_start(&this.label, request.rid, request.address, request.reason);
        table.add(request.clone(), reservation);
        Self::schedule_timeout(this, &mut table);
        let answered = request.state().access(&table).is_finished();
        drop(table);
        if answered {
            // The agent wrote as soon as it saw the directory.
            this.changed.wake_up_all();
        }
        Self::queue_notify(this, request.as_arc_borrow());
    }

    /// Has the timeout work run when the next request times out, or earlier. The kernel's timers
    /// may be late by an eighth of their delay, and so may the failure be.
    fn schedule_timeout(this: &Arc<Self>, table: &mut Table<FenceRequest>) {
        let Some(deadline) = table.deadline() else {
            return;
        };
        // A later request may time out earlier: root can change the parameter.
        if table
            .timeout_at
            .is_none_or(|scheduled| deadline < scheduled)
        {
            table.timeout_at = Some(deadline);
            let delay = deadline.saturating_sub(jiffies());
            DelayedWork::<Self, TIMEOUT>::reschedule(this, delay);
        }
    }

    /// Has the events of a request sent soon. Never sleeps.
    fn queue_notify(this: &Arc<Self>, request: ArcBorrow<'_, FenceRequest>) {
        if this.notifier.queue(request) {
            DelayedWork::<Self, NOTIFY>::schedule(this, NOTIFY_DELAY);
        }
    }

    /// The rid and the first reason of the oldest finished request, which stays listed, and whether
    /// it failed. Never sleeps.
    pub(crate) fn next(&self) -> Option<(u64, c_int, bool)> {
        let table = self.table.lock();
        let request = table.next()?;
        let failed = request.state().access(&table).has_failed();
        Some((request.rid, request.reason, failed))
    }

    /// Whether any listed request has the reason; those without a name count as one. Never sleeps.
    pub(crate) fn reason_pending(&self, reason: c_int) -> bool {
        self.table.lock().any_with(reason)
    }

    /// Takes a request off the list and removes its directory. May sleep.
    /// Errors: `ENOENT` if there is none.
    pub(crate) fn free(this: &Arc<Self>, rid: u64) -> Result {
        let mut admin = this.admin.lock();
        let request = admin.by_rid.remove(&rid).ok_or(ENOENT)?;
        let removed = {
            let mut table = this.table.lock();
            glue::trace_freed(&this.label, rid);
            table.remove(&request)
        };
        drop(removed);
        this.changed.wake_up_all();
        Self::remove_directory(this, &request, Removal::Freed);
        Ok(())
    }

    /// Removes the directory of a request that is no longer listed, and then has the uevent sent:
    /// under `admin`, as a new request for this rid takes the name, and its uevents come later.
    fn remove_directory(this: &Arc<Self>, request: &Arc<FenceRequest>, removal: Removal) {
        request.remove_directory();
        request.with_state(|state| state.events.queue(Event::Removed(removal)));
        Self::queue_notify(this, request.as_arc_borrow());
    }

    /// Waits, uninterruptibly, for at most `timeout` jiffies until every listed request is fenced.
    ///
    /// Sleeps, unless the timeout is 0.
    /// Errors: `EIO` if a request failed; `ESHUTDOWN` if requests were dropped; `ETIMEDOUT`.
    pub(crate) fn wait_fenced(&self, timeout: Jiffies) -> Result {
        glue::trace_wait_begin(&self.label, false, timeout);
        let (failures, drops) = {
            let table = self.table.lock();
            (table.failures, table.drops)
        };
        let outcome = self.changed.wait_event_timeout(timeout, || {
            let table = self.table.lock();
            if table.failures != failures || table.any_failed() {
                Some(Err(EIO))
            } else if table.drops != drops || table.destroyed {
                Some(Err(ESHUTDOWN.into()))
            } else {
                (!table.any_pending()).then_some(Ok(()))
            }
        });
        let result = outcome.map_or(Err(ETIMEDOUT.into()), |(outcome, _)| outcome);
        glue::trace_wait_end(&self.label, false, result.map(|()| 0));
        result
    }

    /// Waits, uninterruptibly, for at most `timeout` jiffies until [`next`](Self::next) returns
    /// a request.
    ///
    /// Returns the jiffies left then, at least 1, or 0 on timeout. Sleeps, unless the timeout is 0,
    /// in `TASK_IDLE`: a leader may have nothing to reclaim for days.
    /// Errors: `ESHUTDOWN` if a stop comes meanwhile, or the mount is destroyed.
    pub(crate) fn wait_next(&self, timeout: Jiffies) -> Result<Jiffies> {
        glue::trace_wait_begin(&self.label, true, timeout);
        let stops = self.table.lock().stops;
        let outcome = self.changed.wait_event_idle_timeout(timeout, || {
            let table = self.table.lock();
            if table.stops != stops || table.destroyed {
                Some(Err(ESHUTDOWN.into()))
            } else {
                table.any_finished().then_some(Ok(()))
            }
        });
        let result = match outcome {
            None => Ok(0),
            Some((outcome, remaining)) => outcome.map(|()| remaining.max(1)),
        };
        glue::trace_wait_end(&self.label, true, result);
        result
    }

    /// Whether no request is listed, and whether a listed one has failed. Never sleeps.
    pub(crate) fn drained(&self) -> (bool, bool) {
        let table = self.table.lock();
        (table.is_empty(), table.any_failed())
    }

    /// Drops every request; new ones may be started afterwards. May sleep.
    pub(crate) fn stop(this: &Arc<Self>) {
        Self::drop_requests(this, &mut this.admin.lock());
    }

    /// Drops every request, sends all events and removes the mount's directories. Sleeps.
    ///
    /// Once for each mount. Concurrent and later calls find no requests and cannot start any.
    pub(crate) fn destroy(this: &Arc<Self>) {
        let directories = {
            let mut admin = this.admin.lock();
            this.table.lock().destroyed = true;
            Self::drop_requests(this, &mut admin);
            admin.directories.take()
        };
        // No request is listed, no callback runs, and the timeout work is the last that queues
        // events. None of it is under a lock, as the notify work waits for uevents.
        DelayedWork::<Self, TIMEOUT>::cancel_sync(this);
        DelayedWork::<Self, NOTIFY>::flush(this);
        // Only now: it holds the filesystem's directory, whose address `mounts` has reserved.
        drop(directories);
    }

    /// Drops every request, and removes their directories.
    fn drop_requests(this: &Arc<Self>, admin: &mut Admin) {
        let cleared = {
            let mut table = this.table.lock();
            table.stops += 1;
            table.drops += u64::from(!table.is_empty());
            table.clear()
        };
        drop(cleared);
        this.changed.wake_up_all();
        for request in mem::replace(&mut admin.by_rid, RBTree::new()).values() {
            glue::trace_dropped(&this.label, request.rid);
            Self::remove_directory(this, request, Removal::Dropped);
        }
    }

    /// Wakes waiters and has events sent, once a request is finished. Never sleeps.
    pub(crate) fn finished(this: &Arc<Self>, request: ArcBorrow<'_, FenceRequest>) {
        this.changed.wake_up_all();
        Self::queue_notify(this, request);
    }

    /// Fails and returns a request that has timed out. If there is none, schedules the timeout work
    /// for the next one.
    fn time_out(this: &Arc<Self>) -> Option<Arc<FenceRequest>> {
        let mut table = this.table.lock();
        table.timeout_at = None;
        if let Some(request) = table.time_out(jiffies()) {
            glue::trace_failed(&this.label, request.rid, true);
            return Some(request);
        }
        Self::schedule_timeout(this, &mut table);
        None
    }
}

impl DelayedWorkItem<TIMEOUT> for Mount {
    fn run(this: Arc<Self>) {
        while let Some(request) = Self::time_out(&this) {
            Self::finished(&this, request.as_arc_borrow());
        }
    }
}

impl DelayedWorkItem<NOTIFY> for Mount {
    fn run(this: Arc<Self>) {
        this.notifier.send_all();
    }
}
