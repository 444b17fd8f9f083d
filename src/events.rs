// SPDX-License-Identifier: GPL-2.0-only

//! What is told of requests: to programs by uevents and by files that can be polled, to people by
//! one line in the kernel's log for each event.
//!
//! The words of the two lines about failed requests are looked for by existing monitors. They never
//! change.

use crate::{
    directory::{
        self,
        Subject,
        ERROR,
        FENCED, //
    },
    linux::{
        delayed_work::{
            self,
            DelayedWork,
            Run, //
        },
        inet,
        jiffies::Jiffies,
        kobject::{
            Action,
            Directory,
            Set,
            UeventSender, //
        },
        memalloc::NofsScope,
        module,
        text::{
            fmt,
            Text, //
        }, //
    },
    news::{
        Event,
        Failure,
        Report,
        State, //
    },
    request::Request, //
};
use core::{
    fmt::{
        self,
        Write as _, //
    },
    mem,
    net::IpAddr, //
};
use kernel::{
    list::{
        List,
        ListArc,
        ListItem,
        TryNewListArc, //
    },
    new_mutex,
    new_spinlock,
    prelude::*,
    str::CStr,
    sync::{
        Arc,
        ArcBorrow,
        Mutex,
        SpinLock, //
    }, //
};

/// A subject of which is told what happens to it.
pub(crate) trait Newsworthy: Subject + ListItem<0> + TryNewListArc<0> {
    /// How the log names the mount.
    fn mount(&self) -> &CStr;

    /// What is to be told next. Never sleeps.
    fn next_report(&self) -> Option<Report>;

    /// Wakes who polls the file, where the directory is still there. May sleep.
    fn notify(&self, file: &CStr);
}

/// How many jiffies pass before what has happened is told: what happens meanwhile is told in one
/// go, and costs who makes it happen next to nothing.
const DELAY: Jiffies = 1;

/// Tells programs and the log what happens to the requests of one mount, soon after it happened, so
/// that neither the leader nor who writes to a file waits for the log and for everybody who
/// listens.
///
/// What happens to one request is told in the order in which it happened. No program is told where
/// there is no memory for it: an agent that misses nothing looks at the directories too, from time
/// to time.
#[pin_data]
pub(crate) struct Teller<S: Newsworthy> {
    #[pin]
    queue: SpinLock<Queue<S>>,
    /// Nobody but the work itself takes it.
    #[pin]
    sender: Mutex<UeventSender>,
}

/// Of what there is something to be told.
struct Queue<S: Newsworthy> {
    subjects: List<S>,
    /// Whether the work is going to look at the list again.
    planned: bool,
}

/// A teller, as everybody refers to it.
pub(crate) type TellerRef<S> = Arc<DelayedWork<Teller<S>>>;

impl<S: Newsworthy> Teller<S> {
    /// A teller of the requests whose directories are below `fence`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(set: &Set, fence: &Directory) -> Result<TellerRef<S>> {
        let sender = UeventSender::new(set, fence)?;
        Arc::pin_init(
            DelayedWork::new(try_pin_init!(Self {
                queue <- new_spinlock!(
                    Queue {
                        subjects: List::new(),
                        planned: false,
                    },
                    "scoutfs_fence_news"
                ),
                sender <- new_mutex!(sender, "scoutfs_fence_sender"),
            })),
            GFP_KERNEL,
        )
    }

    /// Lets what has happened to the subject be told. Never sleeps.
    pub(crate) fn tell(
        this: &TellerRef<S>,
        queue: &delayed_work::Queue,
        subject: ArcBorrow<'_, S>,
    ) {
        let mut told = this.queue.lock();
        // What is on the list already is told of there. Only with the lock held is that sure.
        let Some(subject) = ListArc::try_from_arc_borrow(subject) else {
            return;
        };
        told.subjects.push_back(subject);
        if !mem::replace(&mut told.planned, true) {
            DelayedWork::modify(this, queue, DELAY);
        }
    }

    /// Waits until everything that has happened so far is told. May sleep.
    ///
    /// Two calls at the same time must be serialised by the caller.
    pub(crate) fn flush(this: &TellerRef<S>) {
        DelayedWork::flush(this);
    }

    /// The next one of which there is something to be told.
    fn next(&self) -> Option<Arc<S>> {
        let mut queue = self.queue.lock();
        let next = queue.subjects.pop_front().map(ListArc::into_arc);
        queue.planned = next.is_some();
        next
    }
}

impl<S: Newsworthy> Run for Teller<S> {
    /// Tells everything.
    fn run(this: TellerRef<S>) {
        let _nofs = NofsScope::enter();
        let mut sender = this.sender.lock();
        while let Some(subject) = this.next() {
            while let Some(report) = subject.next_report() {
                log(&*subject, report.event);
                wake(&*subject, &report);
                // Nothing to be done about an error, see above.
                let _ = send(&mut sender, &*subject, &report);
            }
        }
    }
}

/// Tells people.
fn log<S: Newsworthy>(subject: &S, event: Event) {
    let mount = subject.mount();
    let rid = subject.look(Request::rid);
    match event {
        Event::Made => {
            let (address, reason) =
                subject.look(|request| (request.address(), request.reason_name()));
            requested(mount, rid, address, reason);
        }
        Event::Fenced(moment) => {
            fenced(
                mount,
                rid,
                subject.look(|request| request.elapsed_ms(moment)),
            );
        }
        Event::Failed(Failure::Indicated) => error(mount, rid),
        Event::Failed(Failure::TimedOut) => {
            timed_out(mount, rid, subject.look(Request::timeout_ms));
        }
        Event::Gone => {}
    }
}

/// Tells who polls the files.
fn wake<S: Newsworthy>(subject: &S, report: &Report) {
    for (file, shown) in [(FENCED, State::Fenced), (ERROR, State::Failed)] {
        if (report.before == shown) != (report.state == shown) {
            subject.notify(file);
        }
    }
}

/// Tells who listens to uevents.
fn send<S: Newsworthy>(sender: &mut UeventSender, subject: &S, report: &Report) -> Result {
    let action = match report.event {
        Event::Made => Action::Add,
        Event::Fenced(_) | Event::Failed(_) => Action::Change,
        Event::Gone => Action::Remove,
    };
    let (rid, address, reason) =
        subject.look(|request| (request.rid(), request.address(), request.reason_name()));
    let name = directory::name(rid);
    sender.send(
        name.as_str(),
        action,
        &[
            ("SCOUTFS_FENCE_RID", &name.as_str()),
            ("SCOUTFS_FENCE_ADDRESS", &inet::Display(address)),
            ("SCOUTFS_FENCE_REASON", &reason),
            ("SCOUTFS_FENCE_STATE", &report.state.name()),
        ],
    )
}

/// The longest line that is logged: the longest name that a mount can have, and what is said of it.
const LINE: usize = 512;

/// Formats a line once. What the kernel's macros are given they format twice, first for its length.
fn print_line(line: fmt::Arguments<'_>, print: fn(&str)) {
    let mut buffer = [0; LINE];
    let mut text = Text::new(&mut buffer);
    // What is too long is cut, as the kernel's macros do.
    let _ = text.write_fmt(line);
    print(text.as_str());
}

/// The module is there.
pub(crate) fn loaded() {
    pr_info!("version {} loaded\n", module::version());
}

/// A request was made, and its directory can be seen.
fn requested(mount: &CStr, rid: u64, address: IpAddr, reason: &str) {
    let address = inet::Display(address);
    print_line(
        fmt!(
            "{mount}: fence request for rid {rid:016x} at {} made: {reason}",
            format_args!("{address}")
        ),
        |line| pr_info!("{line}\n"),
    );
}

/// Userspace has fenced the mount.
fn fenced(mount: &CStr, rid: u64, elapsed_ms: u64) {
    print_line(
        fmt!("{mount}: fence request for rid {rid:016x} fenced after {elapsed_ms}ms"),
        |line| pr_info!("{line}\n"),
    );
}

/// Userspace could not fence the mount.
fn error(mount: &CStr, rid: u64) {
    pr_err!("{mount}: error indicated by fence action for rid {rid:016x}\n");
}

/// Nobody answered in time.
fn timed_out(mount: &CStr, rid: u64, timeout_ms: u32) {
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
