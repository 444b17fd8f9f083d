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

use crate::linux::{
    errno::ESTALE,
    header,
    jiffies::{
        jiffies64_to_msecs,
        msecs_to_jiffies,
        Deadline,
        Jiffies, //
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

/// What has become of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Pending,
    Fenced,
    Failed,
}

impl State {
    /// What userspace calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Fenced => "fenced",
            State::Failed => "failed",
        }
    }
}

/// A request to fence one mount of the cluster.
pub(crate) struct Request {
    rid: u64,
    address: IpAddr,
    reason: c_int,
    further_reasons: KVec<c_int>,
    timeout_ms: u32,
    deadline: Deadline,
    state: State,
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

    /// Notes that the mount can no longer write.
    ///
    /// Returns whether this is news.
    ///
    /// # Errors
    ///
    /// `ESTALE` where the request has failed already: the leader has been told so.
    pub(crate) fn fence(&mut self) -> Result<bool> {
        match self.state {
            State::Pending => {
                self.state = State::Fenced;
                Ok(true)
            }
            State::Fenced => Ok(false),
            State::Failed => Err(ESTALE.into()),
        }
    }

    /// Notes that the mount could not be fenced, or that nobody answered in time.
    ///
    /// Returns whether this is news.
    pub(crate) fn fail(&mut self) -> bool {
        let news = self.state != State::Failed;
        self.state = State::Failed;
        news
    }

    /// What has become of the request so far.
    pub(crate) fn state(&self) -> State {
        self.state
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
