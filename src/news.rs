// SPDX-License-Identifier: GPL-2.0-only

//! What becomes of a request, and what of that is still to be told.
//!
//! It is noted when it happens, under the lock that protects the request, and told later, without
//! it. There are no locks and no side effects here.

use crate::linux::jiffies::Jiffies;
use core::mem;

/// What has become of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nobody has answered yet.
    Pending,
    /// The mount can no longer write.
    Fenced,
    /// The mount could not be fenced, or nobody answered in time.
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

/// What happens to a request, each once at the most.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It is listed, and its directory is complete.
    Made,
    /// Userspace fenced the mount, at that moment.
    Fenced(Jiffies),
    /// It failed.
    Failed(Failure),
    /// It is no longer listed, and its directory goes.
    Gone,
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Userspace said so.
    Indicated,
    /// Nobody answered in time.
    TimedOut,
}

/// An event, and what is told of the request's state with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    /// What has happened.
    pub(crate) event: Event,
    /// What the state was told to be before.
    pub(crate) before: State,
    /// What the state is told to be now.
    pub(crate) state: State,
}

/// The events of one request that are still to be told.
pub(crate) struct News {
    /// Whether it was listed, and is not yet told of as gone.
    listed: bool,
    made: bool,
    fenced: Option<Jiffies>,
    failed: Option<Failure>,
    gone: bool,
    told: State,
}

impl News {
    /// Nothing has happened.
    pub(crate) fn new() -> Self {
        Self {
            listed: false,
            made: false,
            fenced: None,
            failed: None,
            gone: false,
            told: State::Pending,
        }
    }

    /// Notes an event.
    pub(crate) fn note(&mut self, event: Event) {
        match event {
            Event::Made => (self.listed, self.made) = (true, true),
            Event::Fenced(moment) => self.fenced = Some(moment),
            Event::Failed(failure) => self.failed = Some(failure),
            Event::Gone => self.gone = true,
        }
    }

    /// What is to be told next: everything in the order in which it happened, nothing before the
    /// request is listed and nothing after it has gone.
    pub(crate) fn next(&mut self) -> Option<Report> {
        if !self.listed {
            return None;
        }
        let before = self.told;
        let event = if mem::take(&mut self.made) {
            Event::Made
        } else if let Some(moment) = self.fenced.take() {
            self.told = State::Fenced;
            Event::Fenced(moment)
        } else if let Some(failure) = self.failed.take() {
            self.told = State::Failed;
            Event::Failed(failure)
        } else if self.gone {
            self.listed = false;
            Event::Gone
        } else {
            return None;
        };
        Some(Report {
            event,
            before,
            state: self.told,
        })
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

    suite!(
        scoutfs_fence_news,
        [
            everything_is_told_once_and_in_order,
            nothing_is_told_before_the_request_is_listed,
            nothing_is_told_after_the_request_has_gone,
            a_report_tells_the_state_before_and_after,
        ]
    );

    const FENCED: Event = Event::Fenced(7);
    const FAILED: Event = Event::Failed(Failure::Indicated);
    const TIMED_OUT: Event = Event::Failed(Failure::TimedOut);

    fn noted(events: &[Event]) -> News {
        let mut news = News::new();
        for event in events {
            news.note(*event);
        }
        news
    }

    fn told(news: &mut News) -> Option<Event> {
        news.next().map(|report| report.event)
    }

    fn everything_is_told_once_and_in_order() {
        let all = [Event::Made, FENCED, TIMED_OUT, Event::Gone];
        let mut news = noted(&all);
        for event in all {
            check!(told(&mut news) == Some(event));
        }
        check!(told(&mut news).is_none());

        let mut news = News::new();
        for event in all {
            news.note(event);
            check!(told(&mut news) == Some(event));
            check!(told(&mut news).is_none());
        }
    }

    fn nothing_is_told_before_the_request_is_listed() {
        let mut news = noted(&[FENCED, FAILED]);
        check!(told(&mut news).is_none());
        news.note(Event::Made);
        for event in [Event::Made, FENCED, FAILED] {
            check!(told(&mut news) == Some(event));
        }
        check!(told(&mut news).is_none());
    }

    fn nothing_is_told_after_the_request_has_gone() {
        let mut news = noted(&[Event::Made, Event::Gone]);
        check!(told(&mut news) == Some(Event::Made));
        check!(told(&mut news) == Some(Event::Gone));
        news.note(FENCED);
        news.note(FAILED);
        check!(told(&mut news).is_none());
    }

    fn a_report_tells_the_state_before_and_after() {
        let mut news = noted(&[Event::Made, FENCED, FAILED, Event::Gone]);
        let (pending, fenced, failed) = (State::Pending, State::Fenced, State::Failed);
        for (before, state) in [
            (pending, pending),
            (pending, fenced),
            (fenced, failed),
            (failed, failed),
        ] {
            let report = news.next();
            check_eq!(
                report.map(|report| report.before.name()),
                Some(before.name())
            );
            check_eq!(report.map(|report| report.state.name()), Some(state.name()));
        }
    }
}
