# SPDX-License-Identifier: GPL-2.0-only
"""Cases for the file of hosts."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest
from scoutfs_fenced import configuration
from scoutfs_fenced.configuration import Configuration, ConfigurationError
from scoutfs_fenced.hosts import (
    IPMITOOL,
    Hosts,
    HostsError,
    SecretError,
    read_hosts,
    read_secret,
)

SAMPLE = (
    Path(__file__).resolve().parents[2] / "scripts" / "agent" / "samples" / "scoutfs-fenced.hosts"
)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text("the secret\n")
    return path


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "fence_it"
    path.touch(mode=0o755)
    return path


def read(tmp_path: Path, text: str) -> Hosts:
    path = tmp_path / "hosts"
    path.write_text(text)
    return read_hosts(str(path))


def mistake(tmp_path: Path, text: str) -> tuple[int | None, str]:
    """The line of a mistake, and what is wrong with it."""
    with pytest.raises(HostsError) as caught:
        read(tmp_path, text)
    return caught.value.line, caught.value.what


def test_levels_come_in_order_with_their_parameters_unchanged(
    tmp_path: Path, agent: Path, secret: Path
) -> None:
    """Parameters go through as they are, and levels stay in order."""
    hosts = read(
        tmp_path,
        f"# a remark\n\n[node1]\naddress = 10.0.0.11\nagent = {agent}\n"
        f'ip=10.0.9.11\nsnmp-version = 2c\n  plug = 3,"a=b" # c\npassword_file = {secret}\n'
        f"; another\n[node1 level 2]\nagent = {agent}\nlimit = 7.5\naction = reboot\n"
        f"[node2]\nagent = {agent}\naddress = 10.0.0.12\n",
    )
    first, second = hosts.devices("10.0.0.11")
    assert dict(first.parameters) == {
        "ip": "10.0.9.11",
        "snmp-version": "2c",
        "plug": '3,"a=b" # c',
    }
    assert dict(first.secrets) == {"password": str(secret)}
    assert (first.host, first.level, first.action) == ("node1", 1, "off")
    assert (first.agent, first.limit) == (str(agent), float("inf"))
    assert (second.host, second.level, second.action, second.limit) == ("node1", 2, "reboot", 7.5)
    assert [host.name for host in hosts] == ["node1", "node2"]


def test_addresses_are_found_in_any_spelling(tmp_path: Path, agent: Path) -> None:
    """A host has several addresses, IPv4 and IPv6, each in whatever spelling."""
    hosts = read(
        tmp_path,
        f"[node1]\naddress = 10.0.0.11, FD00:0:0::0011 ::ffff:10.1.0.11\nagent = {agent}\n",
    )
    for address in ("10.0.0.11", "::ffff:10.0.0.11", "fd00::11", "fd00:0::11", "10.1.0.11"):
        assert [device.host for device in hosts.devices(address)] == ["node1"], address
    for address in ("10.0.0.12", "::11", "0.0.0.0", "", "node1"):
        assert list(hosts.devices(address)) == [], address


def test_mistakes_are_told_with_their_line(tmp_path: Path, agent: Path, secret: Path) -> None:
    """Each mistake in the file is told with the line where it is."""
    begin = f"[node1]\naddress = 10.0.0.11\nagent = {agent}\n"
    for text, line, pattern in (
        ("address = 10.0.0.1\n", 1, r"below the \[HOST\]"),
        ("[node1 level]\n", 1, r"begins with \[HOST\]"),
        ("[node1 level 0]\n", 1, r"begins with \[HOST\]"),
        ("[]\n", 1, r"begins with \[HOST\]"),
        ("[node1\n", 1, r"begins with \[HOST\]"),
        (begin + "lanplus\n", 4, "neither a section"),
        (begin + "lan plus = 1\n", 4, "neither a section"),
        (begin + "ip = a\vb\n", 4, "control character"),
        (begin + "ip = 1\nip = 2\n", 5, "ip is set in line 4 already"),
        (begin + "power-wait = 1\npower_wait = 2\n", 5, "power_wait is set in line 4 already"),
        (begin + begin, 4, r"level 1 of node1 is in line 1 already; call .*\[node1 level 2\]"),
        (begin + f"[node1 level 3]\nagent = {agent}\n", 4, "level 2 of node1 has to come before"),
        (f"[node1 level 2]\nagent = {agent}\n" + begin, 1, "level 1 of node1 has to come before"),
        (begin + f"[node1 level 2]\naddress = ::1\nagent = {agent}\n", 5, "for all levels"),
        (f"[node1]\nagent = {agent}\n", 1, "node1 needs an address"),
        (f"[node1]\naddress =\nagent = {agent}\n", 2, "node1 needs an address"),
        (f"[node1]\naddress = 10.0.0.256\nagent = {agent}\n", 2, "'10.0.0.256' is not an IPv4"),
        (begin + begin.replace("node1", "node2"), 5, "10.0.0.11 is in line 2 already"),
        (
            begin + f"[node2]\naddress = ::ffff:10.0.0.11\nagent = {agent}\n",
            5,
            "10.0.0.11 is in line 2 already",
        ),
        ("[node1]\naddress = ::1\n", 1, "there is no agent"),
        ("[node1]\naddress = ::1\nagent = fence_none\n", 3, "no fence agent fence_none; install"),
        ("[node1]\naddress = ::1\nagent = ./fence_it\n", 3, r"no fence agent \./fence_it"),
        (f"[node1]\naddress = ::1\nagent = {tmp_path}\n", 3, "no fence agent"),
        (f"[node1]\naddress = ::1\nagent = {secret}\n", 3, "no fence agent"),
        (begin + "action = on\n", 4, "the action is off or reboot, not 'on'"),
        (begin + "limit = soon\n", 4, "positive number of seconds, not 'soon'"),
        (begin + "limit = 0\n", 4, "positive number of seconds, not '0'"),
        (begin + "limit = nan\n", 4, "positive number of seconds, not 'nan'"),
    ):
        found, what = mistake(tmp_path, text)
        assert found == line, f"{what} in {text}"
        assert re.search(pattern, what), what


def test_secrets_must_not_stand_in_the_file(tmp_path: Path, agent: Path) -> None:
    """A literal secret is refused, whatever the fence agent calls it, and is not repeated."""
    begin = f"[node1]\naddress = 10.0.0.11\nagent = {agent}\n"
    for name in (
        *("password", "passwd", "Password", "snmp_priv_passwd", "snmp-priv-passwd", "community"),
        *("secret_key", "apikey", "api_key", "token", "hexadecimal_kg", "passphrase"),
    ):
        line, what = mistake(tmp_path, begin + f"{name} = hunter2\n")
        assert line == 4
        assert f"{name.replace('-', '_').lower()}_file" in what
        assert "hunter2" not in what
    for name in ("password_script", "passwd_script", "snmp_priv_passwd_script"):
        assert "_file" in mistake(tmp_path, begin + f"{name} = /bin/script\n")[1]
    for name in ("verbose", "verbose-level", "debug", "debug_file"):
        line, what = mistake(tmp_path, begin + f"{name} = 1\n")
        assert (line, "logs of its own" in what) == (4, True)
    # These are no secrets, and some merely end like the name of a secret's file.
    read(tmp_path, begin + "key_file = /a\nidentity_file = /b\nkey = 12\nplug = password\n")


def test_secrets_are_closed_to_others(tmp_path: Path, agent: Path, secret: Path) -> None:
    """A secret's file that others may read, or that is another user's, is refused at the start."""
    text = f"[node1]\naddress = 10.0.0.11\nagent = {agent}\nsnmp-priv-passwd_file = {secret}\n"
    [device] = read(tmp_path, text).devices("10.0.0.11")
    assert dict(device.secrets) == {"snmp_priv_passwd": str(secret)}
    for mode in (0o640, 0o604, 0o620, 0o601):
        secret.chmod(mode)
        line, what = mistake(tmp_path, text)
        assert (line, f"chmod 600 {secret}" in what) == (4, True)
    secret.chmod(0o400)
    read(tmp_path, text)
    if os.geteuid() == 0:
        os.chown(secret, 12345, 0)
        assert f"chown root {secret}" in mistake(tmp_path, text)[1]


def test_a_secret_is_one_line(tmp_path: Path, secret: Path) -> None:
    """A secret is one line of text in a file; anything else is refused, and not repeated."""
    assert read_secret(str(secret)) == "the secret"
    secret.write_text("without an end")
    assert read_secret(str(secret)) == "without an end"
    for content in (
        b"",
        b"\n",
        b"two\nlines\n",
        b" blank\n",
        b"blank \n",
        b"a\0b",
        b"dos\r\n",
        b"\xff",
    ):
        secret.write_bytes(content)
        with pytest.raises(SecretError, match="one line of text"):
            read_secret(str(secret))
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, pattern in (
        (str(tmp_path), "not a file"),
        (str(tmp_path / "pipe"), "not a file"),
        (str(tmp_path / "missing"), "No such file"),
        ("secret", "whole path"),
    ):
        with pytest.raises(SecretError, match=pattern):
            read_secret(path)


def test_agents_are_found_beyond_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fence agent is found by its name where packages put it, whatever PATH says."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    text = "[node1]\naddress = 10.0.0.11\nagent = fence_ipmilan\n"
    [device] = read(tmp_path, text).devices("10.0.0.11")
    assert device.agent == "/usr/sbin/fence_ipmilan"


def test_ipmitool_reads_the_password_itself(tmp_path: Path, secret: Path) -> None:
    """Fence agents that show the password to everybody by ipmitool's command line get its file."""
    begin = "[node1]\naddress = 10.0.0.11\nagent = fence_ipmilan\n"
    [device] = read(tmp_path, begin + f"password_file = {secret}\n").devices("10.0.0.11")
    assert device.secrets_by_file
    assert device.parameters["ipmitool_path"] == str(IPMITOOL)
    assert os.access(IPMITOOL, os.X_OK)
    # Without a password there is nothing to hide.
    [device] = read(tmp_path, begin + "ipmitool_path = /opt/tool\n").devices("10.0.0.11")
    assert device.parameters["ipmitool_path"] == "/opt/tool"

    text = begin + f"password_file = {secret}\nipmitool_path = /opt/tool\n"
    assert mistake(tmp_path, text)[0] == 5
    assert mistake(tmp_path, begin + f"hexadecimal_kg_file = {secret}\n")[0] == 4


def test_sample(tmp_path: Path, agent: Path, secret: Path) -> None:
    """The sample is a file of hosts as it stands, but for agents and secrets that are not here."""
    text = SAMPLE.read_text()
    assert "/etc/scoutfs/bmc.password" in text
    text = re.sub(r"^(\w+_file) = .*", rf"\1 = {secret}", text, flags=re.MULTILINE)
    text = text.replace("fence_apc_snmp", str(agent))
    hosts = read(tmp_path, text)
    assert [(host.name, len(host.devices)) for host in hosts] == [("node1", 2), ("node2", 1)]
    assert [device.level for device in hosts.devices("fd00::11")] == [1, 2]
    assert dict(hosts.devices("10.0.0.11")[1].secrets) == {"community": str(secret)}


def configured(tmp_path: Path, text: str) -> Configuration:
    path = tmp_path / "scoutfs-fenced.conf"
    path.write_text(text)
    return asyncio.run(configuration.read(str(path), lambda _line: None))


def test_configuration_names_the_file(
    tmp_path: Path, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of hosts is the one that is named, or the usual one where that exists."""
    path = tmp_path / "usual"
    monkeypatch.setattr(configuration, "DEFAULT_HOSTS", str(path))
    run = "SCOUTFS_FENCED_RUN=/bin/true\n"
    assert not list(configured(tmp_path, run).hosts)
    path.write_text(f"[usual]\naddress = 10.0.0.11\nagent = {agent}\n")
    assert [host.name for host in configured(tmp_path, run).hosts] == ["usual"]
    assert not list(configured(tmp_path, run + "SCOUTFS_FENCED_HOSTS=\n").hosts)
    named = tmp_path / "named"
    named.write_text(f"[named]\naddress = 10.0.0.11\nagent = {agent}\n")
    it = configured(tmp_path, run + f"SCOUTFS_FENCED_HOSTS={named}\n")
    assert [host.name for host in it.hosts] == ["named"]
    # With hosts, there need not be a command.
    assert configured(tmp_path, f"SCOUTFS_FENCED_HOSTS={named}\n").command == ()
    named.write_text("# nobody\n")
    with pytest.raises(ConfigurationError, match="SCOUTFS_FENCED_RUN must be set"):
        configured(tmp_path, f"SCOUTFS_FENCED_HOSTS={named}\n")


def test_mistakes_in_hosts_are_the_configurations(tmp_path: Path, agent: Path) -> None:
    """A mistake is told with the name of the file of hosts, and its line; so is a missing file."""
    text = f"SCOUTFS_FENCED_RUN=/bin/true\nSCOUTFS_FENCED_HOSTS={tmp_path}/hosts\n"
    with pytest.raises(ConfigurationError, match=r"hosts: the hosts file.*No such file.*_HOSTS"):
        configured(tmp_path, text)
    (tmp_path / "hosts").write_text(f"[a]\naddress = 10\nagent = {agent}\n")
    with pytest.raises(ConfigurationError, match=r"/hosts, line 2: '10' is not"):
        configured(tmp_path, text)
