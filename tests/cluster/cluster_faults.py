# SPDX-License-Identifier: GPL-2.0-only
"""The faults, one function each: what happens to the cluster, and what must follow."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from bmc import PASSWORD, USER
from cluster import SECONDS_TO_BOOT, Cluster
from hosts import Host
from journal import Event, FaultFailed
from judge import BOUND

Fault = Callable[["FaultRun"], None]
ALL: dict[str, Fault] = {}
# The shortest set that covers both sides: a host that wakes up, and a lie that must be found.
SHORT = ("a-client-wakes-up", "a-liar-is-found")


def fault(function: Fault) -> Fault:
    """Registers a function as a case, named after the function with hyphens."""
    ALL[function.__name__.replace("_", "-")] = function
    return function


def _matches(event: Event, name: str, facts: dict[str, str]) -> bool:
    has = {"host": str(event.host), **event.facts}
    return event.name == name and facts.items() <= has.items()


class FaultRun:
    """One run of a fault: its hosts, and the events since its start."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.leader, self.client, self.other = cluster.roles()
        self.since = cluster.journal.position()
        # The mounts whose fencings are measured.
        self.measured: dict[int, tuple[str, float | None]] = {}
        # Set if a lie was planted that the judge must find.
        self.planted = False

    def rid(self, host: Host) -> int:
        """A host's current rid."""
        return self.cluster.rid(host)

    def say(self, text: str) -> None:
        """Prints the fault's next action."""
        self.cluster.narrator.say("fault", text)

    def wait(self, name: str, what: str, within: float = BOUND, **facts: object) -> Event:
        """Waits for the first event of this name with these facts."""
        wanted = {key: str(fact) for key, fact in facts.items()}
        return self.cluster.journal.wait(
            what, self.since, within, lambda event: _matches(event, name, wanted)
        )

    def happened(self, name: str, **facts: object) -> bool:
        """Whether there was such an event."""
        wanted = {key: str(fact) for key, fact in facts.items()}
        events = self.cluster.journal.events[self.since :]
        return any(_matches(event, name, wanted) for event in events)

    def is_fenced_and_reclaimed(self, rid: int, name: str = "", begin: float | None = None) -> None:
        """Waits until a mount is fenced and reclaimed; if named, its figures are printed."""
        text = f"{rid:016x}"
        self.wait("request", f"{text} is asked for", rid=text)
        self.wait("fenced", f"a leader gets {text} as fenced", rid=text)
        self.wait("reclaimed", f"{text} is reclaimed", rid=text)
        if name:
            self.measured[rid] = name, begin

    def stays_silent(self, seconds: float = 2.0) -> None:
        """Gives a host time to commit a violation by writing."""
        time.sleep(seconds)


@fault
def a_client_panics(run: FaultRun) -> None:
    """A client's kernel panics: it hangs with its power on."""
    rid = run.rid(run.client)
    run.client.command("panic")
    run.is_fenced_and_reclaimed(rid, "a client panics")
    run.wait("power-off", "its power goes off", host=run.client.slot)


@fault
def a_client_wakes_up(run: FaultRun) -> None:
    """A client stops, and wakes up when its BMC gets the order to switch it off."""
    rid = run.rid(run.client)
    life = run.cluster.judge.lives[rid]
    before = life.counter

    def wake() -> None:
        nonlocal before
        bmc.at_order = outlet.at_order = None
        before = life.counter
        run.client.go_on()
        end = time.monotonic() + 5
        while life.counter < before + 5 and time.monotonic() < end:
            time.sleep(0.01)
        run.say(f"{run.client.name} has written {life.counter - before} stamps since it woke up")

    # Also the outlet, in case the agent's time for the BMC runs out before the order.
    bmc = run.cluster.power.bmcs[run.client.slot]
    outlet = run.cluster.power.outlets[run.client.slot]
    bmc.at_order = outlet.at_order = wake
    run.client.stop()
    run.is_fenced_and_reclaimed(rid, "a client is stopped, and wakes up")
    if life.counter == before:
        raise FaultFailed("the client has not written since it woke up, which shows nothing")
    run.client.go_on()
    run.stays_silent()


@fault
def a_client_loses_its_network(run: FaultRun) -> None:
    """A client's network cable is pulled out: it keeps writing until it is fenced."""
    rid = run.rid(run.client)
    begin = time.monotonic()
    run.cluster.pull_cable(run.client)
    run.wait("request", "it is asked for", rid=f"{rid:016x}", reason="client_reconnect")
    run.say(f"{run.client.name} is at stamp {run.cluster.judge.lives[rid].counter}")
    run.is_fenced_and_reclaimed(rid, "a client's network is cut", begin)
    run.stays_silent()


@fault
def the_leader_loses_its_network(run: FaultRun) -> None:
    """The leader's network cable is pulled out: it steps down, and the next one has it fenced."""
    rid = run.rid(run.leader)
    begin = time.monotonic()
    run.cluster.pull_cable(run.leader)
    run.wait("steps-down", "the leader steps down", host=run.leader.slot)
    run.is_fenced_and_reclaimed(rid, "the leader's network is cut", begin)
    run.stays_silent()


@fault
def the_leader_stops_while_fencing(run: FaultRun) -> None:
    """The leader stops when a client's BMC gets the order to switch the client off."""
    leader, client = run.rid(run.leader), run.rid(run.client)
    run.cluster.power.bmcs[run.client.slot].at_order = run.leader.stop
    run.client.stop()
    run.wait("stopped", "the leader stops", host=run.leader.slot)
    run.wait("elected", "another host leads", host=run.other.slot)
    run.is_fenced_and_reclaimed(leader, "the leader is stopped")
    run.is_fenced_and_reclaimed(client, "and the client that it was fencing")
    run.leader.go_on()
    run.stays_silent()


@fault
def both_clients_stop(run: FaultRun) -> None:
    """Both clients stop at the same time."""
    rids = [run.rid(run.client), run.rid(run.other)]
    run.client.stop()
    run.other.stop()
    for number, rid in enumerate(rids, 1):
        run.is_fenced_and_reclaimed(rid, f"both clients are stopped, {number} of 2")
    run.client.go_on()
    run.other.go_on()
    run.stays_silent()


@fault
def a_bmc_is_silent(run: FaultRun) -> None:
    """A client stops and its BMC does not answer; its outlet is switched off."""
    rid = run.rid(run.client)
    run.say(f"the BMC of {run.client.name} does not answer any more")
    run.cluster.power.bmcs[run.client.slot].bmc.be_silent(True)
    run.client.stop()
    run.is_fenced_and_reclaimed(rid, "a BMC is silent")
    run.wait("order", "the outlet is switched", host=run.client.slot, device="outlet")
    run.client.go_on()
    run.stays_silent()


@fault
def a_bmc_does_not_do_what_it_says(run: FaultRun) -> None:
    """BMC and outlet of a cut-off client accept the order to switch it off, but it runs on."""
    slot = run.client.slot
    rid = run.rid(run.client)
    text = f"{rid:016x}"
    switches = [run.cluster.power.bmcs[slot], run.cluster.power.outlets[slot]]
    run.say("a BMC and an outlet take orders from now on, and do nothing")
    for switch in switches:
        switch.is_stuck = True
    run.cluster.pull_cable(run.client)
    run.wait("request", "it is asked for", rid=text)
    run.wait("failed", "fencing it fails", rid=text)
    run.wait("steps-down", "the leader steps down", host=run.leader.slot)
    if run.happened("fenced", rid=text) or run.happened("reclaimed", rid=text):
        raise FaultFailed(f"{text} was taken for fenced, and runs on")
    life = run.cluster.judge.lives[rid]
    run.say(f"{run.client.name} runs on, at stamp {life.counter}; no leader has reclaimed {text}")
    run.say("BMC and outlet are mended")
    for switch in switches:
        switch.is_stuck = False
    run.is_fenced_and_reclaimed(rid)
    run.stays_silent()


@fault
def the_agent_is_killed(run: FaultRun) -> None:
    """The leader's agent is killed when a client's BMC gets the order to switch it off."""
    rid = run.rid(run.client)

    def kill() -> None:
        run.leader.command("kill-agent")
        run.wait("agent-ended", "the agent ends", within=10, host=run.leader.slot)

    run.cluster.power.bmcs[run.client.slot].at_order = kill
    run.client.stop()
    run.is_fenced_and_reclaimed(rid, "the leader's agent is killed")
    run.client.go_on()
    run.stays_silent()


@fault
def the_power_comes_back(run: FaultRun) -> None:
    """A client loses power; later its BMC switches it on, and it joins as another mount."""
    rid = run.rid(run.client)
    bmc = run.cluster.power.bmcs[run.client.slot].bmc
    run.client.power_off()
    run.is_fenced_and_reclaimed(rid, "a client loses its power")
    subprocess.run(
        [
            *("ipmitool", "-I", "lanplus", "-H", "127.0.0.1", "-p", str(bmc.port)),
            *("-U", USER, "-P", PASSWORD, "chassis", "power", "on"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    run.wait("joins", "it joins again", within=SECONDS_TO_BOOT, host=run.client.slot)
    run.cluster.make_ready()
    if run.rid(run.client) == rid:
        raise FaultFailed("it came back with the rid that it had before")


@fault
def all_hosts_lose_power(run: FaultRun) -> None:
    """All hosts lose power and boot again."""
    rids = [run.rid(host) for host in run.cluster.hosts]
    for host in run.cluster.hosts:
        host.power_off()
    for host in run.cluster.hosts:
        host.power_on()
    # The first leader shares the CPUs with booting hosts: a request may time out, so that it steps
    # down and asks again. The judge checks the bound for each leader.
    end = time.monotonic() + SECONDS_TO_BOOT + 2 * BOUND
    for rid in rids:
        text = f"{rid:016x}"
        run.wait("reclaimed", f"{text} is reclaimed", end - time.monotonic(), rid=text)
    # Hosts that were waiting to join were fenced for their previous lives.
    run.cluster.make_ready()


@fault
def a_liar_is_found(run: FaultRun) -> None:
    """Planted: the leader's agent says "fenced" but does nothing, and the client wakes up."""
    run.leader.command("lie")
    run.wait("agent-ended", "the agent is replaced", host=run.leader.slot)
    run.client.stop()
    _is_found(run)
    run.since = run.cluster.journal.position()
    run.leader.command("be-honest")
    run.wait("agent-ended", "the agent is replaced again", host=run.leader.slot)


@fault
def a_bmc_that_lies_is_found(run: FaultRun) -> None:
    """Planted: a client's BMC claims that the client is off, and the client wakes up."""
    run.cluster.power.bmcs[run.client.slot].lies = True
    run.client.stop()
    _is_found(run)


def _is_found(run: FaultRun) -> None:
    """Checks that the judge complains when a reclaimed client with its power on wakes up."""
    run.planted = True
    rid = run.rid(run.client)
    run.is_fenced_and_reclaimed(rid)
    if run.happened("power-off", host=run.client.slot):
        raise FaultFailed("the lie was not planted: the power went off")
    run.client.go_on()
    found = run.wait("violation", "the judge finds that it writes", within=10)
    if f"{rid:016x}" not in found.facts["text"]:
        raise FaultFailed(f"the judge complains of something else: {found.facts['text']}")
