// SPDX-License-Identifier: GPL-2.0-only

//! The listed requests of a mount, so kept that every question about them is answered at once,
//! however many there are.
//!
//! A mount has a spinlock around them. Nothing is allocated under it: who lists a request brings
//! the room.

use crate::{
    linux::{
        header,
        jiffies::{
            Deadline,
            Jiffies, //
        }, //
    },
    news::Failure,
    request::Request, //
};
use core::mem;
use kernel::{
    ffi::c_int,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        Arc,
        LockedBy, //
    }, //
};

/// What is listed: a request, which may be looked at under the lock alone.
pub(crate) trait Entry: Sized {
    /// The request.
    fn request(&self) -> &LockedBy<Request, Requests<Self>>;

    /// How many requests of the mount were started before this one.
    fn number(&self) -> u64;
}

/// Where a request stands among others: the unanswered in the order of their deadlines, the
/// finished, which have none any more, in the order of their start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    deadline: Option<Jiffies>,
    number: u64,
}

/// Requests by their turns. Whether there are any is known without going down the tree.
struct Sorted<T> {
    tree: RBTree<Turn, Arc<T>>,
    length: usize,
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self {
            tree: RBTree::new(),
            length: 0,
        }
    }
}

impl<T> Sorted<T> {
    fn first(&self) -> Option<&Arc<T>> {
        self.tree.values().next()
    }

    fn contains(&self, turn: &Turn) -> bool {
        self.tree.get(turn).is_some()
    }

    fn insert(&mut self, turn: Turn, entry: Arc<T>, place: Place<T>) {
        self.tree.insert(place.into_node(turn, entry));
        self.length += 1;
    }

    fn remove(&mut self, turn: &Turn) -> Option<(Arc<T>, Place<T>)> {
        let found = self.tree.find_mut(turn)?;
        let entry = found.get().clone();
        self.length -= 1;
        Some((entry, found.remove_node().into_reservation()))
    }
}

/// The room for a request among those that are sorted.
type Place<T> = RBTreeNodeReservation<Turn, Arc<T>>;

/// The room for a listed request.
pub(crate) struct Room<T> {
    place: Place<T>,
    reason: ReasonRoom,
}

/// The room for one more reason. Those that have names need none.
pub(crate) struct ReasonRoom(Option<RBTreeNodeReservation<c_int, usize>>);

impl<T> Room<T> {
    /// For a request that is made for `reason`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(reason: c_int) -> Result<Self> {
        Ok(Self {
            place: RBTreeNodeReservation::new(GFP_KERNEL)?,
            reason: ReasonRoom::new(reason)?,
        })
    }
}

impl ReasonRoom {
    /// For `reason`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(reason: c_int) -> Result<Self> {
        Ok(Self(match named(reason) {
            Some(_) => None,
            None => Some(RBTreeNodeReservation::new(GFP_KERNEL)?),
        }))
    }
}

/// How many reasons have names. They are the smallest numbers.
const NAMED: usize = header::SCOUTFS_FENCE_QUORUM_BLOCK_LEADER as usize + 1;

/// The place of a reason among those that have names.
fn named(reason: c_int) -> Option<usize> {
    usize::try_from(reason).ok().filter(|place| *place < NAMED)
}

/// How many requests carry each reason.
struct Reasons {
    named: [usize; NAMED],
    /// None is 0.
    others: RBTree<c_int, usize>,
}

impl Default for Reasons {
    fn default() -> Self {
        Self {
            named: [0; NAMED],
            others: RBTree::new(),
        }
    }
}

impl Reasons {
    fn contains(&self, reason: c_int) -> bool {
        match named(reason) {
            Some(place) => self.named[place] > 0,
            None => self.others.get(&reason).is_some(),
        }
    }

    /// Counts one more. The room is for this reason.
    fn count(&mut self, reason: c_int, room: ReasonRoom) {
        if let Some(place) = named(reason) {
            self.named[place] += 1;
        } else if let Some(count) = self.others.get_mut(&reason) {
            *count += 1;
        } else if let Some(room) = room.0 {
            self.others.insert(room.into_node(reason, 1));
        }
    }

    /// Counts one less.
    fn discount(&mut self, reason: c_int) {
        if let Some(place) = named(reason) {
            self.named[place] -= 1;
        } else if let Some(mut count) = self.others.find_mut(&reason) {
            if *count.get() > 1 {
                *count.get_mut() -= 1;
            } else {
                count.remove();
            }
        }
    }
}

/// What is told of a finished request.
pub(crate) struct Finished {
    /// The identity of the mount that was to be fenced.
    pub(crate) rid: u64,
    /// The first reason.
    pub(crate) reason: c_int,
    /// Whether fencing failed.
    pub(crate) error: bool,
}

/// The requests of a mount, and what has happened to them so far.
pub(crate) struct Requests<T> {
    /// The listed ones without an answer, by their deadlines.
    unanswered: Sorted<T>,
    /// The other listed ones, in the order of their start.
    finished: Sorted<T>,
    /// How many of the finished have failed.
    failed: usize,
    /// How many of the listed carry each reason.
    reasons: Reasons,
    /// How many of those that are or were listed have failed so far.
    pub(crate) failures: u64,
    /// How often there were requests that a stop dropped.
    pub(crate) drops: u64,
    /// How often the leader stepped down.
    pub(crate) stops: u64,
    /// Whether this is the end: nothing is listed any more.
    pub(crate) destroyed: bool,
    /// When somebody is going to look for requests that have timed out.
    pub(crate) alarm: Option<Deadline>,
}

/// Requests that are no longer listed.
pub(crate) struct Dropped<T> {
    requests: [Sorted<T>; 2],
    _reasons: Reasons,
}

impl<T> Dropped<T> {
    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.requests.iter().map(|sorted| sorted.length).sum()
    }
}

impl<T: Entry> Requests<T> {
    /// No requests.
    pub(crate) fn new() -> Self {
        Self {
            unanswered: Sorted::default(),
            finished: Sorted::default(),
            failed: 0,
            reasons: Reasons::default(),
            failures: 0,
            drops: 0,
            stops: 0,
            destroyed: false,
            alarm: None,
        }
    }

    /// Lists a request.
    pub(crate) fn list(&mut self, entry: Arc<T>, room: Room<T>) {
        let turn = self.turn(&entry);
        let request = entry.request().access_mut(self);
        request.list();
        let (reason, failed) = (request.reason(), request.has_failed());
        if failed {
            self.count_failed();
        }
        self.reasons.count(reason, room.reason);
        self.sorted(turn).insert(turn, entry, room.place);
    }

    /// Takes a request off the list.
    pub(crate) fn remove(&mut self, entry: &T) -> Option<Arc<T>> {
        let turn = self.turn(entry);
        let (removed, _) = self.sorted(turn).remove(&turn)?;
        let request = entry.request().access_mut(self);
        request.remove();
        let failed = request.has_failed();
        self.failed -= usize::from(failed);
        let mut reasons = 0;
        while let Some(reason) = entry.request().access(self).nth_reason(reasons) {
            self.reasons.discount(reason);
            reasons += 1;
        }
        Some(removed)
    }

    /// Takes all requests off the list. That each is gone is for the caller to note.
    pub(crate) fn clear(&mut self) -> Dropped<T> {
        self.failed = 0;
        Dropped {
            requests: [&mut self.unanswered, &mut self.finished].map(mem::take),
            _reasons: mem::take(&mut self.reasons),
        }
    }

    /// Adds a reason to a listed request that does not carry it. See [`Request::add_reason`].
    ///
    /// # Errors
    ///
    /// `ENOMEM` where the room does not suffice.
    pub(crate) fn add_reason(
        &mut self,
        entry: &T,
        reason: c_int,
        reasons: KVec<c_int>,
        room: ReasonRoom,
    ) -> Result<KVec<c_int>> {
        let request = entry.request().access_mut(self);
        let old = request.add_reason(reason, reasons)?;
        self.reasons.count(reason, room);
        Ok(old)
    }

    /// See [`Request::fence`].
    pub(crate) fn fence(&mut self, entry: &T, now: Jiffies) -> Result<bool> {
        self.change(entry, |request| request.fence(now))
    }

    /// See [`Request::fail`].
    pub(crate) fn fail(&mut self, entry: &T, failure: Failure) -> bool {
        let news = self.change(entry, |request| request.fail(failure));
        if news && self.finished.contains(&self.turn(entry)) {
            self.count_failed();
        }
        news
    }

    /// Marks the request that is overdue the longest, if any, as failed.
    pub(crate) fn expire(&mut self, now: Jiffies) -> Option<Arc<T>> {
        if self.remaining(now)? > 0 {
            return None;
        }
        let entry = self.unanswered.first()?.clone();
        self.fail(&entry, Failure::TimedOut);
        Some(entry)
    }

    /// How many jiffies are left until the next unanswered request is overdue.
    pub(crate) fn remaining(&self, now: Jiffies) -> Option<Jiffies> {
        let entry = self.unanswered.first()?;
        entry.request().access(self).remaining(now)
    }

    /// The finished request that was started first.
    pub(crate) fn next(&self) -> Option<Finished> {
        let entry = self.finished.first()?;
        let request = entry.request().access(self);
        Some(Finished {
            rid: request.rid(),
            reason: request.reason(),
            error: request.has_failed(),
        })
    }

    /// Whether no request is listed.
    pub(crate) fn is_empty(&self) -> bool {
        !self.any_unanswered() && !self.any_finished()
    }

    /// Whether a listed request waits for an answer.
    pub(crate) fn any_unanswered(&self) -> bool {
        self.unanswered.length > 0
    }

    /// Whether a listed request has its answer.
    pub(crate) fn any_finished(&self) -> bool {
        self.finished.length > 0
    }

    /// Whether a listed request has failed.
    pub(crate) fn any_failed(&self) -> bool {
        self.failed > 0
    }

    /// Whether a listed request carries the reason.
    pub(crate) fn any_with(&self, reason: c_int) -> bool {
        self.reasons.contains(reason)
    }

    fn turn(&self, entry: &T) -> Turn {
        Turn {
            deadline: entry.request().access(self).deadline(),
            number: entry.number(),
        }
    }

    /// Counts a listed request that has failed. What is not listed is nobody's failure.
    fn count_failed(&mut self) {
        self.failed += 1;
        self.failures += 1;
    }

    /// Where a request of this turn is, if it is listed.
    fn sorted(&mut self, turn: Turn) -> &mut Sorted<T> {
        match turn.deadline {
            Some(_) => &mut self.unanswered,
            None => &mut self.finished,
        }
    }

    /// Changes a request, and where it stands if it is listed: a write to its files can be earlier
    /// than that, or later.
    fn change<R>(&mut self, entry: &T, change: impl FnOnce(&mut Request) -> R) -> R {
        let old = self.turn(entry);
        let result = change(entry.request().access_mut(self));
        let new = self.turn(entry);
        if new != old {
            if let Some((entry, place)) = self.sorted(old).remove(&old) {
                self.sorted(new).insert(new, entry, place);
            }
        }
        result
    }
}

#[cfg(kunit)]
mod tests {
    use super::*;
    use crate::linux::{
        jiffies::msecs_to_jiffies,
        kunit::{
            check,
            check_eq,
            suite, //
        }, //
    };
    use core::net::{
        IpAddr,
        Ipv4Addr, //
    };
    use kernel::{
        new_spinlock,
        sync::SpinLock, //
    };

    suite!(
        scoutfs_fence_requests,
        [
            the_oldest_finished_request_is_next,
            a_fenced_request_that_fails_keeps_its_place,
            requests_expire_in_the_order_of_their_deadlines,
            an_answer_comes_before_the_deadline,
            an_answer_may_come_before_the_request_is_listed,
            a_failure_of_what_is_not_listed_any_more_is_nobodys,
            a_reason_goes_with_the_last_that_carries_it,
            nothing_is_left_of_what_was_removed,
            nothing_is_left_after_all_were_dropped,
        ]
    );

    const NOW: Jiffies = 1000;

    struct Item {
        number: u64,
        request: LockedBy<Request, Requests<Item>>,
    }

    impl Entry for Item {
        fn request(&self) -> &LockedBy<Request, Requests<Self>> {
            &self.request
        }

        fn number(&self) -> u64 {
            self.number
        }
    }

    struct Board(Arc<SpinLock<Requests<Item>>>);

    impl Board {
        fn new() -> Result<Self> {
            let requests = new_spinlock!(Requests::new(), "scoutfs_fence_tested_requests");
            Ok(Self(Arc::pin_init(requests, GFP_KERNEL)?))
        }

        /// A request that is not listed yet, made for the reason that is its rid and number.
        fn request(&self, number: u8, timeout_ms: u32) -> Result<Arc<Item>> {
            let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            let request = Request::new(number.into(), address, number.into(), NOW, timeout_ms);
            let item = Item {
                number: number.into(),
                request: LockedBy::new(&self.0, request),
            };
            Ok(Arc::new(item, GFP_KERNEL)?)
        }

        fn list(&self, item: &Arc<Item>) -> Result {
            let room = Room::new(item.number as c_int)?;
            self.0.lock().list(item.clone(), room);
            Ok(())
        }

        /// Three listed requests, the numbers 1 to 3, with these timeouts.
        fn listed(&self, timeouts_ms: [u32; 3]) -> Result<[Arc<Item>; 3]> {
            let items = [
                self.request(1, timeouts_ms[0])?,
                self.request(2, timeouts_ms[1])?,
                self.request(3, timeouts_ms[2])?,
            ];
            for item in &items {
                self.list(item)?;
            }
            Ok(items)
        }

        fn add_reason(&self, item: &Item, reason: c_int) -> Result {
            let reasons = KVec::with_capacity(8, GFP_KERNEL)?;
            let room = ReasonRoom::new(reason)?;
            let old = self.0.lock().add_reason(item, reason, reasons, room)?;
            drop(old);
            Ok(())
        }

        fn next(&self) -> Option<(u64, bool)> {
            let next = self.0.lock().next()?;
            Some((next.rid, next.error))
        }

        fn remove(&self, item: &Item) -> bool {
            let removed = self.0.lock().remove(item);
            removed.is_some_and(|removed| removed.number == item.number)
        }
    }

    fn the_oldest_finished_request_is_next() -> Result {
        let board = Board::new()?;
        let [first, second, third] = board.listed([100, 100, 100])?;
        check_eq!(board.next(), None);
        for (item, next) in [(&third, 3), (&first, 1), (&second, 1)] {
            check_eq!(board.0.lock().fence(item, NOW), Ok(true));
            check_eq!(board.next(), Some((next, false)));
        }
        check!(!board.0.lock().any_unanswered());
        for (item, next) in [
            (&first, Some((2, false))),
            (&second, Some((3, false))),
            (&third, None),
        ] {
            check!(board.remove(item));
            check_eq!(board.next(), next);
        }
        Ok(())
    }

    fn a_fenced_request_that_fails_keeps_its_place() -> Result {
        let board = Board::new()?;
        let [first, second, third] = board.listed([100, 100, 100])?;
        for item in [&second, &first, &third] {
            check_eq!(board.0.lock().fence(item, NOW), Ok(true));
        }
        check!(!board.0.lock().any_failed());
        check!(board.0.lock().fail(&first, Failure::Indicated));
        check!(!board.0.lock().fail(&first, Failure::Indicated));
        check!(board.0.lock().any_failed());
        check_eq!(board.0.lock().failures, 1);
        check_eq!(board.next(), Some((1, true)));
        check!(board.remove(&first));
        check!(!board.0.lock().any_failed());
        check_eq!(board.0.lock().failures, 1);
        check_eq!(board.next(), Some((2, false)));
        Ok(())
    }

    fn requests_expire_in_the_order_of_their_deadlines() -> Result {
        let board = Board::new()?;
        board.listed([300, 100, 100])?;
        let (early, late) = (msecs_to_jiffies(100), msecs_to_jiffies(300));
        let expired = |now| {
            let expired = board.0.lock().expire(now);
            expired.map(|item| item.number)
        };
        check_eq!(board.0.lock().remaining(NOW), Some(early));
        check_eq!(expired(NOW + early - 1), None);
        check_eq!(expired(NOW + early), Some(2));
        check_eq!(expired(NOW + early), Some(3));
        check_eq!(expired(NOW + early), None);
        check_eq!(board.0.lock().remaining(NOW), Some(late));
        check_eq!(expired(NOW + 2 * late), Some(1));
        check_eq!(expired(NOW + 2 * late), None);
        check_eq!(board.0.lock().remaining(NOW), None);
        check_eq!(board.0.lock().failures, 3);
        check_eq!(board.next(), Some((1, true)));
        Ok(())
    }

    fn an_answer_comes_before_the_deadline() -> Result {
        let board = Board::new()?;
        let [first, second, third] = board.listed([100, 200, 300])?;
        check_eq!(board.0.lock().fence(&first, NOW), Ok(true));
        check!(board.0.lock().fail(&second, Failure::Indicated));
        let expired = board.0.lock().expire(Jiffies::MAX >> 1);
        check!(expired.is_some_and(|item| item.number == third.number));
        check!(board.0.lock().expire(Jiffies::MAX >> 1).is_none());
        check_eq!(board.next(), Some((1, false)));
        Ok(())
    }

    fn an_answer_may_come_before_the_request_is_listed() -> Result {
        let board = Board::new()?;
        let (fenced, failed) = (board.request(1, 100)?, board.request(2, 100)?);
        check_eq!(board.0.lock().fence(&fenced, NOW), Ok(true));
        check!(board.0.lock().fail(&failed, Failure::Indicated));
        check!(board.0.lock().is_empty());
        check!(!board.0.lock().any_failed());
        check_eq!(board.0.lock().failures, 0);
        board.list(&failed)?;
        check_eq!(board.0.lock().failures, 1);
        check_eq!(board.next(), Some((2, true)));
        board.list(&fenced)?;
        check_eq!(board.next(), Some((1, false)));
        check!(board.0.lock().any_failed());
        check!(!board.0.lock().any_unanswered());
        Ok(())
    }

    fn a_failure_of_what_is_not_listed_any_more_is_nobodys() -> Result {
        let board = Board::new()?;
        let [first, second, third] = board.listed([100, 100, 100])?;
        check_eq!(board.0.lock().fence(&second, NOW), Ok(true));
        check!(board.remove(&first) && board.remove(&second));
        for item in [&first, &second] {
            check!(board.0.lock().fail(item, Failure::Indicated));
        }
        let dropped = board.0.lock().clear();
        check!(board.0.lock().fail(&third, Failure::Indicated));
        drop(dropped);
        check!(!board.0.lock().any_failed());
        check_eq!(board.0.lock().failures, 0);
        Ok(())
    }

    fn a_reason_goes_with_the_last_that_carries_it() -> Result {
        let board = Board::new()?;
        let [first, second, third] = board.listed([100, 100, 100])?;
        board.add_reason(&first, 3)?;
        board.add_reason(&first, -1)?;
        board.add_reason(&second, -1)?;
        for reason in [1, 2, 3, -1] {
            check!(board.0.lock().any_with(reason));
        }
        check!(!board.0.lock().any_with(0));
        check!(board.remove(&third) && board.0.lock().any_with(3));
        check!(board.remove(&first) && !board.0.lock().any_with(3));
        check!(!board.0.lock().any_with(1));
        check!(board.0.lock().any_with(-1));
        check!(board.remove(&second) && !board.0.lock().any_with(-1));
        Ok(())
    }

    fn nothing_is_left_of_what_was_removed() -> Result {
        let board = Board::new()?;
        let items = board.listed([100, 100, 100])?;
        check!(board.0.lock().fail(&items[1], Failure::Indicated));
        for item in &items {
            check!(!board.0.lock().is_empty());
            check!(board.remove(item));
            check!(!board.remove(item));
        }
        check!(board.0.lock().is_empty());
        check!(!board.0.lock().any_failed());
        check_eq!(board.0.lock().remaining(NOW), None);
        Ok(())
    }

    fn nothing_is_left_after_all_were_dropped() -> Result {
        let board = Board::new()?;
        let [first, second, _] = board.listed([100, 100, 100])?;
        check!(board.0.lock().fail(&first, Failure::Indicated));
        check_eq!(board.0.lock().fence(&second, NOW), Ok(true));
        let dropped = board.0.lock().clear();
        check_eq!(dropped.count(), 3);
        drop(dropped);
        check!(board.0.lock().is_empty());
        check!(!board.0.lock().any_failed() && !board.0.lock().any_with(1));
        check_eq!(board.next(), None);
        check_eq!(board.0.lock().failures, 1);
        Ok(())
    }
}
