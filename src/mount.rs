// SPDX-License-Identifier: GPL-2.0-only

//! The fence requests of one mount.
//!
//! # Locking
//!
//! - The mutex `directories` serialises making and removing directories. Whoever changes which
//!   requests are listed holds it. It is taken first.
//! - The mutex around each request's directory is taken next. It is not held while a directory is
//!   made or removed, and keeps one that is there in its place while its pollers are woken.
//! - The spinlock `requests` protects the list and the state of every request on it. It is held
//!   shortly, with no allocation and no sleep.
//! - The spinlock in the [`Teller`] is taken with none of the others held but the first.
//!
//! A write to a file takes the spinlocks only. It runs while sysfs holds the file active, and who
//! removes the directory waits for it with the first mutex held.
//!
//! What has happened is told by the teller's work, later and with no lock of these held but that of
//! the directory. Who drops all requests waits for it with the first mutex held.
//!
//! # Waiting
//!
//! Everything that a waiter could be waiting for wakes [`Mount::changed`], after the change was
//! made under the spinlock. As a request can fail and be freed before a waiter runs, and a list can
//! be dropped and filled again, failures, drops and stops are counted, and a waiter compares the
//! counts with those at its beginning.

use crate::{
    directory::{
        self,
        RequestDirectory,
        Subject, //
    },
    events::{
        self,
        Newsworthy,
        Teller,
        TellerRef, //
    },
    linux::{
        delayed_work::{
            DelayedWork,
            Queue,
            Run, //
        },
        errno::{
            ESHUTDOWN,
            ETIMEDOUT, //
        },
        jiffies::{
            jiffies,
            Deadline,
            Jiffies, //
        },
        kobject::{
            Directory,
            Kobject,
            Set, //
        },
        list::impl_list_item,
        memalloc::NofsScope,
        module,
        super_block::Device,
        wait_queue::WaitQueue, //
    },
    news::{
        Failure,
        Report, //
    },
    request::Request,
    requests::{
        Entry,
        Finished,
        ReasonRoom,
        Requests,
        Room, //
    }, //
};
use core::{
    mem,
    net::IpAddr, //
};
use kernel::{
    c_str,
    ffi::c_int,
    list::{
        AtomicTracker,
        ListLinks,
        TryNewListArc, //
    },
    new_mutex,
    new_spinlock,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    str::{
        CStr,
        CString, //
    },
    sync::{
        Arc,
        ArcBorrow,
        LockedBy,
        Mutex,
        SpinLock, //
    }, //
};

/// A mount, as everybody refers to it: its timeout is a work that can be queued.
pub(crate) type MountRef = Arc<DelayedWork<Mount>>;

/// One mount: its directory, its requests, and who waits for them.
#[pin_data]
pub(crate) struct Mount {
    name: CString,
    place: Place,
    /// The registry holds it longer than any mount does, so that a mount which is dropped by its
    /// own alarm does not drop the queue that runs it.
    shared: Arc<Shared>,
    teller: TellerRef<Listed>,
    #[pin]
    directories: Mutex<Directories>,
    #[pin]
    requests: SpinLock<Requests<Listed>>,
    #[pin]
    changed: WaitQueue,
}

/// What all mounts share while the module is loaded.
pub(crate) struct Shared {
    /// `/sys/fs/scoutfs_fence`, by whose name the uevents of all requests are known.
    pub(crate) directory: Set,
    /// What the alarms are queued on.
    pub(crate) alarms: Queue,
    /// What the tellers are queued on. They allocate, which no alarm may wait for.
    pub(crate) tellers: Queue,
}

/// What a mount has in sysfs. The fields are dropped, and so removed, from the inside out.
struct Directories {
    by_rid: RBTree<u64, Arc<Listed>>,
    /// How many requests there were so far.
    started: u64,
    /// The parent of all requests' directories, until the mount is destroyed.
    fence: Option<Directory>,
    /// The parent of that, where it is ours.
    parent: Option<Directory>,
}

/// A request, and the mount that it is listed at.
#[pin_data]
pub(crate) struct Listed {
    mount: MountRef,
    number: u64,
    request: LockedBy<Request, Requests<Self>>,
    /// There while the request is listed.
    #[pin]
    directory: Mutex<Option<RequestDirectory<Self>>>,
    #[pin]
    links: ListLinks,
    #[pin]
    tracker: AtomicTracker,
}

impl_list_item!(Listed, links, tracker);

/// What tells the directory of one mount from that of every other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A directory of ours, named for the device.
    Device(Device),
    /// The filesystem's directory of that [identity](Kobject::identity).
    Kobject(usize),
}

/// The directory that a mount's requests are shown below.
pub(crate) enum Parent<'a> {
    /// One of ours, which goes with the mount.
    Ours(Directory),
    /// One that the filesystem has made.
    TheFilesystems(&'a Kobject),
}

impl Parent<'_> {
    fn kobject(&self) -> &Kobject {
        match self {
            Parent::Ours(directory) => directory,
            Parent::TheFilesystems(kobject) => kobject,
        }
    }
}

/// How many requests that time out at once are marked before the spinlock is given up.
const BATCH: usize = 16;

impl Mount {
    /// Makes a mount whose requests are shown in `fence/` below `parent`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(place: Place, parent: Parent<'_>, shared: Arc<Shared>) -> Result<MountRef> {
        let _nofs = NofsScope::enter();
        let name = CString::try_from(parent.kobject().name())?;
        // It holds a reference to its parent until it is removed.
        let fence = Directory::create(c_str!("fence"), parent.kobject())?;
        let teller = Teller::new(&shared.directory, &fence)?;
        let directories = Directories {
            by_rid: RBTree::new(),
            started: 0,
            fence: Some(fence),
            parent: match parent {
                Parent::Ours(directory) => Some(directory),
                Parent::TheFilesystems(_) => None,
            },
        };
        Arc::pin_init(
            DelayedWork::new(try_pin_init!(Self {
                name,
                place,
                shared,
                teller,
                directories <- new_mutex!(directories, "scoutfs_fence_directories"),
                requests <- new_spinlock!(Requests::new(), "scoutfs_fence_requests"),
                changed <- WaitQueue::new(),
            })),
            GFP_KERNEL,
        )
    }

    /// How the log names the mount.
    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// What no other mount may have.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Lists a request for the mount `rid`, or adds the reason to the one that is listed.
    ///
    /// May sleep. Does not recurse into the filesystem.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENODEV` where the mount has been destroyed meanwhile, or the filesystem has
    /// removed the parent's directory, which the C side logs.
    pub(crate) fn start(this: &MountRef, rid: u64, address: IpAddr, reason: c_int) -> Result {
        let _nofs = NofsScope::enter();
        let mut directories = this.directories.lock();
        let fence = directories.fence.as_ref().ok_or(ENODEV)?;
        if let Some(listed) = directories.by_rid.get(&rid) {
            return listed.add_reason(reason);
        }

        let request = Request::new(rid, address, reason, jiffies(), module::timeout_ms());
        let number = directories.started;
        let listed = Arc::pin_init(
            try_pin_init!(Listed {
                mount: this.clone(),
                number,
                request: LockedBy::new(&this.requests, request),
                directory <- new_mutex!(None, "scoutfs_fence_directory"),
                links <- ListLinks::new(),
                tracker <- AtomicTracker::new(),
            }),
            GFP_KERNEL,
        )?;
        let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let room = Room::new(reason)?;
        let directory = directory::create(rid, fence, listed.clone()).map_err(|error| {
            // Where the filesystem has removed the parent, it is as after destroy.
            if error == ENOENT {
                ENODEV
            } else {
                error
            }
        })?;
        *listed.directory.lock() = Some(directory);
        directories
            .by_rid
            .insert(node.into_node(rid, listed.clone()));
        directories.started += 1;
        Mount::list(this, listed.clone(), room);
        this.tell_of(listed.as_arc_borrow());
        Ok(())
    }

    /// Puts a request, whose directory is complete, on the list.
    fn list(this: &MountRef, listed: Arc<Listed>, room: Room<Listed>) {
        let mut requests = this.requests.lock();
        let now = jiffies();
        let remaining = listed.request.access(&requests).remaining(now);
        requests.list(listed, room);
        if let Some(remaining) = remaining {
            Mount::set_alarm(this, &mut requests, now, remaining);
            return;
        }
        drop(requests);
        // Userspace was faster than we: it saw the directory, and has answered.
        this.changed.wake_up_all();
    }

    /// Lets [`Mount::run`] look for requests that have timed out in `remaining` jiffies, or sooner
    /// where that is planned. The caller holds the spinlock.
    fn set_alarm(
        this: &MountRef,
        requests: &mut Requests<Listed>,
        now: Jiffies,
        remaining: Jiffies,
    ) {
        // The span of newer requests can be shorter: root may have changed the parameter.
        if requests
            .alarm
            .is_none_or(|alarm| remaining < alarm.remaining(now))
        {
            requests.alarm = Some(Deadline::new(now, remaining));
            DelayedWork::modify(this, &this.shared.alarms, remaining);
        }
    }

    /// The oldest finished request, which stays listed. Never sleeps.
    pub(crate) fn next(&self) -> Option<Finished> {
        self.requests.lock().next()
    }

    /// Whether any listed request carries the reason. Never sleeps.
    pub(crate) fn reason_pending(&self, reason: c_int) -> bool {
        self.requests.lock().any_with(reason)
    }

    /// Takes a request off the list, finished or not, and its directory away. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOENT` where there is none.
    pub(crate) fn free(&self, rid: u64) -> Result {
        let mut directories = self.directories.lock();
        let listed = directories.by_rid.remove(&rid).ok_or(ENOENT)?;
        self.requests.lock().remove(&listed);
        self.changed.wake_up_all();
        self.tell_of(listed.as_arc_borrow());
        // Before the mutex is given up, so that a new request for this rid can have the directory's
        // name.
        listed.remove_directory();
        Ok(())
    }

    /// Waits, uninterruptibly, for `timeout` jiffies until every listed request is fenced.
    ///
    /// Sleeps, unless the timeout is 0.
    ///
    /// # Errors
    ///
    /// `EIO` where a request failed; `ESHUTDOWN` where requests were dropped; `ETIMEDOUT`.
    pub(crate) fn wait_fenced(&self, timeout: Jiffies) -> Result {
        let (failures, drops) = {
            let requests = self.requests.lock();
            (requests.failures, requests.drops)
        };
        let outcome = self.changed.wait_event_timeout(timeout, || {
            let requests = self.requests.lock();
            if requests.failures != failures || requests.any_failed() {
                Some(Err(EIO))
            } else if requests.drops != drops || requests.destroyed {
                Some(Err(ESHUTDOWN.into()))
            } else {
                (!requests.any_unanswered()).then_some(Ok(()))
            }
        });
        outcome.map_or(Err(ETIMEDOUT.into()), |(outcome, _)| outcome)
    }

    /// Waits, uninterruptibly, for `timeout` jiffies until [`next`](Self::next) tells something.
    ///
    /// Returns the jiffies that were left then, and `None` where the time was over. Sleeps, unless
    /// the timeout is 0; a leader may have nothing to reclaim for days, and counts as idle.
    ///
    /// # Errors
    ///
    /// `ESHUTDOWN` where a stop comes meanwhile, and after destroy.
    pub(crate) fn wait_next(&self, timeout: Jiffies) -> Result<Option<Jiffies>> {
        let stops = self.requests.lock().stops;
        let outcome = self.changed.wait_event_idle_timeout(timeout, || {
            let requests = self.requests.lock();
            if requests.stops != stops || requests.destroyed {
                Some(Err(ESHUTDOWN))
            } else {
                requests.any_finished().then_some(Ok(()))
            }
        });
        let Some((outcome, remaining)) = outcome else {
            return Ok(None);
        };
        outcome?;
        Ok(Some(remaining))
    }

    /// Whether no request is listed, and whether a listed one has failed. Never sleeps.
    pub(crate) fn drained(&self) -> (bool, bool) {
        let requests = self.requests.lock();
        (requests.is_empty(), requests.any_failed())
    }

    /// Drops every request; new ones can be made again. May sleep.
    pub(crate) fn stop(&self) {
        self.drop_requests(&mut self.directories.lock());
    }

    /// Drops every request, and removes the mount's directory. May sleep.
    ///
    /// Calls that race with this, or come after it, find no requests and can make none.
    pub(crate) fn destroy(this: &MountRef) {
        let mut directories = this.directories.lock();
        this.requests.lock().destroyed = true;
        this.drop_requests(&mut directories);
        directories.fence = None;
        directories.parent = None;
        drop(directories);
        // Nothing is listed any more that the alarm could be set for again.
        DelayedWork::cancel_sync(this);
        // It may have had something to tell until now.
        this.flush(&mut this.directories.lock());
    }

    /// Drops every request, and returns when that is told.
    fn drop_requests(&self, directories: &mut Directories) {
        let dropped = {
            let mut requests = self.requests.lock();
            requests.stops += 1;
            requests.drops += u64::from(!requests.is_empty());
            requests.clear()
        };
        self.changed.wake_up_all();
        // While the caller holds the mutex, so that new requests can have the same names.
        for listed in mem::replace(&mut directories.by_rid, RBTree::new()).values() {
            listed
                .request
                .access_mut(&mut self.requests.lock())
                .remove();
            self.tell_of(listed.as_arc_borrow());
            listed.remove_directory();
        }
        self.flush(directories);
        if dropped.count() > 0 {
            events::dropped(&self.name, dropped.count());
        }
    }

    /// Waits until everything that has happened is told. The caller holds the mutex, so that there
    /// is one at a time.
    fn flush(&self, _directories: &mut Directories) {
        Teller::flush(&self.teller);
    }

    /// Lets what has happened to a request be told soon. Never sleeps.
    fn tell_of(&self, listed: ArcBorrow<'_, Listed>) {
        Teller::tell(&self.teller, &self.shared.tellers, listed);
    }

    /// Marks requests that nobody answered in time as failed, and says which, [`BATCH`] of them at
    /// the most. Where that was all, sets the alarm for the next one.
    fn expire(this: &MountRef) -> [Option<Arc<Listed>>; BATCH] {
        let mut requests = this.requests.lock();
        let now = jiffies();
        requests.alarm = None;
        let overdue = [(); BATCH].map(|()| requests.expire(now));
        if let (Some(None), Some(remaining)) = (overdue.last(), requests.remaining(now)) {
            Mount::set_alarm(this, &mut requests, now, remaining);
        }
        overdue
    }
}

impl Run for Mount {
    /// The alarm: some request may have timed out.
    fn run(this: MountRef) {
        loop {
            let overdue = Mount::expire(&this);
            if overdue.iter().any(Option::is_some) {
                this.changed.wake_up_all();
            }
            let all = overdue.last().is_some_and(Option::is_none);
            for listed in overdue.into_iter().flatten() {
                this.tell_of(listed.as_arc_borrow());
            }
            if all {
                return;
            }
        }
    }
}

impl Entry for Listed {
    fn request(&self) -> &LockedBy<Request, Requests<Self>> {
        &self.request
    }

    fn number(&self) -> u64 {
        self.number
    }
}

impl Listed {
    /// Lets who waits know of an answer, where it is one.
    fn has_finished(this: ArcBorrow<'_, Self>, news: bool) {
        if news {
            this.mount.changed.wake_up_all();
            this.mount.tell_of(this);
        }
    }

    /// Removes the directory, and waits for who reads or writes its files. May sleep.
    fn remove_directory(&self) {
        // The mutex is given up first: the teller need not wait, too.
        let directory = self.directory.lock().take();
        drop(directory);
    }

    /// Adds a reason, unless the request carries it. May sleep.
    ///
    /// The caller holds the mutex, under which alone reasons are added, so that there are as many
    /// when the room for one more has been allocated.
    fn add_reason(&self, reason: c_int) -> Result {
        let Some(count) =
            self.look(|request| (!request.carries(reason)).then(|| request.further_reasons()))
        else {
            return Ok(());
        };
        let reasons = KVec::with_capacity(count + 1, GFP_KERNEL)?;
        let room = ReasonRoom::new(reason)?;
        let mut requests = self.mount.requests.lock();
        let old = requests.add_reason(self, reason, reasons, room);
        drop(requests);
        old.map(drop)
    }
}

impl Subject for Listed {
    fn look<R>(&self, look: impl FnOnce(&Request) -> R) -> R {
        look(self.request.access(&self.mount.requests.lock()))
    }

    fn fenced(this: ArcBorrow<'_, Self>) -> Result {
        let news = this.mount.requests.lock().fence(&this, jiffies())?;
        Listed::has_finished(this, news);
        Ok(())
    }

    fn error(this: ArcBorrow<'_, Self>) {
        let news = this.mount.requests.lock().fail(&this, Failure::Indicated);
        Listed::has_finished(this, news);
    }
}

impl Newsworthy for Listed {
    fn mount(&self) -> &CStr {
        &self.mount.name
    }

    fn next_report(&self) -> Option<Report> {
        let mut requests = self.mount.requests.lock();
        self.request.access_mut(&mut requests).next_report()
    }

    fn notify(&self, file: &CStr) {
        if let Some(directory) = &*self.directory.lock() {
            directory.directory().notify(file);
        }
    }
}
