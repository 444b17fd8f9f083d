# SPDX-License-Identifier: GPL-2.0-only
"""Fence agents' descriptions of themselves: the output of `AGENT -o metadata`, as XML.

It lists the agent's actions and parameters, which parameters are required, and old names of some
(`obsoletes`, `deprecated`). If its action `on` is marked `automatic` or `required`, `on` has to let
a host in (unfence it) before it can be kept out: the device does not cut the power, and says "off"
for any host that it does not know.

Fence agents are root's programs, so their XML is trusted as much as their exit status.
"""

from __future__ import annotations

import asyncio
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass

from scoutfs_fenced import process

# Seconds that an agent may take to print its metadata. Only its own start takes time.
SECONDS = 60.0

# Far more than any agent prints; the longest metadata of Debian 13's 87 agents has 30 KB.
LONGEST = 1 << 22

# Lines before this, such as an interpreter's warnings, are skipped, as `xml.etree` refuses them.
BEGINNING = re.compile(rb"<\?xml|<resource-agent")

TRUE = ("1", "true", "yes")


class MetadataError(Exception):
    """Why an agent's metadata is not available, as a phrase."""


def key_of(name: str) -> str:
    """The canonical form of a parameter's name, for comparing names.

    Fence agents accept both `-` and `_` between the words of a name.
    """
    return name.replace("-", "_").lower()


@dataclass(frozen=True)
class Metadata:
    """What one fence agent can do and needs. Parameters are identified by key_of(name)."""

    actions: frozenset[str]
    # How the agent spells each parameter.
    spelling: Mapping[str, str]
    # The present name of each parameter, which is its own unless it is an old one.
    present: Mapping[str, str]
    # The present names of the required parameters, without `action`.
    required: frozenset[str]
    # Whether `on` must let a host in before `off` means anything.
    unfencing: bool


def parse(text: bytes) -> Metadata:
    """Reads an agent's metadata; raises MetadataError."""
    begin = BEGINNING.search(text)
    try:
        root = ElementTree.fromstring(text[begin.start() :] if begin else text)
    except ElementTree.ParseError as error:
        raise MetadataError(f"it does not print metadata that can be read: {error}") from error
    if root.tag != "resource-agent":
        raise MetadataError(f"it prints <{root.tag}> where <resource-agent> belongs")
    actions = {action.get("name", ""): action for action in root.iterfind("./actions/action")}
    spelling: dict[str, str] = {}
    replaced: dict[str, str] = {}
    required = set()
    for parameter in root.iterfind("./parameters/parameter"):
        name = parameter.get("name", "")
        key = key_of(name)
        # Of two spellings of one name, keep the one that is not deprecated.
        if key not in spelling or not _says(parameter, "deprecated"):
            spelling[key] = name
        old = key_of(parameter.get("obsoletes", ""))
        if old and old != key:
            replaced[old] = key
        if _says(parameter, "required"):
            required.add(key)
    present = {key: replaced.get(key, key) for key in spelling}
    on = actions.get("on")
    return Metadata(
        actions=frozenset(actions),
        spelling=spelling,
        present=present,
        required=frozenset(present[key] for key in required) - {"action"},
        unfencing=on is not None and (_says(on, "automatic") or _says(on, "required")),
    )


def _says(element: ElementTree.Element, attribute: str) -> bool:
    return element.get(attribute, "").lower() in TRUE


class MetadataCache:
    """Caches the metadata of fence agents, and reads it again when the program changes."""

    def __init__(self) -> None:
        # By path: the program as it was, and the task that reads its metadata.
        self._known: dict[str, tuple[tuple[int, ...], asyncio.Future[Metadata]]] = {}

    async def get(self, agent: str, environment: Mapping[str, str]) -> Metadata:
        """The metadata of the agent at this path; raises MetadataError.

        The first call runs the agent, for up to SECONDS. A failure is not cached.
        """
        try:
            status = os.stat(agent)
        except OSError as error:
            raise MetadataError(f"it cannot be run: {error.strerror}") from error
        program = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        known = self._known.get(agent)
        if known is None or known[0] != program or _failed(known[1]):
            known = program, asyncio.ensure_future(_ask(agent, environment))
            self._known[agent] = known
        # A waiting caller may be cancelled while others wait for the same task.
        return await asyncio.shield(known[1])


def _failed(task: asyncio.Future[Metadata]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


async def _ask(agent: str, environment: Mapping[str, str]) -> Metadata:
    said: list[str] = []
    try:
        file_in_memory = os.memfd_create("metadata")
    except OSError as error:
        raise MetadataError(f"it cannot be run: {error.strerror}") from error
    with os.fdopen(file_in_memory, "rb") as answer:
        file = f"/proc/{os.getpid()}/fd/{answer.fileno()}"
        # Its standard error must not get into the XML.
        ending = await process.run(
            ["/bin/sh", "-c", f'exec "$0" -o metadata >{file}', agent],
            environment=environment,
            limit=SECONDS,
            say=said.append,
        )
        text = answer.read(LONGEST)
    if not ending.succeeded:
        why = next((line for line in reversed(said) if line), "")
        raise MetadataError(
            f"it does not tell its metadata, {ending}" + (f": {why}" if why else "")
        )
    return parse(text)
