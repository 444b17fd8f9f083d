# SPDX-License-Identifier: GPL-2.0-only
"""The metrics file for node_exporter's textfile collector."""

from __future__ import annotations

import os
import re
import signal
import stat
import threading
from pathlib import Path

import pytest
from fake import Fake
from scoutfs_fenced import events, metrics
from scoutfs_fenced.events import Event
from scoutfs_fenced.metrics import Metrics
from support import World, rid, until, until_result

VERSION = (Path(__file__).resolve().parents[2] / "VERSION").read_text().strip()

LINE = re.compile(
    r'(?P<name>[a-z_]+)(\{(?P<labels>[a-z_]+="[^"\\]*(\\.[^"\\]*)*"(,.*)?)\})? (?P<value>\S+)'
)


def parsed(text: str) -> dict[str, float]:
    """The samples of a file, which must be valid OpenMetrics."""
    lines = text.splitlines()
    assert text.endswith("# EOF\n") and text.count("# EOF") == 1
    samples: dict[str, float] = {}
    families: dict[str, str] = {}
    family = ""
    for line in lines[:-1]:
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split()
            assert family not in families, f"{family} is in one place"
            assert kind in ("counter", "gauge", "summary"), "the collector knows no more"
            families[family] = kind
        elif line.startswith(("# HELP ", "# UNIT ")):
            assert line.split()[2] == family
        else:
            found = LINE.fullmatch(line)
            assert found, line
            suffixes = {"counter": ["_total"], "summary": ["_count", "_sum"]}
            allowed = [family + suffix for suffix in suffixes.get(families[family], [""])]
            assert found["name"] in allowed, line
            key = line.rpartition(" ")[0]
            assert key not in samples, f"{key} is there once"
            samples[key] = float(found["value"])
    return samples


def of(*left: float) -> Metrics:
    """Metrics of an agent whose requests have these many seconds left."""
    return Metrics(1700000000.25, lambda: "", lambda: list(left), list)


def test_it_counts_requests_by_their_reason() -> None:
    it = of(21, 20)
    for kind, reason, more in (
        (events.REQUEST_BEGUN, "client_recovery", {}),
        (events.REQUEST_BEGUN, "quorum_block_leader", {}),
        (events.REQUEST_BEGUN, "quorum_block_leader", {}),
        (events.REQUEST_FENCED, "quorum_block_leader", {"duration": "1.250"}),
        (events.REQUEST_FENCED, "client_recovery", {"duration": "0.500"}),
        (events.REQUEST_DROPPED, "unknown", {"how": "the request is gone"}),
        (events.REQUEST_FAILED, 'a "new\\one"\n', {"duration": "20"}),
    ):
        it.add(Event(kind, {"reason": reason, **more}))
    samples = parsed(it.text())
    assert samples['scoutfs_fenced_requests_total{reason="quorum_block_leader"}'] == 2
    assert samples['scoutfs_fenced_requests_fenced_total{reason="client_recovery"}'] == 1
    assert samples['scoutfs_fenced_requests_failed_total{reason="client_recovery"}'] == 0
    assert samples[r'scoutfs_fenced_requests_failed_total{reason="a \"new\\one\"\n"}'] == 1
    assert samples['scoutfs_fenced_requests_dropped_total{reason="unknown"}'] == 1
    assert samples["scoutfs_fenced_fencing_seconds_count"] == 2
    assert samples["scoutfs_fenced_fencing_seconds_sum"] == 1.75
    assert samples["scoutfs_fenced_requests_pending"] == 2
    assert samples["scoutfs_fenced_request_left_seconds"] == 20
    assert samples["scoutfs_fenced_start_time_seconds"] == 1700000000.25
    assert samples[f'scoutfs_fenced_build_info{{version="{VERSION}"}}'] == 1


def test_each_device_is_well_or_not(world: World) -> None:
    fake = Fake(world.folder / "device")
    hosts = world.folder / "hosts"
    first = f"[node1]\naddress = 10.0.0.11\nagent = {fake.agent}\nip = 10.0.9.11\n"
    hosts.write_text(f"{first}[node1 level 2]\nagent = {fake.folder}/nowhere\n")
    path = world.folder / "scoutfs-fenced.prom"
    agent = world.agent(hosts=hosts, metrics=path)
    name = 'scoutfs_fenced_device_well{host="node1",level="%s",device=""}'
    until(lambda: path.exists() and name % 2 in path.read_text(), "it is written")
    until(lambda: parsed(path.read_text())[name % 2] == 0, "one cannot be used")
    assert parsed(path.read_text())[name % 1] == 1
    hosts.write_text(first)
    agent.signal(signal.SIGHUP)
    until(lambda: name % 2 not in path.read_text(), "one that was removed is not lost for ever")


def test_what_is_not_there_has_no_line() -> None:
    text = of().text()
    assert "request_left_seconds" not in text
    assert parsed(text)["scoutfs_fenced_requests_pending"] == 0


def test_the_agent_writes_it(world: World) -> None:
    file = world.folder / "metrics.prom"
    world.agent(metrics=file)
    until(file.exists, "it is written before anything happens")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    until_result(world.request(), "fenced")
    name = 'scoutfs_fenced_requests_fenced_total{reason="client_recovery"}'
    until(lambda: parsed(file.read_text())[name] == 1, "it counts", 5)


def test_a_file_that_cannot_be_written_is_logged_once(world: World) -> None:
    folder = world.folder / "not there"
    agent = world.agent(metrics=folder / "metrics.prom").says("metrics cannot be written to")
    for number in range(3):
        until_result(world.request(rid(number)), "fenced")
    folder.mkdir()
    until_result(world.request(rid(9)), "fenced")
    until((folder / "metrics.prom").exists, "it is written once it can be", 20)
    assert len(agent.lines("metrics cannot be written")) == 1


@pytest.mark.parametrize("path", ["metrics.prom", "/run/metrics", "/run/.prom/"])
def test_what_the_collector_would_not_read_is_a_mistake(world: World, path: str) -> None:
    world.configure("exit 0", metrics=path)
    assert world.begin().wait() == 78


def test_a_reader_sees_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "it.prom"
    texts = [f"{letter * 100_000}\n# EOF\n" for letter in "ab"]
    done = False

    def write() -> None:
        while not done:
            for text in texts:
                metrics._replace(str(file), text)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(file.exists, "it is there")
        assert all(file.read_text() in texts for _ in range(300))
    finally:
        done = True
        writer.join()
    assert os.listdir(tmp_path) == ["it.prom"]
