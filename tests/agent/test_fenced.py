# SPDX-License-Identifier: GPL-2.0-only
"""Cases for scripts/scoutfs-fenced, against a folder that looks like /sys.

Run them with: python3 -m unittest discover tests/agent
"""

from __future__ import annotations

import errno
import importlib.machinery
import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from types import ModuleType
from unittest import mock

AGENT = Path(__file__).resolve().parents[2] / "scripts" / "scoutfs-fenced"

# The agent as a process of its own, serving the folder that is its first argument.
PROCESS = """
import pathlib, sys
from test_fenced import agent
agent.main(pathlib.Path(sys.argv.pop(1)))
"""

RID = "00c0ffee00000001"


def load_agent() -> ModuleType:
    """The agent's file as a module: it has no .py at the end of its name."""
    loader = importlib.machinery.SourceFileLoader("scoutfs_fenced", str(AGENT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


sys.dont_write_bytecode = True
agent = load_agent()


class AgentCase(unittest.TestCase):
    """A folder for a case, with a tree like /sys in it."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.sysfs = self.folder / "sys"
        self.record = self.folder / "record"

    def request(self, rid: str = RID, mount: str = "scoutfs/f.000001.r.000002") -> Path:
        """Makes a request's directory."""
        directory = self.sysfs / "fs" / mount / "fence" / rid
        directory.mkdir(parents=True)
        values = {
            "rid": rid,
            "ipv4_addr": "10.1.2.3",
            "reason": "client_recovery",
            "elapsed_secs": "0",
            "fenced": "0",
            "error": "0",
        }
        for name, value in values.items():
            (directory / name).write_text(f"{value}\n")
        return directory

    def script(self, body: str) -> str:
        """Writes an executable file for the shell."""
        path = self.folder / "fence-command"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return str(path)

    def config(self, text: str) -> str:
        """Writes a configuration file."""
        path = self.folder / "scoutfs-fenced.conf"
        path.write_text(text)
        return str(path)

    def assert_result(self, directory: Path, fenced: str, error: str) -> None:
        """Checks what the kernel was told."""
        self.assertEqual((directory / "fenced").read_text(), f"{fenced}\n", "fenced")
        self.assertEqual((directory / "error").read_text(), f"{error}\n", "error")


class LookCase(AgentCase):
    """One look through the tree."""

    def look(self, body: str, *arguments: str, log: str | None = None) -> list[str]:
        """Looks once with the script as the command; returns the lines of the log."""
        config = agent.Config(delay=2, command=[self.script(body), *arguments])
        with self.assertLogs("scoutfs-fenced") as logs:
            logging.getLogger("scoutfs-fenced").info("look")
            agent.look(config, self.sysfs, lambda: False)
        lines = [record.getMessage() for record in logs.records[1:]]
        if log is not None:
            self.assertRegex("\n".join(lines), log)
        return lines

    def test_exit_status_0_is_fenced(self) -> None:
        directory = self.request()
        self.look("exit 0", log="fenced, exit status 0 after 0[.][0-9]{3} s")
        self.assert_result(directory, fenced="1", error="0")

    def test_exit_status_3_is_an_error(self) -> None:
        directory = self.request()
        self.look("exit 3", log="could not be fenced, exit status 3 after 0[.][0-9]{3} s")
        self.assert_result(directory, fenced="0", error="1")

    def test_a_killed_command_is_an_error(self) -> None:
        directory = self.request()
        self.look("kill -9 $$", log="could not be fenced, killed by signal 9")
        self.assert_result(directory, fenced="0", error="1")

    def test_a_command_that_cannot_be_run_is_an_error(self) -> None:
        directory = self.request()
        config = agent.Config(delay=2, command=[str(self.folder / "nothing")])
        with self.assertLogs("scoutfs-fenced") as logs:
            agent.look(config, self.sysfs, lambda: False)
        self.assertIn("cannot be run: No such file or directory", logs.output[-1])
        self.assert_result(directory, fenced="0", error="1")

    def test_the_command_is_told_whom_to_fence(self) -> None:
        self.request()
        self.look(
            f'echo "$SCOUTFS_FENCED_REQ_RID $SCOUTFS_FENCED_REQ_IP $# $1 $2" >{self.record}',
            "--on",
            "two words",
        )
        self.assertEqual(self.record.read_text(), f"{RID} 10.1.2.3 2 --on two words\n")

    def test_every_line_names_the_request(self) -> None:
        self.request()
        lines = self.look("exit 0")
        self.assertEqual(len(lines), 2)
        for line in lines:
            self.assertTrue(
                line.startswith(
                    f"rid {RID} address 10.1.2.3 reason client_recovery mount f.000001.r.000002: "
                ),
                line,
            )

    def test_both_places_are_looked_through(self) -> None:
        directories = [self.request(), self.request(mount="scoutfs_fence/0:41")]
        self.look("exit 0")
        for directory in directories:
            self.assert_result(directory, fenced="1", error="0")

    def test_finished_requests_are_left_alone(self) -> None:
        for name in ("fenced", "error"):
            with self.subTest(name):
                directory = self.request(rid=f"{name:0>16}")
                (directory / name).write_text("1\n")
                self.assertEqual(self.look(f"touch {self.record}"), [])
        self.assertFalse(self.record.exists())

    def test_an_incomplete_directory_waits_for_the_next_look(self) -> None:
        for name in ("rid", "ipv4_addr", "reason", "fenced", "error"):
            with self.subTest(name):
                directory = self.request(rid=f"{name:0>16}")
                late = (directory / name).read_text()
                (directory / name).unlink()
                self.assertEqual(self.look("exit 0"), [])
                (directory / name).write_text(late)
                self.look("exit 0")
                self.assert_result(directory, fenced="1", error="0")

    def test_a_result_does_not_reach_a_request_made_again(self) -> None:
        directory = self.request()
        kept = self.folder / "kept"
        shutil.copytree(directory, kept)
        self.look(f"rm -r {directory}; cp -r {kept} {directory}")
        self.assert_result(directory, fenced="0", error="0")

    def test_a_request_that_goes_while_its_command_runs(self) -> None:
        self.request()
        gone = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        with mock.patch.object(agent.os, "pwrite", side_effect=gone):
            self.look("exit 0", log="exit status 0 after 0[.][0-9]{3} s, but the request is gone")

    def test_a_request_that_failed_while_its_command_ran(self) -> None:
        first, second = self.request(), self.request(rid="00c0ffee00000002")
        stale = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        with mock.patch.object(agent.os, "pwrite", side_effect=[stale, 2]) as write:
            lines = self.look("exit 0")
        self.assertIn("but the request had already failed", lines[1])
        self.assertEqual(write.call_count, 2, "the agent goes on")
        for directory in (first, second):
            self.assert_result(directory, fenced="0", error="0")

    def test_a_request_that_goes_before_it_is_read(self) -> None:
        self.request()
        gone = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        with mock.patch.object(agent.os, "pread", side_effect=gone):
            self.assertEqual(self.look(f"touch {self.record}"), [])
        self.assertFalse(self.record.exists())

    def test_no_sysfs_directory_is_no_error(self) -> None:
        self.assertEqual(self.look("exit 0"), [])

    def test_no_file_stays_open(self) -> None:
        directory = self.request()
        before = len(os.listdir("/proc/self/fd"))
        self.look("exit 0")
        (directory / "error").unlink()
        self.look("exit 0")
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_nothing_new_is_started_when_told_to_stop(self) -> None:
        self.request()
        config = agent.Config(delay=2, command=[self.script(f"touch {self.record}")])
        agent.look(config, self.sysfs, lambda: True)
        self.assertFalse(self.record.exists())


class ConfigCase(AgentCase):
    """What is taken from a configuration, and what is refused."""

    def refused(self, text: str, why: str) -> None:
        """Checks that the configuration is refused with a sentence."""
        with self.assertRaisesRegex(agent.ConfigError, why):
            agent.read_config(self.config(text))

    def test_the_delay_is_2_unless_set(self) -> None:
        path = self.config("SCOUTFS_FENCED_RUN=/bin/true")
        self.assertEqual(agent.read_config(path), agent.Config(delay=2, command=["/bin/true"]))

    def test_all_three_are_read_as_the_shell_does(self) -> None:
        path = self.config(
            "here=/bin  # a comment\n"
            "echo chatter\n"
            "export SCOUTFS_FENCED_DELAY='0.5'\n"
            "SCOUTFS_FENCED_RUN=${here}/true\n"
            'SCOUTFS_FENCED_RUN_ARGS=" --one  \'two\tthree * "\n'
        )
        with self.assertLogs("scoutfs-fenced") as logs:
            config = agent.read_config(path)
        self.assertEqual(config, agent.Config(0.5, ["/bin/true", "--one", "'two", "three", "*"]))
        self.assertIn("says: chatter", logs.output[0])

    def test_a_relative_name_is_not_looked_for_elsewhere(self) -> None:
        self.config("SCOUTFS_FENCED_RUN=/bin/true")
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder)
        self.assertEqual(agent.read_config("scoutfs-fenced.conf").command, ["/bin/true"])

    def test_a_delay_that_is_no_positive_number(self) -> None:
        for delay in ("0", "-1", "soon", "nan", "inf", ""):
            with self.subTest(delay):
                self.refused(
                    f"SCOUTFS_FENCED_RUN=/bin/true\nSCOUTFS_FENCED_DELAY={delay}",
                    f"SCOUTFS_FENCED_DELAY in .* must be a positive number .*'{delay}'",
                )

    def test_no_command(self) -> None:
        self.refused("SCOUTFS_FENCED_DELAY=1", "must set SCOUTFS_FENCED_RUN")

    def test_a_command_that_is_not_executable(self) -> None:
        for command in ("/etc/passwd", "/nowhere", "/tmp", "true"):
            with self.subTest(command):
                self.refused(f"SCOUTFS_FENCED_RUN={command}", f"not an executable file: {command}")

    def test_a_mistake_in_the_shells_language_names_the_line(self) -> None:
        self.refused("\n\nSCOUTFS_FENCED_RUN='/bin/true\n", "scoutfs-fenced.conf.*[0-9]+: ")

    def test_a_failing_line_is_a_mistake(self) -> None:
        self.refused("SCOUTFS_FENCED_RUN=/bin/true\nno-such-command\ntrue", "2: .*no-such-command")
        self.refused("SCOUTFS_FENCED_RUN=/bin/true\nfalse\ntrue", "exit status 1")

    def test_a_configuration_that_ends_the_shell(self) -> None:
        self.refused("SCOUTFS_FENCED_RUN=/bin/true\nexit 0", "must not end the shell")

    def test_no_configuration(self) -> None:
        with self.assertRaisesRegex(agent.ConfigError, "/nowhere: No such file or directory"):
            agent.read_config("/nowhere")


class ProcessCase(AgentCase):
    """The agent as it is started by an administrator."""

    def start(self, config: str) -> subprocess.Popen[str]:
        """Starts the agent, which is killed at the end of the case should it be there still."""
        process = subprocess.Popen(
            [sys.executable, "-B", "-c", PROCESS, str(self.sysfs)],
            cwd=Path(__file__).parent,
            env={**os.environ, "SCOUTFS_FENCED_CONFIG_FILE": config},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def wait_for(self, path: Path, text: str) -> None:
        """Waits until a file has the text, up to 10 s."""
        end = time.monotonic() + 10
        while not path.exists() or path.read_text() != text:
            self.assertLess(time.monotonic(), end, f"{path} never became {text!r}")
            time.sleep(0.01)

    def test_a_request_made_later_is_served(self) -> None:
        command = self.script("exit 0")
        self.start(self.config(f"SCOUTFS_FENCED_RUN={command}\nSCOUTFS_FENCED_DELAY=0.05"))
        directory = self.request()
        self.wait_for(directory / "fenced", "1\n")

    def test_a_signal_ends_the_wait_between_two_looks(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number):
                path = self.config("SCOUTFS_FENCED_RUN=/bin/true\nSCOUTFS_FENCED_DELAY=60")
                process = self.start(path)
                assert process.stdout is not None
                self.assertIn("serving fence requests", process.stdout.readline())
                process.send_signal(number)
                self.assertEqual(process.wait(timeout=10), 0)

    def test_a_signal_lets_the_running_command_finish(self) -> None:
        command = self.script(f"echo begun >{self.record}; sleep 0.5; exit 0")
        directories = [self.request(), self.request(rid="00c0ffee00000002")]
        process = self.start(self.config(f"SCOUTFS_FENCED_RUN={command}"))
        self.wait_for(self.record, "begun\n")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=10), 0)
        self.assert_result(directories[0], fenced="1", error="0")
        self.assert_result(directories[1], fenced="0", error="0")

    def test_a_mistake_in_the_configuration_is_one_sentence(self) -> None:
        process = self.start("/nowhere")
        output, errors = process.communicate(timeout=10)
        self.assertEqual(process.returncode, 1)
        self.assertEqual(output, "")
        self.assertRegex(
            errors, r"\Ascoutfs-fenced: cannot read the configuration /nowhere: .*\n\Z"
        )

    def test_a_reader_of_the_log_that_goes_does_not_end_the_agent(self) -> None:
        command = self.script("exit 0")
        path = self.config(f"SCOUTFS_FENCED_RUN={command}\nSCOUTFS_FENCED_DELAY=0.05")
        process = self.start(path)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        for rid in (RID, "00c0ffee00000002"):
            self.wait_for(self.request(rid=rid) / "fenced", "1\n")
        self.assertIsNone(process.poll())


if __name__ == "__main__":
    unittest.main()
