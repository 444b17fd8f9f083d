# SPDX-License-Identifier: GPL-2.0-only
"""The agent, scoutfs-fenced, between the kernel and a test command."""

import statistics
import time
from errno import EIO, ENOENT
from pathlib import Path

import kernel
from agents import MOST_MILLISECONDS, Agent, agent
from case import Case, case
from fence import CLIENT_RECONNECT, Finished, Stopwatch, equal, true


@case
def agent_reports_fenced_where_the_command_succeeds(case: Case) -> None:
    """Exit status 0 of the command is reported as fenced, and the leader continues."""
    mount = case.mount()
    request = mount.started(0xAA, reason=CLIENT_RECONNECT)
    waiter = mount.waiter()
    with agent() as it:
        it.configure("exit 0")
        it.begin()
        equal(waiter.answer(20), 0)
        equal([request.read("fenced"), request.read("error")], ["1\n", "0\n"])
        equal(mount.next(), Finished(0xAA, CLIENT_RECONNECT))
        equal(len(it.called_with()), 1)
        it.check_runs()


@case
def agent_reports_error_where_the_command_fails(case: Case) -> None:
    """Any other exit status, or death by a signal, is reported as error."""
    mount = case.mount()
    with agent() as it:
        it.configure(
            "case $SCOUTFS_FENCED_REQ_RID in *1) exit 1;; *2) exit 255;; esac; kill -9 $$",
            retries=0,
        )
        for rid in (1, 2, 3):
            case.expect_error_line(mount, rid)
            mount.started(rid)
        it.begin()
        for rid in (1, 2, 3):
            mount.request(rid).until_failed(20)
            equal(mount.request(rid).read("fenced"), "0\n")
        equal(mount.wait_fenced(0), -EIO)
        equal(mount.next(), Finished(1, error=True))
        it.check_runs()


@case
def agent_gives_the_command_environment_and_arguments(case: Case) -> None:
    """The command gets the request's rid and address, and the configured arguments."""
    mount = case.mount()
    with agent() as it:
        it.configure("exit 0", arguments="--power off -v")
        mount.started(0xFEDCBA9876543210, "192.168.1.20")
        waiter = mount.waiter()
        it.begin()
        equal(waiter.answer(20), 0)
        equal(it.called_with(), ["fedcba9876543210,192.168.1.20,--power,off,-v"])


@case
def agent_serves_every_mount_and_new_requests(case: Case) -> None:
    """One agent serves all mounts, including requests made while it runs."""
    one, other = case.mount(), case.mount()
    with agent() as it:
        it.configure("exit 0", delay="0.1")
        one.started(0xAA, "10.0.0.1")
        other.started(0xAA, "10.0.0.2")
        waiters = [one.waiter(), other.waiter()]
        it.begin()
        equal([waiter.answer(20) for waiter in waiters], [0, 0])
        one.started(0xBB, "10.0.0.3")
        one.until_fenced()
        equal(one.free(0xBB), 0)
        # The same rid at another address has not been fenced.
        one.started(0xBB, "10.0.0.4")
        one.until_fenced()
        calls = it.called_with()
        addresses = [call.split(",")[1] for call in calls]
        equal(sorted(addresses), ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"])


@case
def agent_leaves_finished_requests_alone(case: Case) -> None:
    """The command is not run for requests that have already been fenced or failed."""
    mount = case.mount()
    case.expect_error_line(mount, 2)
    mount.started(1).set_fenced()
    mount.started(2).set_error()
    request = mount.started(3, "10.0.0.3")
    with agent() as it:
        it.configure("exit 0", delay="0.1")
        it.begin()
        it.until_called(1)
        time.sleep(0.5)
        true(request.fenced(), "the unfinished one was served")
        equal(it.called_with(), ["0000000000000003,10.0.0.3"])
    equal([mount.request(2).read("fenced"), mount.request(1).read("error")], ["0\n", "0\n"])


@case
def agent_goes_on_where_a_request_vanishes(case: Case) -> None:
    """Dropping a request while its command runs harms neither the agent nor the rid's next one."""
    mount = case.mount()
    with agent() as it:
        it.configure("test -e go || touch running; while ! test -e go; do sleep 0.05; done")
        mount.started(0xAA)
        it.begin()
        it.until_called(1)
        equal(mount.free(0xAA), 0)
        again = mount.started(0xAA, "10.0.0.9")
        (it.folder / "go").touch()
        it.until_called(2)
        mount.until_fenced()
        true(again.fenced(), "the new request was served")
        equal(it.called_with()[1], "00000000000000aa,10.0.0.9", "by a command of its own")
        it.check_runs()
        equal(mount.free(0xAA), 0)
        equal(mount.next(), -ENOENT)


@case
def agent_says_what_is_wrong_with_its_configuration(case: Case) -> None:
    """Without a valid configuration the agent exits with a message that names the file."""
    with agent() as it:
        said = it.refuses()
        true(str(it.configuration) in said, f"no such file: {said!r}")
        for text in (
            "SCOUTFS_FENCED_DELAY=1\n",
            f"SCOUTFS_FENCED_RUN={it.folder}/missing\n",
            f"SCOUTFS_FENCED_RUN={it.command('exit 0')}\nSCOUTFS_FENCED_DELAY=often\n",
            f"SCOUTFS_FENCED_RUN='{it.command('exit 0')}\n",
        ):
            it.configuration.write_text(text)
            said = it.refuses()
            true(str(it.configuration) in said, f"{text!r}: {said!r}")
            true("Traceback" not in said, f"{text!r} is answered with a sentence: {said!r}")
        equal(it.called_with(), [])


@case
def agent_starts_the_command_on_the_event(case: Case) -> None:
    """The command starts within 50 ms of start's return, without a scan of sysfs."""
    mount = case.mount()
    with agent() as it:
        it.configure("exit 0", delay="600")
        it.begin()
        lags = it.lags(mount, 15, tries=5)
        median = statistics.median(lags)
        case.note(f"{median:.0f} ms, {max(lags):.0f} ms at worst")
        true(median < MOST_MILLISECONDS, f"in less than {MOST_MILLISECONDS} ms")


@case
def agent_fences_hosts_at_the_same_time(case: Case) -> None:
    """Eight hosts, each with a command that takes 8 s, are all fenced within 10 s."""
    mount = case.mount()
    with agent() as it:
        it.configure("sleep 8", delay="600")
        it.begin()
        watch = Stopwatch()
        for host in range(8):
            mount.started(host, f"10.0.0.{host}")
        mount.until_fenced()
        case.note(f"in {watch.seconds():.2f} s")
        watch.at_most(10)


@case
def agent_serves_one_address_after_another(case: Case) -> None:
    """At most one command runs per address at a time, even for requests of several mounts."""
    mounts = [case.mount(), case.mount()]
    with agent() as it:
        it.configure("mkdir alone || touch not-alone; sleep 0.3; rmdir alone", run_fences="mount")
        it.begin()
        for number, mount in enumerate(mounts):
            mount.started(2 * number + 1, "10.0.0.1")
            mount.started(2 * number + 2, "10.0.0.1")
        for mount in mounts:
            mount.until_fenced()
        true(not (it.folder / "not-alone").exists(), "one at a time")
        equal(len(it.called_with()), 4)


@case
def agent_tries_again_while_there_is_time(case: Case) -> None:
    """A failed command is retried; a request that is fenced in the end has no error."""
    mount = case.mount()
    with agent() as it:
        it.configure(f"test $(wc -l < {it.calls}) = 3", retry_pause=0.2)
        it.begin()
        request = mount.started(0xAA)
        mount.until_fenced()
        equal(request.read("error"), "0\n")
        equal(len(it.called_with()), 3)


@case
def agent_reports_error_before_the_kernel_gives_up(case: Case) -> None:
    """If a command hangs, the agent writes error in time, and kills it with its children later."""
    mount = case.mount()
    case.set_timeout_ms(5000 * kernel.PATIENCE)
    # The error line, not the timeout line.
    case.expect_error_line(mount, 0xAA)
    with agent() as it:
        it.configure("trap '' TERM; sleep 77 & echo $! $$ > pids; while :; do sleep 78; done")
        it.begin()
        mount.started(0xAA)
        mount.request(0xAA).until_failed(20)
        it.until_says("could not be fenced, no time is left; this goes on: running ")
        it.until_says("killed for taking longer than")
        watch = Stopwatch()
        for pid in (it.folder / "pids").read_text().split():
            while Path("/proc", pid).exists():
                # A slow guest takes longer than the agent waits for it.
                watch.at_most(1 if kernel.PATIENCE == 1 else 20)
                time.sleep(0.01)
        it.check_runs()


@case
def agent_does_not_wait_for_what_a_command_leaves(case: Case) -> None:
    """A request is fenced when its command ends, even if children hold its output open."""
    mount = case.mount()
    with agent() as it:
        it.configure("sleep 300 & echo $! > pid; exit 0", delay="600")
        it.begin()
        mount.started(0xAA)
        mount.until_fenced()
        left = Path("/proc", (it.folder / "pid").read_text().strip())
        true(left.exists(), "what it left lives on")


@case
def agent_bears_a_command_that_prints_without_end(case: Case) -> None:
    """A command that floods its output is killed at its time limit, and the log stays short."""
    mount = case.mount()
    case.expect_error_line(mount, 0xAA)
    with agent() as it:
        it.configure("exec yes", limit=1, retries=0)
        it.begin()
        mount.started(0xAA)
        mount.request(0xAA).until_failed(20)
        it.until_says("which are left out")
        true(it.output.stat().st_size < 50_000, "the log is short")
        it.check_runs()


@case
def agent_goes_on_for_the_next_leader(case: Case) -> None:
    """A command outlives its request's removal; a new request for the rid joins it."""
    mount = case.mount()
    with agent() as it:
        it.configure("while ! test -e go; do sleep 0.1; done", delay="600")
        it.begin()
        mount.started(0xAA)
        request = mount.started(0xBB, "10.0.0.9")
        it.until_called(2)
        mount.stop()
        it.until_says("needs no answer any more, the request is gone; its fencing goes on", 5)
        true(not request.exists(), "the leader has stepped down")
        mount.started(0xAA)
        mount.started(0xBB, "10.0.0.9")
        (it.folder / "go").touch()
        watch = Stopwatch()
        mount.until_fenced()
        watch.at_most(5)
        equal(len(it.called_with()), 2, "no second command was needed")


@case
def agent_remembers_what_is_fenced_after_a_restart(case: Case) -> None:
    """The next agent reports a rid that was proven fenced at once when it is requested again."""
    mount = case.mount()
    with agent() as it:
        it.configure("exit 0", delay="600")
        it.begin()
        mount.started(0xAA)
        mount.until_fenced()
        watch = Stopwatch()
        records = it.state / "records"
        while not records.exists() or "00000000000000aa" not in records.read_text():
            watch.at_most(5)
            time.sleep(0.05)
        it.kill()
        mount.stop()
        mount.started(0xAA)
        it.begin()
        mount.until_fenced()
        it.until_says("fenced, was fenced before: exit status 0, on ")
        equal(len(it.called_with()), 1)
        mount.started(0xBB)
        mount.until_fenced()
        equal(len(it.called_with()), 2, "another rid of the host is not fenced by that")


def device_that_notes(it: Agent) -> Path:
    """Makes a fence agent that records in ./device each call except those for metadata."""
    device = it.folder / "fence-device"
    device.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "-o metadata" ] || echo called >>{it.folder}/device\nexit 1\n'
    )
    device.chmod(0o755)
    return device


@case
def agent_knows_a_former_mount_of_its_own_host(case: Case) -> None:
    """A loopback address is this host's: a rid not mounted here was fenced by the reboot."""
    mount = case.leader()
    with agent() as it:
        hosts = it.folder / "hosts"
        hosts.write_text(f"[node1]\naddress = 127.0.0.1\nagent = {device_that_notes(it)}\n")
        it.configure("exit 0", delay="600", hosts=hosts)
        it.begin()
        mount.started(0xDEAD00000000AAAA, "127.0.0.1")
        mount.until_fenced()
        it.until_says("fenced, it was a mount of this host, which has it no longer")
        true(not (it.folder / "device").exists(), "no device was asked")


@case
def agent_does_not_fence_its_own_host(case: Case) -> None:
    """A request for a mount that may be on this host fails without using the host's device."""
    mount = case.mount()
    case.expect_error_line(mount, 0xAA)
    with agent() as it:
        hosts = it.folder / "hosts"
        hosts.write_text(f"[node1]\naddress = 127.0.0.1\nagent = {device_that_notes(it)}\n")
        it.configure("exit 0", delay="600", hosts=hosts)
        it.begin()
        # This filesystem's directory name has no rid, so its mounts may have any.
        mount.started(0xAA, "127.0.0.1").until_failed(20)
        it.until_says("this host may have the mount: it cannot fence itself")
        true(not (it.folder / "device").exists(), "no device was asked")


@case
def agent_that_stops_serves_until_its_commands_have_ended(case: Case) -> None:
    """A new request waits neither for an old command nor for the next agent."""
    mount = case.mount()
    with agent() as it:
        it.configure(
            "test $SCOUTFS_FENCED_REQ_IP = 10.0.0.9 && exit 0\n"
            "while ! test -e go; do sleep 0.1; done",
            delay="600",
        )
        it.begin()
        old = mount.started(0xAA)
        it.until_called(1)
        it.terminate()
        it.until_says("waiting up to")
        watch = Stopwatch()
        new = mount.started(0xBB, "10.0.0.9")
        while not new.fenced():
            watch.at_most(5)
            time.sleep(0.01)
        true(not old.fenced(), "the old command still runs")
        (it.folder / "go").touch()
        mount.until_fenced()


@case
def agent_that_is_killed_is_replaced(case: Case) -> None:
    """Nothing counts as fenced by a killed agent's commands; the next agent fences it."""
    mount = case.mount()
    with agent() as it:
        it.configure("test -e killed && exit 0; touch running; sleep 3; exit 0")
        it.begin()
        for rid in (1, 2):
            mount.started(rid, f"10.0.0.{rid}")
        it.until_called(2)
        it.kill()
        # The commands run on and succeed, but no agent sees their result.
        time.sleep(4)
        equal([mount.request(rid).read("fenced") for rid in (1, 2)], ["0\n", "0\n"])
        (it.folder / "killed").touch()
        it.begin()
        mount.until_fenced()
        equal(len(it.called_with()), 4)


@case
def agent_is_the_only_one(case: Case) -> None:
    """A second agent reports the first and exits; the first continues."""
    mount = case.mount()
    with agent() as it:
        it.configure("exit 0")
        it.begin()
        with agent() as other:
            other.configuration = it.configuration
            other.runtime = it.folder
            said = other.refuses()
            true("another agent is running, with the process id" in said, said)
        mount.started(0xAA)
        mount.until_fenced()


@case
def agent_takes_configurations_of_scoutfs_own_agent(case: Case) -> None:
    """A configuration that needs bash, and commands that rely on it, work as they do there."""
    mount = case.mount()
    with agent() as it:
        # A script without a #! line: bash runs it itself.
        command = it.folder / "without-a-first-line"
        command.write_text(
            f'[[ $1 == -v && $POWER == 10.0.9.* ]] && echo "$SCOUTFS_FENCED_REQ_IP" > {it.calls}\n'
        )
        command.chmod(0o755)
        it.configuration.write_text(
            "declare -A power=([rack1]=10.0.9.1)\n"
            "export POWER=${power[rack1]}\n"
            f"[[ -x {command} ]] && SCOUTFS_FENCED_RUN={command}\n"
            "SCOUTFS_FENCED_RUN_ARGS=-v\n"
            "SCOUTFS_FENCED_DELAY=1\n"
            "test -e /etc/nowhere && SCOUTFS_FENCED_DELAY=5\n"
        )
        it.begin()
        mount.started(0xAA, "10.0.0.7")
        mount.until_fenced()
        equal(it.called_with(), ["10.0.0.7"])


@case
def agent_serves_scoutfs_with_its_own_fencing(case: Case) -> None:
    """Directories without uevents, inet_addr or a known timeout are served by polling."""
    with agent() as it:
        directory = it.folder / "sys/fs/scoutfs/f.000001.r.000002/fence/00000000000000aa"
        directory.mkdir(parents=True)
        for name, value in {
            "rid": "00000000000000aa",
            "ipv4_addr": "10.0.0.7",
            "reason": "client_recovery",
            "elapsed_secs": "0",
            "fenced": "0",
            "error": "0",
        }.items():
            (directory / name).write_text(f"{value}\n")
        it.configure("exit 0", delay="0.2")
        it.begin("--sysfs", str(it.folder / "sys"))
        it.until_says("fenced, exit status 0")
        equal((directory / "fenced").read_text(), "1\n")
        equal(it.called_with(), ["00000000000000aa,10.0.0.7"])
