# SPDX-License-Identifier: GPL-2.0-only
"""Cases that need their own build and mostly a guest: a panic, a module that is refused."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import variants
from host_cases import TOP, CaseFailed, case, case_with

LAB = TOP / "scripts/lab"
SECONDS = "240"


def kernel_of(kdir: Path) -> str:
    """The lab's name for the kernel of this build tree."""
    found = re.fullmatch(r"kernel-(\w+)-\w+", kdir.parent.name)
    assert found
    return found[1]


def build_changed(kdir: Path, folder: Path, *changes: tuple[str, str, str]) -> Path:
    """Builds the module with changes: each a file, a text that occurs once, and its replacement."""
    variants.copy_sources(folder)
    for name, old, new in changes:
        path = folder / name
        text = path.read_text()
        if text.count(old) != 1:
            raise CaseFailed(f"{name} has not once: {old!r}")
        path.write_text(text.replace(old, new))
    built, output = variants.build(kdir, folder)
    if not built:
        raise CaseFailed(f"the changed module does not build: {output[-2000:]}")
    return folder / variants.MODULE


def log_of_loading(kdir: Path, *modules: Path) -> str:
    """Tries to load these modules in order in a guest; returns the kernel's log."""
    additions = [f"--add={module}:/tests/{module.name}" for module in modules]
    script = "; ".join(f"insmod /tests/{module.name}" for module in modules)
    with tempfile.NamedTemporaryFile() as console:
        options = ["--kernel", kernel_of(kdir), "--timeout", SECONDS, "--log", console.name]
        command = [*options, *additions, "--", "sh", "-c", f"{script}; dmesg"]
        guest = subprocess.run([LAB / "vm", *command], stdout=subprocess.PIPE, text=True)
    if guest.returncode:
        raise CaseFailed(f"the guest ended with exit status {guest.returncode}")
    return guest.stdout


@case
def a_panic_says_where_and_why(kdir: Path) -> None:
    """A panic in Rust code logs its message and location, even on a kernel without Rust."""
    init = "mounts::init()?;"
    with tempfile.TemporaryDirectory() as folder:
        planted = "src/scoutfs_fence.rs", init, f'{init} panic!("planted, number {{}}", 6 * 7);'
        module = build_changed(kdir, Path(folder), planted)
        log = log_of_loading(kdir, module)
    if not re.search(r"panicked at .*src/scoutfs_fence\.rs:\d+:\d+:", log):
        raise CaseFailed(f"nothing about the place in: {log[-2000:]}")
    if "planted, number 42" not in log:
        raise CaseFailed(f"nothing about the message in: {log[-2000:]}")


@case_with("CONFIG_MODVERSIONS")
def a_filesystem_built_against_another_header_is_refused(kdir: Path) -> None:
    """The kernel refuses a filesystem that was built against another fence.h."""
    with tempfile.TemporaryDirectory() as folder:
        other, filesystem = Path(folder, "other"), Path(folder, "tests/fs")
        other.mkdir()
        build_changed(
            kdir,
            other,
            (
                "include/fence.h",
                "const struct sockaddr_storage *addr",
                "struct sockaddr_storage *addr",
            ),
            ("src/exports.rs", "addr: *const __kernel_sockaddr", "addr: *mut __kernel_sockaddr"),
        )
        shutil.copytree(other / "include", Path(folder, "include"))
        ignored = shutil.ignore_patterns("*.o", ".*.cmd", "*.ko", "*.mod*")
        shutil.copytree(TOP / "tests/fs", filesystem, ignore=ignored)
        symbols = f"KBUILD_EXTRA_SYMBOLS={other / 'Module.symvers'}"
        built, output = variants.build(kdir, filesystem, symbols)
        if not built:
            raise CaseFailed(f"the filesystem does not build: {output[-2000:]}")
        log = log_of_loading(kdir, TOP / variants.MODULE, filesystem / "fence_test_fs.ko")
    if "disagrees about version of symbol scoutfs_fence_start_addr" not in log:
        raise CaseFailed(f"nothing about the symbol in: {log[-2000:]}")


def size_of(*files: Path) -> int:
    """The total size of these files' code and data in bytes."""
    output = subprocess.run(["size", *files], stdout=subprocess.PIPE, text=True, check=True).stdout
    return sum(int(line.split()[0]) + int(line.split()[1]) for line in output.splitlines()[1:])


@case
def the_rust_inside_is_what_the_module_calls(kdir: Path) -> None:
    """With Rust inside, code and data are at most 1.5 times the size of the module's objects."""
    inside = TOP / "src/rust_inside.o"
    if not inside.exists():
        return
    own = size_of(TOP / "src/scoutfs_fence.o", TOP / "src/glue.o")
    both = own + size_of(inside)
    if both > 1.5 * own:
        raise CaseFailed(f"{both} bytes, of which the module's own objects have {own}")
