// SPDX-License-Identifier: GPL-2.0-only

//! One fence request and its states.
//!
//! ```text
//! pending ----> fenced ----> failed
//!    |                         ^
//!    +-------------------------+
//! ```
//!
//! Nothing leads back, and failed wins over fenced. There are no locks and no side effects here.

use crate::{
    linux::{
        errno::ESTALE,
        header,
        jiffies::{
            jiffies64_to_msecs,
            msecs_to_jiffies,
            Deadline,
            Jiffies, //
        }, //
    },
    news::{
        Event,
        Failure,
        News,
        Report,
        State, //
    }, //
};
use core::net::{
    IpAddr,
    Ipv4Addr, //
};
use kernel::{
    ffi::c_int,
    prelude::*, //
};

/// A request to fence one mount of the cluster.
pub(crate) struct Request {
    rid: u64,
    address: IpAddr,
    reason: c_int,
    further_reasons: KVec<c_int>,
    timeout_ms: u32,
    deadline: Deadline,
    state: State,
    news: News,
}

impl Request {
    /// A pending request, made at `now`, that is to be answered within `timeout_ms`.
    pub(crate) fn new(
        rid: u64,
        address: IpAddr,
        reason: c_int,
        now: Jiffies,
        timeout_ms: u32,
    ) -> Self {
        Self {
            rid,
            address,
            reason,
            further_reasons: KVec::new(),
            timeout_ms,
            deadline: Deadline::new(now, msecs_to_jiffies(timeout_ms)),
            state: State::Pending,
            news: News::new(),
        }
    }

    /// The random identity of the mount that is to be fenced.
    pub(crate) fn rid(&self) -> u64 {
        self.rid
    }

    /// The last known address of the mount that is to be fenced.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// The same where it is an IPv4 address, else `0.0.0.0`.
    pub(crate) fn ipv4_address(&self) -> Ipv4Addr {
        match self.address {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        }
    }

    /// The reason that the request was first made for.
    pub(crate) fn reason(&self) -> c_int {
        self.reason
    }

    /// The name of the first reason, as userspace sees it.
    pub(crate) fn reason_name(&self) -> &'static str {
        match u32::try_from(self.reason) {
            Ok(header::SCOUTFS_FENCE_CLIENT_RECOVERY) => "client_recovery",
            Ok(header::SCOUTFS_FENCE_CLIENT_RECONNECT) => "client_reconnect",
            Ok(header::SCOUTFS_FENCE_QUORUM_BLOCK_LEADER) => "quorum_block_leader",
            _ => "unknown",
        }
    }

    /// Whether the request was made for this reason, among others.
    pub(crate) fn carries(&self, reason: c_int) -> bool {
        self.reason == reason || self.further_reasons.contains(&reason)
    }

    /// One of the reasons; the first is number 0.
    pub(crate) fn nth_reason(&self, number: usize) -> Option<c_int> {
        match number.checked_sub(1) {
            None => Some(self.reason),
            Some(further) => self.further_reasons.get(further).copied(),
        }
    }

    /// How many reasons there are besides the first.
    pub(crate) fn further_reasons(&self) -> usize {
        self.further_reasons.len()
    }

    /// Adds a reason. `room` has the capacity for one reason more than there are besides the
    /// first, so that nothing is allocated here. Returns what is to be freed.
    ///
    /// # Errors
    ///
    /// `ENOMEM` where the room does not suffice.
    pub(crate) fn add_reason(&mut self, reason: c_int, room: KVec<c_int>) -> Result<KVec<c_int>> {
        let mut reasons = room;
        reasons.extend_from_slice(&self.further_reasons, GFP_NOWAIT)?;
        reasons.push(reason, GFP_NOWAIT)?;
        Ok(core::mem::replace(&mut self.further_reasons, reasons))
    }

    /// Notes that the mount can no longer write, since `now`.
    ///
    /// Returns whether this is news.
    ///
    /// # Errors
    ///
    /// `ESTALE` where the request has failed already: the leader has been told so.
    pub(crate) fn fence(&mut self, now: Jiffies) -> Result<bool> {
        match self.state {
            State::Pending => {
                self.state = State::Fenced;
                self.news.note(Event::Fenced(now));
                Ok(true)
            }
            State::Fenced => Ok(false),
            State::Failed => Err(ESTALE.into()),
        }
    }

    /// Notes that the mount could not be fenced, or that nobody answered in time.
    ///
    /// Returns whether this is news.
    pub(crate) fn fail(&mut self, failure: Failure) -> bool {
        let news = self.state != State::Failed;
        if news {
            self.state = State::Failed;
            self.news.note(Event::Failed(failure));
        }
        news
    }

    /// Notes that the request is listed, and its directory complete.
    pub(crate) fn list(&mut self) {
        self.news.note(Event::Made);
    }

    /// Notes that the request is no longer listed, and its directory goes.
    pub(crate) fn remove(&mut self) {
        self.news.note(Event::Gone);
    }

    /// What is to be told of the request next.
    pub(crate) fn next_report(&mut self) -> Option<Report> {
        self.news.next()
    }

    /// Whether the mount was fenced, and nothing was said against it since.
    pub(crate) fn is_fenced(&self) -> bool {
        self.state == State::Fenced
    }

    /// Whether the mount could not be fenced.
    pub(crate) fn has_failed(&self) -> bool {
        self.state == State::Failed
    }

    /// Whether there is an answer, good or bad.
    pub(crate) fn is_finished(&self) -> bool {
        self.state != State::Pending
    }

    /// How many milliseconds the request may wait for an answer.
    pub(crate) fn timeout_ms(&self) -> u32 {
        self.timeout_ms
    }

    /// The moment until which there is time for an answer, or `None` once there is one.
    pub(crate) fn deadline(&self) -> Option<Jiffies> {
        (!self.is_finished()).then(|| self.deadline.moment())
    }

    /// How many jiffies are left for an answer, or `None` once there is one.
    pub(crate) fn remaining(&self, now: Jiffies) -> Option<Jiffies> {
        (!self.is_finished()).then(|| self.deadline.remaining(now))
    }

    /// How many milliseconds ago the request was made.
    pub(crate) fn elapsed_ms(&self, now: Jiffies) -> u64 {
        jiffies64_to_msecs(self.deadline.elapsed(now))
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
    use core::net::Ipv6Addr;

    suite!(
        scoutfs_fence_request,
        [
            a_new_request_is_pending,
            every_transition_is_as_the_diagram_has_it,
            only_the_first_time_is_news,
            reasons_have_names,
            further_reasons_leave_the_first_alone,
            time_passes_until_there_is_an_answer,
            the_deadline_is_the_same_across_a_wrap,
            only_ipv4_addresses_are_shown_as_such,
        ]
    );

    const RID: u64 = 0x0123_4567_89ab_cdef;
    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

    fn request_of(reason: c_int) -> Request {
        Request::new(RID, ADDRESS, reason, 1000, 30_000)
    }

    fn request() -> Request {
        request_of(0)
    }

    /// What can be seen of the state.
    fn seen(request: &Request) -> (bool, bool, bool) {
        (
            request.is_fenced(),
            request.has_failed(),
            request.is_finished(),
        )
    }

    const PENDING: (bool, bool, bool) = (false, false, false);
    const FENCED: (bool, bool, bool) = (true, false, true);
    const FAILED: (bool, bool, bool) = (false, true, true);

    fn in_state(state: (bool, bool, bool)) -> Request {
        let mut request = request();
        request.state = match state {
            FENCED => State::Fenced,
            FAILED => State::Failed,
            _ => State::Pending,
        };
        request
    }

    fn a_new_request_is_pending() {
        let request = request_of(1);
        check_eq!(request.rid(), RID);
        check_eq!(request.address(), ADDRESS);
        check_eq!(request.timeout_ms(), 30_000);
        check_eq!(request.reason(), 1);
        check_eq!(request.further_reasons(), 0);
        check_eq!(seen(&request), PENDING);
    }

    fn every_transition_is_as_the_diagram_has_it() {
        for (from, to) in [(PENDING, FENCED), (FENCED, FENCED), (FAILED, FAILED)] {
            let mut request = in_state(from);
            check_eq!(seen(&request), from);
            check_eq!(request.fence(1000).is_err(), from == FAILED);
            check_eq!(seen(&request), to);
        }
        for from in [PENDING, FENCED, FAILED] {
            let mut request = in_state(from);
            request.fail(Failure::Indicated);
            check_eq!(seen(&request), FAILED);
        }
    }

    fn only_the_first_time_is_news() {
        let mut request = request();
        check_eq!(request.fence(1000), Ok(true));
        check_eq!(request.fence(1000), Ok(false));
        check!(request.fail(Failure::Indicated));
        check!(!request.fail(Failure::Indicated));
        check_eq!(request.fence(1000), Err(ESTALE.into()));
    }

    fn reasons_have_names() {
        for (reason, name) in [
            (0, "client_recovery"),
            (1, "client_reconnect"),
            (2, "quorum_block_leader"),
            (3, "unknown"),
            (-1, "unknown"),
            (c_int::MAX, "unknown"),
            (c_int::MIN, "unknown"),
        ] {
            check_eq!(request_of(reason).reason_name(), name);
        }
    }

    /// Adds a reason, with as much room as is asked for.
    fn add(request: &mut Request, reason: c_int) {
        let room = KVec::with_capacity(request.further_reasons() + 1, GFP_KERNEL);
        check!(room.is_ok_and(|room| request.add_reason(reason, room).is_ok()));
    }

    fn further_reasons_leave_the_first_alone() {
        let mut request = request_of(2);
        for (count, reason) in [1, -7, c_int::MAX].into_iter().enumerate() {
            check!(!request.carries(reason));
            add(&mut request, reason);
            check!(request.carries(reason));
            check_eq!(request.further_reasons(), count + 1);
        }
        for reason in [2, 1, -7, c_int::MAX] {
            check!(request.carries(reason));
        }
        check!(!request.carries(0));
        check_eq!(request.reason(), 2);
        check_eq!(request.reason_name(), "quorum_block_leader");
    }

    fn time_passes_until_there_is_an_answer() {
        let mut request = request();
        let span = msecs_to_jiffies(30_000);
        check_eq!(request.remaining(1000), Some(span));
        check_eq!(request.remaining(1000 + span - 1), Some(1));
        check_eq!(request.remaining(1000 + span), Some(0));
        check_eq!(request.remaining(1000 + 2 * span), Some(0));
        check_eq!(request.elapsed_ms(1000), 0);
        check_eq!(request.elapsed_ms(1000 + span), 30_000);
        check_eq!(request.elapsed_ms(1000 + 2 * span), 60_000);
        check!(request.fail(Failure::Indicated));
        check_eq!(request.remaining(1000), None);
        check_eq!(request.elapsed_ms(1000 + span), 30_000);
    }

    fn the_deadline_is_the_same_across_a_wrap() {
        let request = Request::new(RID, ADDRESS, 0, Jiffies::MAX - 1, 30_000);
        let span = msecs_to_jiffies(30_000);
        check_eq!(request.remaining(Jiffies::MAX - 1), Some(span));
        check_eq!(request.remaining(0), Some(span - 2));
        check_eq!(request.remaining(span - 2), Some(0));
        check_eq!(request.elapsed_ms(span - 2), 30_000);
    }

    fn only_ipv4_addresses_are_shown_as_such() {
        check_eq!(request().ipv4_address(), Ipv4Addr::new(10, 0, 0, 7));
        let address = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let request = Request::new(RID, address, 0, 0, 100);
        check_eq!(request.address(), address);
        check_eq!(request.ipv4_address(), Ipv4Addr::UNSPECIFIED);
    }
}
