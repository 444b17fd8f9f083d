# SPDX-License-Identifier: GPL-2.0-only
"""Cases for the hosts file."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest
from scoutfs_fenced import configuration
from scoutfs_fenced.configuration import Configuration, ConfigurationError
from scoutfs_fenced.device import IPMITOOL, DeviceError, Usable, find_agent
from scoutfs_fenced.devices import Devices
from scoutfs_fenced.hosts import (
    Device,
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


def devices_at(hosts: Hosts, address: str) -> list[Device]:
    host = hosts.host(address)
    return list(host.devices) if host else []


def read(tmp_path: Path, text: str) -> Hosts:
    path = tmp_path / "hosts"
    path.write_text(text)
    return read_hosts(str(path))


def mistake(tmp_path: Path, text: str) -> tuple[int | None, str]:
    """The line and description of a mistake."""
    with pytest.raises(HostsError) as caught:
        read(tmp_path, text)
    return caught.value.line, caught.value.what


def test_levels_come_in_order_with_their_parameters_unchanged(
    tmp_path: Path, agent: Path, secret: Path
) -> None:
    """Parameters are passed on unchanged, and levels keep their order."""
    hosts = read(
        tmp_path,
        f"# a remark\n\n[node1]\naddress = 10.0.0.11\nagent = {agent}\n"
        f'ip=10.0.9.11\nsnmp-version = 2c\n  plug = "3,a=b # c"\npassword_file = {secret}\n'
        f"; another\n[node1 level 2]\nagent = {agent}\nlimit = 7.5\naction = reboot\n"
        f"[node2]\nagent = {agent}\naddress = 10.0.0.12\nplug = 9\n",
    )
    first, second = devices_at(hosts, "10.0.0.11")
    assert {value.name: value.value for value in first.values.values()} == {
        "ip": "10.0.9.11",
        "snmp-version": "2c",
        "plug": '"3,a=b # c"',
        "password_file": str(secret),
    }
    assert (first.host, first.level, first.action) == ("node1", 1, "off")
    assert (first.agent, first.limit) == (str(agent), float("inf"))
    assert (second.host, second.level, second.action, second.limit) == ("node1", 2, "reboot", 7.5)
    assert [host.name for host in hosts] == ["node1", "node2"]


def test_addresses_are_found_in_any_spelling(tmp_path: Path, agent: Path) -> None:
    """A host may have several addresses, IPv4 and IPv6, each in any spelling."""
    hosts = read(
        tmp_path,
        f"[node1]\naddress = 10.0.0.11, FD00:0:0::0011 ::ffff:10.1.0.11\nagent = {agent}\n",
    )
    for address in ("10.0.0.11", "::ffff:10.0.0.11", "fd00::11", "fd00:0::11", "10.1.0.11"):
        assert [device.host for device in devices_at(hosts, address)] == ["node1"], address
    for address in ("10.0.0.12", "::11", "0.0.0.0", "", "node1"):
        assert devices_at(hosts, address) == [], address


def test_mistakes_are_told_with_their_line(tmp_path: Path, agent: Path, secret: Path) -> None:
    """Each mistake in the file is reported with its line."""
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
        (
            begin + begin,
            4,
            r"level 1 of node1 is in line 1 already; call .*\[node1 level 2\].*device",
        ),
        (begin + f"[node1 level 3]\nagent = {agent}\n", 4, "level 2 of node1 has to come before"),
        (f"[node1 level 2]\nagent = {agent}\n" + begin, 1, "level 1 of node1 has to come before"),
        (begin + f"[node1 level 2]\naddress = ::1\nagent = {agent}\n", 5, "for all levels"),
        (f"[node1]\nagent = {agent}\n", 1, "node1 needs an address"),
        (f"[node1]\naddress =\nagent = {agent}\n", 2, "node1 needs an address"),
        (f"[node1]\naddress = 10.0.0.256\nagent = {agent}\n", 2, "'10.0.0.256' is not an IPv4"),
        (begin.replace("10.0.0.11", "0.0.0.0"), 2, "0.0.0.0 is not the address of one host"),
        (begin.replace("10.0.0.11", "fd00::1, ::"), 2, ":: is not the address of one host"),
        (begin.replace("10.0.0.11", "::ffff:0.0.0.0"), 2, "is not the address of one host"),
        (begin.replace("10.0.0.11", "224.0.0.{number}"), 2, "224.0.0.1 is not the address of one"),
        (begin.replace("10.0.0.11", "ff02::1"), 2, "ff02::1 is not the address of one host"),
        (begin + begin.replace("node1", "node2"), 5, "10.0.0.11 is in line 2 already"),
        (
            begin + f"[node2]\naddress = ::ffff:10.0.0.11\nagent = {agent}\n",
            5,
            "10.0.0.11 is in line 2 already",
        ),
        ("[node1]\naddress = ::1\n", 1, "there is no agent"),
        ("[node1]\naddress = ::1\nagent = ./fence_it\n", 3, "or its whole path"),
        (begin + "plug = 3 # the left one\n", 4, "a comment has a line of its own"),
        (begin + "unfence = 1\n", 4, "yes or no"),
        (begin + "sessions = 0\n", 4, "whole number from 1 on"),
        (begin + "prepare = yes\n", 4, "followed by one that fences"),
        (begin + "ip = {nummer}\n", 4, "not known; there are"),
        (begin.replace("node1", "a") + "ip = {number}\n", 4, "a has no number"),
        ("[n[3-1]]\naddress = ::1\n", 1, "has to go up"),
        ("[n[1-9999]]\naddress = ::1\n", 1, "no more than 4096"),
        ("[defaults]\n[defaults]\n", 2, "in line 1 already"),
        (
            f"[a]\naddress = ::1\nagent = {agent}\nplug = 3\n"
            f"[b]\naddress = ::2\nagent = {agent}\npower_wait = 2\nplug = 3\n",
            5,
            "same device as level 1 of a in line 1",
        ),
        (
            f"[a device x]\naddress = ::1\nagent = {agent}\n[a device y]\nagent = {agent}\n",
            4,
            "same device as device x of level 1 of a in line 1",
        ),
        (begin + f"[node1 device b]\nagent = {agent}\n", 4, "name both"),
        (begin + "action = on\n", 4, "the action is off or reboot, not 'on'"),
        (begin + "limit = soon\n", 4, "positive number of seconds, not 'soon'"),
        (begin + "limit = 0\n", 4, "positive number of seconds, not '0'"),
        (begin + "limit = nan\n", 4, "positive number of seconds, not 'nan'"),
    ):
        found, what = mistake(tmp_path, text)
        assert found == line, f"{what} in {text}"
        assert re.search(pattern, what), what


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("agent = fence_apc\nip = a\nusername = one", "agent = fence_apc\nip = a\nusername = two"),
        ("agent = fence_apc\nip = a\nlogin = one", "agent = fence_apc\nip = a\nusername = one"),
        ("agent = fence_apc\nip = a\npassword_file = /a", "agent = fence_apc\nip = a"),
        ("agent = fence_apc\nip = a\nidentity_file = /a", "agent = fence_apc\nip = a"),
        ("agent = fence_apc\nip = a\nplug = 1", "agent = fence_apc\nipaddr = a\nport = 1"),
        ("agent = fence_apc\nip = a", "agent = /usr/sbin/fence_apc\nip = a"),
        ("agent = fence_apc\nip = a\nplug = 1", 'agent = fence_apc\nip = "A"\nplug = "1"'),
        ("agent = fence_apc\nip = a\ndelay = 1", "agent = fence_apc\nip = a\npower-wait = 2"),
    ],
)
def test_two_hosts_must_not_have_one_device(tmp_path: Path, first: str, second: str) -> None:
    """However the device is written."""
    text = f"[a]\naddress = 10.0.0.1\n{first}\n[b]\naddress = 10.0.0.2\n{second}\n"
    line, what = mistake(tmp_path, text)
    assert line == 3 + len(first.splitlines())
    assert "same device as level 1 of a in line 1" in what


@pytest.mark.parametrize("values", [("ip", "{host}.kuwait.example.com"), ("plug", "sleepy-{host}")])
def test_a_value_that_reads_like_a_time_tells_devices_apart(
    tmp_path: Path, values: tuple[str, str]
) -> None:
    name, value = values
    text = f"[defaults]\nagent = fence_apc\n{name} = {value}\n"
    hosts = read(tmp_path, f"{text}[a]\naddress = 10.0.0.1\n[b]\naddress = 10.0.0.2\n")
    assert [host.name for host in hosts] == ["a", "b"]


def test_secrets_must_not_stand_in_the_file(tmp_path: Path, agent: Path) -> None:
    """A literal secret is refused, whatever its parameter's name, and not repeated in messages."""
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
    # Not secrets; some names merely end like that of a secret's file.
    read(tmp_path, begin + "key_file = /a\nidentity_file = /b\nkey = 12\nplug = password\n")


def test_no_parameter_makes_off_mean_nothing(tmp_path: Path, agent: Path) -> None:
    """A parameter with which a device says "off" of a plug that it does not have is refused."""
    begin = f"[node1]\naddress = 10.0.0.11\nagent = {agent}\n"
    for name in ("missing_as_off", "missing-as-off"):
        line, what = mistake(tmp_path, begin + f"{name} = 1\n")
        assert (line, "misspelt plug" in what) == (4, True)


def test_secrets_are_closed_to_others(tmp_path: Path, agent: Path, secret: Path) -> None:
    """A secret's file that others may access, or that another user owns, is refused on use."""
    text = f"[node1]\naddress = 10.0.0.11\nagent = {agent}\nsnmp-priv-passwd_file = {secret}\n"
    # The file may appear later, and does not affect other hosts' devices.
    read(tmp_path, text)
    for mode in (0o640, 0o604, 0o620, 0o601):
        secret.chmod(mode)
        with pytest.raises(SecretError, match=f"chmod 600 {secret}"):
            read_secret(str(secret))
    secret.chmod(0o400)
    read_secret(str(secret))
    if os.geteuid() == 0:
        os.chown(secret, 12345, 0)
        with pytest.raises(SecretError, match=f"chown root {secret}"):
            read_secret(str(secret))


def test_a_secret_is_one_line(tmp_path: Path, secret: Path) -> None:
    """A secret is a file's single line of text; anything else is refused and not repeated."""
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
    """A fence agent is found by name where packages install it, regardless of PATH."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    text = "[node1]\naddress = 10.0.0.11\nagent = fence_ipmilan\n"
    [device] = devices_at(read(tmp_path, text), "10.0.0.11")
    assert find_agent(device) == "/usr/sbin/fence_ipmilan"


def test_ipmitool_reads_the_password_itself(tmp_path: Path, secret: Path) -> None:
    """Fence agents that would expose the password on ipmitool's command line get its file."""
    begin = "[node1]\naddress = 10.0.0.11\nagent = fence_ipmilan\nip = 10.0.9.1\n"

    def usable(more: str) -> Usable:
        async def look() -> Usable:
            [device] = devices_at(read(tmp_path, begin + more), "10.0.0.11")
            return await Devices("/nowhere").calls(os.environ).usable(device)

        return asyncio.run(look())

    it = usable(f"password_file = {secret}\n")
    assert it.given == {"ip": "10.0.9.1", "password": str(secret), "ipmitool_path": str(IPMITOOL)}
    assert list(it.secrets) == ["the secret"]
    assert os.access(IPMITOOL, os.X_OK)
    # Nothing to hide without a password.
    assert usable("ipmitool_path = /opt/tool\n").given["ipmitool_path"] == "/opt/tool"
    for more, line in (
        (f"password_file = {secret}\nipmitool_path = /opt/tool\n", 6),
        (f"hexadecimal_kg_file = {secret}\n", 5),
        ("lanplsu = 1\n", 5),
        ("ipaddr = 10.0.9.2\n", 5),
    ):
        with pytest.raises(DeviceError, match=f"hosts, line {line}: "):
            usable(more)


def test_a_hundred_hosts(tmp_path: Path, agent: Path) -> None:
    """Defaults, ranges, the host's name and number in parameters; also with a byte order mark."""
    (tmp_path / "hosts").write_bytes(
        b"\xef\xbb\xbf[defaults]\nagent = fence_ipmilan\nusername = {host}\n"
        b"address = 10.0.0.{number}, fd00::{number}\nip = 10.0.9.{number+100}\n"
        b"[node[001-100]]\n[node[001-002] level 2 device left]\n"
        + f"agent = {agent}\nplug = {{number}}\n".encode()
        + b"[node[001-002] level 2 device right]\n"
        + f"agent = {agent}\nplug = {{number+8}}\n".encode()
        + b"[other101]\nusername = me\n"
        + f"[other102]\nagent = {agent}\n".encode()
    )
    hosts = read_hosts(str(tmp_path / "hosts"))
    assert len(list(hosts)) == 102
    first, left, right = devices_at(hosts, "10.0.0.2")
    assert (first.host, first.says("username"), first.says("ip")) == (
        "node002",
        "node002",
        "10.0.9.102",
    )
    assert (left.name, left.says("plug"), left.says("username")) == ("left", "2", "")
    assert (right.name, right.says("plug"), right.level) == ("right", "10", 2)
    assert [each.says("username") for each in devices_at(hosts, "10.0.0.101")] == ["me"]
    # Another agent's parameters do not apply to it.
    assert [each.says("username") for each in devices_at(hosts, "10.0.0.102")] == [""]
    assert hosts.by_name("node100") is not None


def test_sample(tmp_path: Path, agent: Path, secret: Path) -> None:
    """The sample is a valid hosts file, except for agents and secrets that are missing here."""
    text = SAMPLE.read_text()
    assert "/etc/scoutfs/bmc.password" in text
    text = re.sub(r"^(\w+_file) = .*", rf"\1 = {secret}", text, flags=re.MULTILINE)
    text = text.replace("fence_apc_snmp", str(agent))
    hosts = read(tmp_path, text)
    assert [len(host.devices) for host in hosts] == [2] * 16 + [3]
    assert [device.level for device in devices_at(hosts, "fd00::11")] == [1, 2]
    assert devices_at(hosts, "10.0.0.11")[1].says("community_file") == str(secret)


def configured(tmp_path: Path, text: str) -> Configuration:
    path = tmp_path / "scoutfs-fenced.conf"
    path.write_text(text)
    return asyncio.run(configuration.read(str(path), lambda _line: None))


def test_configuration_names_the_file(
    tmp_path: Path, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hosts file is the configured one, or the default one if it exists."""
    path = tmp_path / "usual"
    monkeypatch.setattr(configuration, "DEFAULT_HOSTS", str(path))
    run = "SCOUTFS_FENCED_RUN=/bin/true\n"
    assert not list(configured(tmp_path, run).hosts)
    path.write_text(f"[usual]\naddress = 10.0.0.11\nagent = {agent}\n")
    assert [host.name for host in configured(tmp_path, run).hosts] == ["usual"]
    assert [host.name for host in configured(tmp_path, "").hosts] == ["usual"]
    assert not list(configured(tmp_path, run + "SCOUTFS_FENCED_HOSTS=\n").hosts)
    named = tmp_path / "named"
    named.write_text(f"[named]\naddress = 10.0.0.11\nagent = {agent}\n")
    it = configured(tmp_path, run + f"SCOUTFS_FENCED_HOSTS={named}\n")
    assert [host.name for host in it.hosts] == ["named"]
    # With hosts no command is needed.
    assert configured(tmp_path, f"SCOUTFS_FENCED_HOSTS={named}\n").command == ()
    named.write_text("# nobody\n")
    with pytest.raises(ConfigurationError, match="SCOUTFS_FENCED_RUN must be set"):
        configured(tmp_path, f"SCOUTFS_FENCED_HOSTS={named}\n")


def test_mistakes_in_hosts_are_the_configurations(tmp_path: Path, agent: Path) -> None:
    """A mistake is reported with the hosts file's name and line; so is a missing file."""
    text = f"SCOUTFS_FENCED_RUN=/bin/true\nSCOUTFS_FENCED_HOSTS={tmp_path}/hosts\n"
    with pytest.raises(ConfigurationError, match=r"hosts: the hosts file.*No such file.*_HOSTS"):
        configured(tmp_path, text)
    (tmp_path / "hosts").write_text(f"[a]\naddress = 10\nagent = {agent}\n")
    with pytest.raises(ConfigurationError, match=r"/hosts, line 2: '10' is not"):
        configured(tmp_path, text)
