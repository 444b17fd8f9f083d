# SPDX-License-Identifier: GPL-2.0-only
"""`scoutfs-fenced status`: the requests, and what the agent does about each.

The requests and their outcomes are read from sysfs, the rest comes from the agent; if none runs,
the requests are still shown. As JSON the report has these members:

  agent      null if none runs, else the object of status.py, without the requests
  acknowledgements   those that hold: subject, by, given and until, the latter two in seconds since
             1970
  requests   a list, the one with the least time left first, each with
    directory, rid, address, reason, mount, age, left   as in status.py
    outcome  pending, fenced or failed
    agent    null if the agent does not know it, else its state, doing, for, attempt and result
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from scoutfs_fenced.acknowledgements import read_acknowledgements
from scoutfs_fenced.instance import folder
from scoutfs_fenced.request import (
    DEFAULT_LEADER_TIMEOUT,
    find_requests,
    read_outcome,
    read_request,
)
from scoutfs_fenced.statefile import StateError, state_directory

SECONDS_TO_ANSWER = 10.0

HEADINGS = ("RID", "ADDRESS", "REASON", "MOUNT", "AGE", "LEFT", "STATE")


class NoAnswer(Exception):
    """Why a running agent gives no answer, as a sentence."""


def print_status(sysfs: str, as_json: bool) -> int:
    """Prints the report; returns the exit status, 1 if no agent answers."""
    try:
        agent, why = _ask(), "no agent is running; start it with: systemctl start scoutfs-fenced"
    except NoAnswer as error:
        agent, why = None, str(error)
    requests = _requests(sysfs, agent.pop("requests") if agent else [])
    acknowledged = _acknowledged()
    if as_json:
        report = {"agent": agent, "requests": requests, "acknowledgements": acknowledged}
        print(json.dumps(report, indent=2))
    else:
        _print_table(requests)
        if agent:
            _print_attempts(agent["attempts"], requests)
            _print_devices(agent["devices"])
            if agent["refused"]:
                print(f"the configuration stays as it was: {agent['refused']}")
        for each in acknowledged:
            until = time.strftime("%H:%M:%S on %Y-%m-%d", time.localtime(each["until"]))
            print(f"acknowledged: {each['subject']}, by {each['by']}, until {until}")
    if agent is None:
        print(f"scoutfs-fenced: {why}", file=sys.stderr)
        return 1
    return 0


def _acknowledged() -> list[dict[str, Any]]:
    """The acknowledgements that hold."""
    try:
        found = read_acknowledgements(state_directory())
    except StateError as error:
        print(f"scoutfs-fenced: {error}", file=sys.stderr)
        return []
    return [
        {"subject": each.subject, "by": each.by, "given": each.given, "until": each.until}
        for each in found
    ]


def _ask() -> dict[str, Any] | None:
    """The agent's answer, or None if there is no agent."""
    path = os.path.join(folder(), "status")
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(SECONDS_TO_ANSWER)
            connection.connect(path)
            while part := connection.recv(1 << 16):
                answer += part
        state: dict[str, Any] = json.loads(answer)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except PermissionError as error:
        raise NoAnswer("only root may ask the agent; run this as root") from error
    except (OSError, ValueError) as error:
        raise NoAnswer(f"the agent does not answer at {path}: {error}") from error
    return state


def _requests(sysfs: str, served: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_directory = {(each["directory"], each["rid"]): each for each in served}
    requests = []
    for directory, _inode in find_requests(sysfs):
        # It may disappear at any moment.
        with suppress(OSError, ValueError):
            request, _finished = read_request(directory, sysfs, DEFAULT_LEADER_TIMEOUT)
            now = time.monotonic()
            known = by_directory.get((directory, request.rid), {})
            requests.append(
                {
                    "directory": directory,
                    **request.fields(),
                    "age": known.get("age", round(now - request.made, 3)),
                    "left": known.get("left", round(request.deadline - now, 3)),
                    "outcome": read_outcome(directory),
                    "agent": {name: known[name] for name in AGENTS} if known else None,
                }
            )
    return sorted(requests, key=lambda request: float(request["left"]))


AGENTS = ("state", "doing", "for", "attempt", "result")


def _print_table(requests: list[dict[str, Any]]) -> None:
    rows = [HEADINGS, *(_row(request) for request in requests)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())


def _print_attempts(attempts: list[dict[str, Any]], requests: list[dict[str, Any]]) -> None:
    """Prints the attempts that no request above shows."""
    pending = {request["rid"] for request in requests if request["outcome"] == "pending"}
    for attempt in attempts:
        if not pending & set(attempt["rids"]):
            print(
                f"goes on for {attempt['host']}, for the next leader: {attempt['step']}; "
                f"{attempt['for']:.0f} s so far"
            )


def _print_devices(devices: list[dict[str, Any]]) -> None:
    """Prints the devices that cannot fence their host."""
    for device in devices:
        if not device["well"]:
            name = f" device {device['device']}" if device["device"] else ""
            since = time.strftime("%H:%M:%S on %Y-%m-%d", time.localtime(device["since"]))
            print(
                f"{device['host']} level {device['level']}{name} by {device['agent']} is "
                f"{device['state']} since {since}: {device['why']}"
            )


def _row(request: dict[str, Any]) -> tuple[str, ...]:
    pending = request["outcome"] == "pending"
    return (
        request["rid"],
        request["address"],
        request["reason"],
        request["mount"],
        f"{request['age']:.0f} s",
        f"{request['left']:.0f} s" if pending else "-",
        _state(request["agent"]) if pending else request["outcome"],
    )


def _state(work: dict[str, Any] | None) -> str:
    """What the agent does about a pending request."""
    if work is None:
        return "pending, and no agent at work on it"
    if work["state"] == "done":
        # Its leader would take `error` for success, or the kernel did not take the answer.
        state = "given up; the next leader asks again"
    else:
        state = work["doing"] or work["state"].replace("-", " ")
        state += f"; {work['for']:.0f} s so far"
    if work["attempt"] > 1:
        state += f", attempt {work['attempt']}"
    if work["result"]:
        state += f"; before: {work['result']}"
    return state
