# SPDX-License-Identifier: GPL-2.0-only
"""A scoutfs leader's life, with the agent at the other end."""

import time
from errno import EBUSY, EIO, ESHUTDOWN, ETIMEDOUT

import kernel
from agents import Agent, agent
from case import Case, case
from fence import CLIENT_RECONNECT, CLIENT_RECOVERY, Leader, Standing, Stopwatch, equal, name, true

# A command that ends once a file exists, or fails after a time in which the case must have ended.
WAITS = "for _ in $(seq 250); do test -e go && exit 0; sleep 0.02; done; exit 1"
# A command that cannot fence mount 2.
FAILS_FOR_2 = "case $SCOUTFS_FENCED_REQ_RID in *2) exit 1;; esac"


def leader(
    case: Case,
    reclaim_ms: int = 50,
    wait_next: bool = False,
    election_ms: int = 15000 * kernel.PATIENCE,
) -> Leader:
    """A mount whose reclaim worker polls, or sleeps in wait_next for, `reclaim_ms` at a time."""
    mount = case.leader()
    kernel.set_parameter(kernel.LEADER_FILESYSTEM, "reclaim_ms", reclaim_ms)
    kernel.set_parameter(kernel.LEADER_FILESYSTEM, "wait_next", int(wait_next))
    kernel.set_parameter(kernel.LEADER_FILESYSTEM, "election_ms", election_ms)
    return mount


def begin(it: Agent, script: str) -> None:
    # Errors are reported at once; otherwise the agent would retry for half a minute.
    it.configure(script, delay="0.1", retries=0)
    it.begin()


def served(it: Agent) -> list[int]:
    """The rids for which the command was run."""
    return [int(call.split(",")[0], 16) for call in it.called_with()]


def is_left_nothing(mount: Leader) -> None:
    equal(mount.listed(), set())
    equal(mount.drained(), (True, False))


@case
def leader_has_previous_leaders_fenced(case: Case) -> None:
    """A new leader leads once the agent has fenced all previous ones, and then reclaims them."""
    mount = leader(case)
    with agent() as it:
        begin(it, "exit 0")
        equal(mount.elect(0x11, 0x12, 0x13), 0)
        wanted = [f"{name(rid)},{mount.address(rid)}" for rid in (17, 18, 19)]
        equal(sorted(it.called_with()), wanted)
        mount.until(Standing(leading=True, reclaimed=3))
        is_left_nothing(mount)
        equal(mount.elect(), -EBUSY, "it leads already")
        it.check_runs()


@case
def leader_without_predecessors_leads_at_once(case: Case) -> None:
    """An election without a mount to fence does not wait."""
    mount = leader(case)
    watch = Stopwatch()
    equal(mount.elect(), 0)
    watch.at_most(5)
    equal(mount.standing(), Standing(leading=True))


@case
def leader_does_not_lead_if_one_cannot_be_fenced(case: Case) -> None:
    """If the agent cannot fence a previous leader, the election fails; a later one may succeed."""
    mount = leader(case)
    case.expect_error_line(mount, 2)
    with agent() as it:
        begin(it, f"test -e go || {FAILS_FOR_2}")
        equal(mount.elect(1, 2, 3), -EIO)
        equal(mount.standing(), Standing(leading=False, error=-EIO))
        is_left_nothing(mount)
        (it.folder / "go").touch()
        equal(mount.elect(1, 2, 3), 0)
        mount.until(Standing(leading=True, reclaimed=3))


@case
def leader_gives_up_without_an_agent(case: Case) -> None:
    """Without an agent the election times out before its requests do."""
    mount = leader(case, election_ms=300)
    watch = Stopwatch()
    equal(mount.elect(1, 2), -ETIMEDOUT)
    watch.at_least(0.3)
    watch.at_most(5)
    equal(mount.standing(), Standing(leading=False, error=-ETIMEDOUT))
    is_left_nothing(mount)
    equal(mount.elect(), 0, "elected again")


def reclaims(case: Case, mount: Leader) -> None:
    """Checks that clients that do not recover are fenced and freed."""
    with agent() as it:
        begin(it, "exit 0")
        equal(mount.elect(), 0)
        equal(mount.recover(1, 2, 3), 0)
        mount.until(Standing(leading=True, reclaimed=3))
        equal(sorted(served(it)), [1, 2, 3])
        is_left_nothing(mount)
        # Another recovery while it still leads.
        equal(mount.recover(4), 0)
        mount.until(Standing(leading=True, reclaimed=4))


@case
def leader_reclaims_what_is_fenced(case: Case) -> None:
    """The polling worker frees every client that the agent has fenced."""
    reclaims(case, leader(case))


@case
def leader_reclaims_what_is_fenced_when_woken(case: Case) -> None:
    """The worker sleeping in wait_next frees fenced clients at once, not after its minute."""
    reclaims(case, leader(case, reclaim_ms=60_000, wait_next=True))


def shuts_down(case: Case, mount: Leader) -> None:
    case.expect_error_line(mount, 2)
    with agent() as it:
        begin(it, FAILS_FOR_2)
        equal(mount.elect(), 0)
        equal(mount.recover(1, 2, 3), 0)
        mount.until(*(Standing(leading=False, reclaimed=n, error=-EIO) for n in range(3)))
        is_left_nothing(mount)
        equal(mount.recover(1), -ESHUTDOWN, "it does not lead any more")
        equal(mount.elect(1), 0, "elected again")
        mount.until(Standing(leading=True, reclaimed=1))


@case
def leader_is_shut_down_by_an_error(case: Case) -> None:
    """A client that the agent cannot fence shuts the leader down and drops the other requests."""
    shuts_down(case, leader(case))


@case
def leader_is_shut_down_by_an_error_when_woken(case: Case) -> None:
    """The same for the worker sleeping in wait_next."""
    shuts_down(case, leader(case, reclaim_ms=60_000, wait_next=True))


@case
def leader_is_shut_down_without_an_agent(case: Case) -> None:
    """Without an agent the request times out, which shuts the leader down."""
    mount = leader(case)
    case.set_timeout_ms(200)
    case.expect_timeout_line(mount, 0xAA, 200)
    equal(mount.elect(), 0)
    equal(mount.recover(0xAA), 0)
    mount.until(Standing(leading=False, error=-EIO))
    is_left_nothing(mount)


@case
def leader_recovers_clients_of_which_some_are_pending(case: Case) -> None:
    """A recovery timeout adds its reason to pending requests, and each is fenced once."""
    mount = leader(case)
    equal(mount.elect(), 0)
    equal(mount.start(2, mount.address(2), CLIENT_RECONNECT), 0)
    equal(mount.recover(1, 2, 3, milliseconds=500 * kernel.PATIENCE), 0)
    equal(mount.listed(), {name(2)}, "before the time is over")
    watch = Stopwatch()
    while len(mount.listed()) < 3:
        watch.at_most(10)
        time.sleep(0.01)
    equal([mount.reason_pending(reason) for reason in (CLIENT_RECOVERY, CLIENT_RECONNECT)], [1, 1])
    equal(mount.request(2).read("reason"), "client_reconnect\n")
    equal(mount.standing(), Standing(leading=True))
    with agent() as it:
        begin(it, "exit 0")
        mount.until(Standing(leading=True, reclaimed=3))
        equal(sorted(served(it)), [1, 2, 3])


@case
def leader_can_step_down_while_it_is_elected(case: Case) -> None:
    """A step-down ends the election with ESHUTDOWN; running commands serve the next election."""
    mount = leader(case)
    with agent() as it:
        begin(it, WAITS)
        election = mount.election(1, 2)
        it.until_called(2)
        mount.step_down()
        equal(election.answer(), -ESHUTDOWN)
        equal(mount.standing(), Standing(leading=False))
        is_left_nothing(mount)
        # In the next election it fences the same mount, whose command still runs.
        election = mount.election(1)
        (it.folder / "go").touch()
        equal(election.answer(20), 0)
        equal(sorted(served(it)), [1, 2], "the new request joins the command of the old one")
        mount.until(Standing(leading=True, reclaimed=1))
        it.check_runs()


def steps_down(case: Case, mount: Leader) -> None:
    with agent() as it:
        begin(it, WAITS)
        equal(mount.elect(), 0)
        equal(mount.recover(1, 2), 0)
        it.until_called(2)
        watch = Stopwatch()
        mount.step_down()
        watch.at_most(10)
        equal(mount.standing(), Standing(leading=False))
        is_left_nothing(mount)
        election = mount.election(1, 3)
        (it.folder / "go").touch()
        equal(election.answer(20), 0)
        mount.until(Standing(leading=True, reclaimed=2))
        equal(sorted(served(it)), [1, 2, 3])
        it.check_runs()


@case
def leader_can_step_down_while_it_reclaims(case: Case) -> None:
    """A step-down during fencing drops the requests, and the mount can lead again."""
    steps_down(case, leader(case))


@case
def leader_can_step_down_while_it_sleeps(case: Case) -> None:
    """A step-down wakes the worker sleeping in wait_next for a minute."""
    steps_down(case, leader(case, reclaim_ms=60_000, wait_next=True))


@case
def leader_can_step_down_before_the_recovery_timeout(case: Case) -> None:
    """If a leader steps down before its recovery timeout, neither it nor its successor fences."""
    mount = leader(case)
    equal(mount.elect(), 0)
    equal(mount.recover(1, 2, milliseconds=200), 0)
    mount.step_down()
    equal(mount.elect(), 0)
    time.sleep(0.3)
    is_left_nothing(mount)
    equal(mount.standing(), Standing(leading=True))


@case
def leader_can_be_unmounted_while_it_leads(case: Case) -> None:
    """Unmounting a leader while its requests are being served is safe and leaves nothing behind."""
    for wait_next in (False, True):
        mount = leader(case, reclaim_ms=60_000, wait_next=wait_next)
        with agent() as it:
            begin(it, WAITS)
            equal(mount.elect(), 0)
            equal(mount.recover(1, 2), 0)
            it.until_called(1)
            watch = Stopwatch()
            mount.unmount()
            watch.at_most(10)
            true(not mount.published.exists(), "its directory is gone")
            (it.folder / "go").touch()
            it.check_runs()


@case
def leaders_of_two_mounts_know_nothing_of_each_other(case: Case) -> None:
    """If an error shuts down one of two leaders on a host, the other continues."""
    one, other = leader(case), leader(case)
    case.expect_error_line(one, 2)
    with agent() as it:
        begin(it, FAILS_FOR_2)
        equal([one.elect(1), other.elect(1)], [0, 0])
        equal([one.recover(2), other.recover(3)], [0, 0])
        one.until(Standing(leading=False, reclaimed=1, error=-EIO))
        other.until(Standing(leading=True, reclaimed=2))
