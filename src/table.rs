// SPDX-License-Identifier: GPL-2.0-only

//! The listed requests of one mount, sorted and counted: every query is O(1) or O(log n).
//!
//! The mount's spinlock protects the table and the state of every request. Nothing is allocated
//! under it: a [`Reservation`] is made before.

use crate::{
    linux::{
        jiffies::Jiffies,
        prelude::*, //
    },
    request::{
        reason_class,
        Event,
        Failure,
        RequestState,
        REASON_CLASSES, //
    }, //
};
use core::mem;
use kernel::{
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::LockedBy, //
};

/// An entry of a table: the requests of a mount, and simpler ones in unit tests.
pub(crate) trait TableEntry: Sized {
    /// The state of the request.
    fn state(&self) -> &LockedBy<RequestState, Table<Self>>;

    /// How many requests of the mount were started before this one.
    fn number(&self) -> u64;
}

/// Orders pending requests by deadline, and finished ones, which have none, by start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SortKey {
    deadline: Option<Jiffies>,
    number: u64,
}

/// Space for one request in a table.
pub(crate) type Reservation<T> = RBTreeNodeReservation<SortKey, Arc<T>>;

/// Requests sorted by their keys, and their number: not every kernel crate's tree knows in one step
/// whether it is empty.
struct SortedIndex<T> {
    tree: RBTree<SortKey, Arc<T>>,
    length: usize,
}

impl<T> Default for SortedIndex<T> {
    fn default() -> Self {
        Self {
            tree: RBTree::new(),
            length: 0,
        }
    }
}

impl<T> SortedIndex<T> {
    fn insert(&mut self, key: SortKey, entry: Arc<T>, reservation: Reservation<T>) {
        self.tree.insert(reservation.into_node(key, entry));
        self.length += 1;
    }

    fn remove(&mut self, key: &SortKey) -> Option<(Arc<T>, Reservation<T>)> {
        let found = self.tree.find_mut(key)?;
        let entry = found.get().clone();
        self.length -= 1;
        Some((entry, found.remove_node().into_reservation()))
    }
}

/// The listed requests of a mount, and counters for its waiters.
pub(crate) struct Table<T> {
    /// The listed requests that are not answered.
    pending: SortedIndex<T>,
    /// The other listed requests.
    finished: SortedIndex<T>,
    /// How many listed requests have failed.
    failed: usize,
    /// How many listed requests have each class of reasons.
    reasons: [usize; REASON_CLASSES],
    /// How many requests have failed while they were listed.
    pub(crate) failures: u64,
    /// How many stops dropped requests.
    pub(crate) drops: u64,
    /// How many stops there were.
    pub(crate) stops: u64,
    /// Whether the mount is destroyed, and lists no requests any more.
    pub(crate) destroyed: bool,
    /// When the timeout work runs, if it is scheduled.
    pub(crate) timeout_at: Option<Jiffies>,
}

impl<T: TableEntry> Table<T> {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self {
            pending: SortedIndex::default(),
            finished: SortedIndex::default(),
            failed: 0,
            reasons: [0; REASON_CLASSES],
            failures: 0,
            drops: 0,
            stops: 0,
            destroyed: false,
            timeout_at: None,
        }
    }

    /// Lists a request, which may have been answered already.
    pub(crate) fn add(&mut self, entry: Arc<T>, reservation: Reservation<T>) {
        let key = self.key(&entry);
        let state = entry.state().access_mut(self);
        state.events.queue(Event::Added);
        if state.has_failed() {
            self.count_failure();
        }
        self.count_reasons(&entry, |count| count + 1);
        self.index(key).insert(key, entry, reservation);
    }

    /// Takes a request off the list, if it is listed. The caller frees what is returned without the
    /// lock.
    pub(crate) fn remove(&mut self, entry: &T) -> Option<impl Sized> {
        let key = self.key(entry);
        let removed = self.index(key).remove(&key)?;
        let failed = entry.state().access(self).has_failed();
        self.failed -= usize::from(failed);
        self.count_reasons(entry, |count| count - 1);
        Some(removed)
    }

    /// Takes all requests off the list. The caller frees what is returned without the lock.
    pub(crate) fn clear(&mut self) -> impl Sized {
        self.failed = 0;
        self.reasons = [0; REASON_CLASSES];
        [&mut self.pending, &mut self.finished].map(mem::take)
    }

    /// Adds a reason to a listed request.
    pub(crate) fn add_reason(&mut self, entry: &T, reason: c_int) {
        let class = reason_class(reason);
        if entry.state().access_mut(self).add_reason(class) {
            self.reasons[class] += 1;
        }
    }

    /// See [`RequestState::fence`].
    pub(crate) fn fence(&mut self, entry: &T, now: Jiffies) -> Result<bool> {
        self.update(entry, |state| state.fence(now))
    }

    /// See [`RequestState::fail`].
    pub(crate) fn fail(&mut self, entry: &T, failure: Failure) -> bool {
        let changed = self.update(entry, |state| state.fail(failure));
        if changed && self.finished.tree.get(&self.key(entry)).is_some() {
            self.count_failure();
        }
        changed
    }

    /// Fails the listed request that timed out first, if any has.
    pub(crate) fn time_out(&mut self, now: Jiffies) -> Option<Arc<T>> {
        if self.deadline()? > now {
            return None;
        }
        let entry = self.pending.tree.values().next()?.clone();
        self.fail(&entry, Failure::TimedOut);
        Some(entry)
    }

    /// The tick at which the next listed request times out.
    pub(crate) fn deadline(&self) -> Option<Jiffies> {
        self.pending.tree.keys().next()?.deadline
    }

    /// The finished request that was started first.
    pub(crate) fn next(&self) -> Option<&Arc<T>> {
        self.finished.tree.values().next()
    }

    /// Whether no request is listed.
    pub(crate) fn is_empty(&self) -> bool {
        !self.any_pending() && !self.any_finished()
    }

    /// Whether a listed request is not answered.
    pub(crate) fn any_pending(&self) -> bool {
        self.pending.length > 0
    }

    /// Whether a listed request is finished.
    pub(crate) fn any_finished(&self) -> bool {
        self.finished.length > 0
    }

    /// Whether a listed request has failed.
    pub(crate) fn any_failed(&self) -> bool {
        self.failed > 0
    }

    /// Whether a listed request has a reason of the same class.
    pub(crate) fn any_with(&self, reason: c_int) -> bool {
        self.reasons[reason_class(reason)] > 0
    }

    fn key(&self, entry: &T) -> SortKey {
        SortKey {
            deadline: entry.state().access(self).deadline(),
            number: entry.number(),
        }
    }

    /// The index that has requests with such a key.
    fn index(&mut self, key: SortKey) -> &mut SortedIndex<T> {
        match key.deadline {
            Some(_) => &mut self.pending,
            None => &mut self.finished,
        }
    }

    /// Counts the failure of a listed request.
    fn count_failure(&mut self) {
        self.failed += 1;
        self.failures += 1;
    }

    fn count_reasons(&mut self, entry: &T, update: impl Fn(usize) -> usize) {
        for class in 0..REASON_CLASSES {
            if entry.state().access(self).has_reason(class) {
                self.reasons[class] = update(self.reasons[class]);
            }
        }
    }

    /// Updates a request, and its position if it is listed. It need not be: the agent may write
    /// before `start` lists it, and while `free` removes it.
    fn update<R>(&mut self, entry: &T, update: impl FnOnce(&mut RequestState) -> R) -> R {
        let old = self.key(entry);
        let result = update(entry.state().access_mut(self));
        let new = self.key(entry);
        if new != old {
            if let Some((entry, reservation)) = self.index(old).remove(&old) {
                self.index(new).insert(new, entry, reservation);
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

    suite!(
        scoutfs_fence_table,
        [
            the_oldest_finished_request_is_next,
            a_fenced_request_that_fails_keeps_its_place,
            requests_time_out_in_the_order_of_their_deadlines,
            an_answer_comes_before_the_deadline,
            an_answer_may_come_before_the_request_is_listed,
            only_listed_requests_are_counted_as_failed,
            a_reason_is_pending_until_its_last_request_is_removed,
            nothing_is_left_of_what_was_removed,
            nothing_is_left_after_all_were_dropped,
        ]
    );

    const NOW: Jiffies = 1000;

    struct Item {
        number: u64,
        state: LockedBy<RequestState, Table<Item>>,
    }

    impl TableEntry for Item {
        fn state(&self) -> &LockedBy<RequestState, Table<Self>> {
            &self.state
        }

        fn number(&self) -> u64 {
            self.number
        }
    }

    struct Board(Arc<SpinLock<Table<Item>>>);

    impl Board {
        fn new() -> Result<Self> {
            let requests = new_spinlock!(Table::new(), "scoutfs_fence_tested_table");
            Ok(Self(Arc::pin_init(requests, GFP_KERNEL)?))
        }

        /// A request that is not listed yet, whose reason is its number.
        fn request(&self, number: u8, timeout_ms: u32) -> Result<Arc<Item>> {
            let state = RequestState::new(number.into(), NOW, timeout_ms);
            let item = Item {
                number: number.into(),
                state: LockedBy::new(&self.0, state),
            };
            Ok(Arc::new(item, GFP_KERNEL)?)
        }

        fn list(&self, item: &Arc<Item>) -> Result {
            let reservation = RBTreeNodeReservation::new(GFP_KERNEL)?;
            self.0.lock().add(item.clone(), reservation);
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

        fn add_reason(&self, item: &Item, reason: c_int) {
            self.0.lock().add_reason(item, reason);
        }

        fn next(&self) -> Option<(u64, bool)> {
            let table = self.0.lock();
            let next = table.next()?;
            Some((next.number, next.state.access(&table).has_failed()))
        }

        fn remove(&self, item: &Item) -> bool {
            let removed = self.0.lock().remove(item);
            removed.is_some()
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
        check!(!board.0.lock().any_pending());
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

    fn requests_time_out_in_the_order_of_their_deadlines() -> Result {
        let board = Board::new()?;
        board.listed([300, 100, 100])?;
        let [early, late] = [100, 300].map(|msecs| NOW + msecs_to_jiffies(msecs) + 1);
        let expired = |now| {
            let expired = board.0.lock().time_out(now);
            expired.map(|item| item.number)
        };
        check_eq!(board.0.lock().deadline(), Some(early));
        check_eq!(expired(early - 1), None);
        check_eq!(expired(early), Some(2));
        check_eq!(expired(early), Some(3));
        check_eq!(expired(early), None);
        check_eq!(board.0.lock().deadline(), Some(late));
        check_eq!(expired(2 * late), Some(1));
        check_eq!(expired(2 * late), None);
        check_eq!(board.0.lock().deadline(), None);
        check_eq!(board.0.lock().failures, 3);
        check_eq!(board.next(), Some((1, true)));
        Ok(())
    }

    fn an_answer_comes_before_the_deadline() -> Result {
        let board = Board::new()?;
        let [first, second, third] = board.listed([100, 200, 300])?;
        check_eq!(board.0.lock().fence(&first, NOW), Ok(true));
        check!(board.0.lock().fail(&second, Failure::Indicated));
        let expired = board.0.lock().time_out(Jiffies::MAX >> 1);
        check!(expired.is_some_and(|item| item.number == third.number));
        check!(board.0.lock().time_out(Jiffies::MAX >> 1).is_none());
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
        check!(!board.0.lock().any_pending());
        Ok(())
    }

    fn only_listed_requests_are_counted_as_failed() -> Result {
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

    fn a_reason_is_pending_until_its_last_request_is_removed() -> Result {
        let board = Board::new()?;
        let [first, second, third] = board.listed([100, 100, 100])?;
        for reason in [1, 2, 3, -1] {
            check!(board.0.lock().any_with(reason));
        }
        check!(!board.0.lock().any_with(0));
        check!(board.remove(&third) && !board.0.lock().any_with(3));
        board.add_reason(&first, 2);
        board.add_reason(&first, -1);
        board.add_reason(&first, 7);
        board.add_reason(&second, -2);
        check!(board.0.lock().any_with(c_int::MAX));
        check!(board.remove(&first) && !board.0.lock().any_with(1));
        check!(board.0.lock().any_with(2) && board.0.lock().any_with(3));
        check!(board.remove(&second) && !board.0.lock().any_with(2));
        check!(!board.0.lock().any_with(3));
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
        check_eq!(board.0.lock().deadline(), None);
        Ok(())
    }

    fn nothing_is_left_after_all_were_dropped() -> Result {
        let board = Board::new()?;
        let [first, second, _] = board.listed([100, 100, 100])?;
        check!(board.0.lock().fail(&first, Failure::Indicated));
        check_eq!(board.0.lock().fence(&second, NOW), Ok(true));
        let dropped = board.0.lock().clear();
        drop(dropped);
        check!(board.0.lock().is_empty());
        check!(!board.0.lock().any_failed() && !board.0.lock().any_with(1));
        check_eq!(board.next(), None);
        check_eq!(board.0.lock().failures, 1);
        Ok(())
    }
}
