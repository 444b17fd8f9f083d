# SPDX-License-Identifier: GPL-2.0-only
"""Cases for scripts/rust-build-tree and scripts/module, on made-up headers and sources.

A fake makefile stands in for the kernel's own build, so most of these cases take no time.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from host_cases import TOP, CaseFailed, case

SCRIPT = TOP / "scripts/rust-build-tree"
RELEASE = "6.12.5-made-up"

# The kernel's own build, as far as the script can see.
MAKEFILE = """VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = {sublevel}

olddefconfig prepare modules_prepare:
\t@mkdir -p $(O)/rust $(O)/tools $(O)/include/config $(O)/include/generated
\t{recipe}
"""


class Kernel:
    """A kernel's headers and matching source, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.headers = folder / "headers"
        self.source = folder / "source"
        self.trees = folder / "trees"
        release = self.headers / "include/generated/utsrelease.h"
        release.parent.mkdir(parents=True)
        release.write_text(f'#define UTS_RELEASE "{RELEASE}"\n')
        self.is_version(6, 12)
        (self.headers / "Module.symvers").touch()
        self.configure("MODULES=y")
        for name in ("arch/x86", "include", "rust", "scripts", "tools/lib", "drivers/net"):
            (self.source / name).mkdir(parents=True)
        self.make_does("@true")

    def is_version(self, version: int, patchlevel: int) -> None:
        """Makes these the headers of another kernel version."""
        lines = f"VERSION = {version}\nPATCHLEVEL = {patchlevel}\nSUBLEVEL = 5\n"
        (self.headers / "Makefile").write_text(lines)

    def configure(self, *options: str) -> None:
        """Sets the kernel's options in addition to its compiler."""
        compiler = 'CC_VERSION_TEXT="gcc (made up) 14.2.0"'
        lines = [f"CONFIG_{option}\n" for option in (compiler, *options)]
        (self.headers / ".config").write_text("".join(lines))

    def make_does(self, recipe: str, sublevel: int = 5) -> None:
        """Makes the kernel's build run this recipe."""
        text = MAKEFILE.format(recipe=recipe, sublevel=sublevel)
        (self.source / "Makefile").write_text(text)

    def environment(self, **more: str) -> dict[str, str]:
        """The script's environment; an empty value unsets a variable."""
        plain = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
        given = {"KDIR": str(self.headers), "LINUX_SOURCE": str(self.source)}
        given |= {"RUST_TREES": str(self.trees), **more}
        return {name: value for name, value in (plain | given).items() if value}

    def run(self, **more: str) -> "subprocess.CompletedProcess[str]":
        """Runs the script to completion."""
        return subprocess.run(
            [SCRIPT], capture_output=True, text=True, check=False, env=self.environment(**more)
        )

    def made(self, **more: str) -> Path:
        """Runs the script, which must succeed; returns the folder that it prints."""
        result = self.run(**more)
        if result.returncode:
            raise CaseFailed(f"no tree was made: {result.stderr}")
        return Path(result.stdout.strip())

    def refused(self, *words: str, **more: str) -> None:
        """Checks that the script fails with these words in its last line and leaves nothing."""
        result = self.run(**more)
        sentence = (result.stderr.strip().splitlines() or [""])[-1]
        if result.returncode == 0 or result.stdout:
            raise CaseFailed(f"it printed {result.stdout!r} with status {result.returncode}")
        if lacking := [word for word in words if word not in sentence]:
            raise CaseFailed(f"nothing of {lacking} in: {result.stderr}")
        self.check_nothing_is_left()

    def check_nothing_is_left(self) -> None:
        """Checks that there is no tree, complete or partial."""
        left = [path for path in self.trees.glob("*") if path.is_dir()]
        if left:
            raise CaseFailed(f"still there: {left}")


@contextmanager
def kernel() -> Iterator[Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        yield Kernel(Path(folder))


def path_without(folder: Path, *commands: str) -> str:
    """A PATH without these commands."""
    for directory in reversed(os.environ["PATH"].split(":")):
        for command in Path(directory).glob("*") if directory else []:
            (folder / command.name).unlink(missing_ok=True)
            (folder / command.name).symlink_to(command)
    for name in commands:
        (folder / name).unlink()
    return str(folder)


@case
def a_build_tree_needs_the_kernels_headers(kdir: Path) -> None:
    """If the headers or their symbols are missing, a message names the package."""
    with kernel() as it:
        it.refused("no headers", "apt-get install linux-headers-", KDIR="/nonexistent")
        (it.headers / "Module.symvers").unlink()
        it.refused("Module.symvers", RELEASE)


@case
def a_build_tree_needs_packages_and_names_them(kdir: Path) -> None:
    """A single message names the packages of all missing compilers and tools."""
    with kernel() as it, tempfile.TemporaryDirectory() as folder:
        path = path_without(Path(folder), "rustc", "bindgen")
        it.refused("apt-get install bindgen rustc", PATH=path)
        # The installed package's version says nothing about rustc's library.
        (Path(folder) / "rustc").write_text(f"#!/bin/sh\necho {folder}\n")
        (Path(folder) / "rustc").chmod(0o755)
        shutil.copy(shutil.which("true") or "", Path(folder) / "bindgen")
        for name in ("bc", "flex"):
            (Path(folder) / name).unlink()
        it.refused("apt-get install bc flex rust-src", PATH=path)


@case
def a_build_tree_needs_the_kernels_own_source(kdir: Path) -> None:
    """If the source is missing or of another version, a message says which one is needed."""
    with kernel() as it:
        it.refused("/no/such", "LINUX_SOURCE", LINUX_SOURCE="/no/such")
        it.make_does("@true", sublevel=4)
        it.refused("6.12.4", "6.12.5")
        (it.headers / "Makefile").write_text("VERSION = 6\nPATCHLEVEL = 99\nSUBLEVEL = 1\n")
        it.refused("6.99.1", "apt-get install linux-source-6.99", "LINUX_SOURCE", LINUX_SOURCE="")


@case
def an_older_kernel_needs_the_rust_of_a_newer_source(kdir: Path) -> None:
    """If the kernel's Rust crate is too old, a message names a package or says how to try it."""
    with kernel() as it:
        it.is_version(5, 10)
        it.refused("5.10.5", "too old", "RUST_SOURCE")
        it.refused("/no/such", "RUST_SOURCE", RUST_SOURCE="/no/such")
        it.configure("MODULES=y", "RUST=y")
        it.is_version(6, 10)
        it.refused("6.10.5", "too old")
        it.configure("MODULES=y")
        it.is_version(6, 1)
        if not list(Path("/usr/src").glob("linux-source-*")):
            it.refused("6.1.5", "apt-get install linux-source-6.12", "RUST_SOURCE")


@case
def a_kernel_that_cannot_take_the_module_is_refused(kdir: Path) -> None:
    """A message reports a lack of modules, randomized structures, or Rust from another compiler."""
    with kernel() as it:
        it.configure()
        it.refused("CONFIG_MODULES")
        for option in ("RANDSTRUCT", "GCC_PLUGIN_RANDSTRUCT"):
            it.configure("MODULES=y", f"{option}=y")
            it.refused("RANDSTRUCT")
        it.configure("MODULES=y", "RUST=y", 'RUSTC_VERSION_TEXT="rustc 1.60.0 (made up)"')
        it.refused("rustc 1.60.0 (made up)", "install that compiler")


@case
def headers_with_the_metadata_of_rust_are_the_tree(kdir: Path) -> None:
    """Headers with Rust metadata are used as they are; no source is needed."""
    with kernel() as it:
        (it.headers / "rust").mkdir()
        (it.headers / "rust/libkernel.rmeta").touch()
        if it.made(LINUX_SOURCE="/no/such") != it.headers:
            raise CaseFailed("the tree is another folder")
        it.check_nothing_is_left()


@case
def a_build_tree_is_made_once(kdir: Path) -> None:
    """A tree is kept until one of its inputs changes; a source may be an archive."""
    with kernel() as it:
        tree = it.made()
        (tree / "kept").touch()
        if it.made() != tree or not (tree / "kept").exists():
            raise CaseFailed("the tree was made again")
        if (tree.parent / "source/drivers").exists():
            raise CaseFailed("what no module needs is still there")
        it.configure("MODULES=y", "SMP=y")
        other = it.made()
        if other == tree:
            raise CaseFailed("other options have the same tree")
        archive = it.folder / "linux.tar.xz"
        subprocess.run(["tar", "-cJf", archive, "-C", it.folder, "source"], check=True)
        if it.made(LINUX_SOURCE=str(archive)) in (tree, other):
            raise CaseFailed("another source has the same tree")
        cache = it.folder / "cache"
        kept = it.made(RUST_TREES="", XDG_CACHE_HOME=str(cache))
        if cache / "scoutfs-fence/trees" not in kept.parents:
            raise CaseFailed(f"the tree is kept in {kept}")


@case
def a_build_tree_that_fails_leaves_nothing(kdir: Path) -> None:
    """A failed build is reported with its output; an interrupted one leaves nothing behind."""
    with kernel() as it:
        for failing in ("olddefconfig", "modules_prepare"):
            it.make_does(f"@if test $@ = {failing}; then echo $@ went wrong; exit 1; fi")
            it.refused("could not be made", f"{it.trees}/{RELEASE}.log")
            if f"{failing} went wrong" not in (it.trees / f"{RELEASE}.log").read_text():
                raise CaseFailed("the log lacks what went wrong")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            it.make_does("@touch $(O)/begun && sleep 60")
            with subprocess.Popen(
                [SCRIPT],
                env=it.environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                # A shell cannot trap a signal that it inherits as ignored, for example from nohup.
                preexec_fn=partial(signal.signal, number, signal.SIG_DFL),
            ) as process:
                end = time.monotonic() + 30
                while not list(it.trees.glob("making-*/build/begun")):
                    if time.monotonic() > end:
                        raise CaseFailed("the build has not begun")
                    time.sleep(0.05)
                os.killpg(process.pid, number)
                if process.wait(30) == 0:
                    raise CaseFailed(f"signal {number} did not end it")
            it.check_nothing_is_left()


@case
def installing_the_module_leaves_what_filesystems_build_with(kdir: Path) -> None:
    """Installs module, symbols and header from and to paths with blanks, whatever the umask."""
    with tempfile.TemporaryDirectory() as folder:
        copy, root = Path(folder, "a clone"), Path(folder, "a root")
        for name in ("Kbuild", "Makefile", "VERSION", "include", "src", "scripts"):
            target = copy / name
            target.parent.mkdir(exist_ok=True)
            if (TOP / name).is_dir():
                shutil.copytree(TOP / name, target, symlinks=True)
            else:
                shutil.copy(TOP / name, target)
        made = subprocess.run(
            ["sh", "-c", 'umask 077 && exec make KERNEL= KDIR="$1" install-module', "sh", kdir],
            cwd=copy,
            env={**os.environ, "MAKEFLAGS": "", "DESTDIR": str(root), "PREFIX": "/usr"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if made.returncode:
            raise CaseFailed(made.stdout[-2000:])
        release = (kdir / "include/config/kernel.release").read_text().strip()
        modules = root / "lib/modules" / release
        wanted = [modules / "scoutfs-fence/Module.symvers"]
        wanted += [root / "usr/include/scoutfs-fence/fence.h", *modules.glob("*/scoutfs_fence.ko*")]
        if len(wanted) != 3 or not all(path.exists() for path in wanted):
            raise CaseFailed(f"installed are {sorted(str(path) for path in root.rglob('*'))}")
        for path in wanted[:2]:
            if path.stat().st_mode & 0o777 != 0o644:
                raise CaseFailed(f"{path} has the mode {path.stat().st_mode:o}")
        if "scoutfs_fence_start" not in wanted[0].read_text():
            raise CaseFailed("the symbols are not those of the module")
