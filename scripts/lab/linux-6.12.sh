# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Linux 6.12 from Debian 13's source, with Rust and no more than the guest needs:
#
#     make_linux FOLDER [VARIABLE=VALUE...]
#
# The variables are for make. The calling maker defines a function `options`, which prints the
# options that it sets besides the common ones.

source_package=linux-source-6.12

# The options of all these kernels, on top of `allnoconfig`. Options that these select are not listed.
common_options() {
	cat <<-END
		# Without it some options default to y even in allnoconfig.
		CONFIG_EXPERT=y
		CONFIG_PROCESSOR_SELECT=y

		# QEMU's machine, its initramfs and its serial consoles. No disk, no bus. ACPI brings up
		# the second processor and a timer that calibrates the others; without PCI it uses no
		# more of its tables than that, and logs so.
		CONFIG_64BIT=y
		CONFIG_SMP=y
		CONFIG_HYPERVISOR_GUEST=y
		CONFIG_PARAVIRT=y
		CONFIG_KVM_GUEST=y
		CONFIG_ACPI=y
		CONFIG_X86_PM_TIMER=y
		CONFIG_BLK_DEV_INITRD=y
		CONFIG_RD_GZIP=y
		CONFIG_TTY=y
		CONFIG_SERIAL_8250=y
		CONFIG_SERIAL_8250_CONSOLE=y
		CONFIG_PRINTK=y
		CONFIG_PRINTK_TIME=y
		CONFIG_HIGH_RES_TIMERS=y
		CONFIG_NO_HZ_IDLE=y
		CONFIG_HZ_250=y
		CONFIG_PREEMPT=y

		# System calls and filesystems that the guest's programs use.
		CONFIG_BINFMT_ELF=y
		CONFIG_BINFMT_SCRIPT=y
		CONFIG_MULTIUSER=y
		CONFIG_FUTEX=y
		CONFIG_FHANDLE=y
		CONFIG_EPOLL=y
		CONFIG_EVENTFD=y
		CONFIG_SIGNALFD=y
		CONFIG_TIMERFD=y
		CONFIG_POSIX_TIMERS=y
		CONFIG_INOTIFY_USER=y
		CONFIG_AIO=y
		CONFIG_SHMEM=y
		CONFIG_ADVISE_SYSCALLS=y
		CONFIG_MEMBARRIER=y
		CONFIG_FILE_LOCKING=y
		CONFIG_UNIX98_PTYS=y
		CONFIG_PROC_FS=y
		CONFIG_PROC_SYSCTL=y
		CONFIG_SYSFS=y
		CONFIG_DEVTMPFS=y
		CONFIG_TMPFS=y
		CONFIG_TMPFS_XATTR=y
		CONFIG_DEBUG_FS=y
		CONFIG_NET=y
		CONFIG_INET=y
		CONFIG_IPV6=y
		CONFIG_UNIX=y
		CONFIG_PACKET=y
		CONFIG_NAMESPACES=y
		CONFIG_USER_NS=y
		CONFIG_PID_NS=y
		CONFIG_NET_NS=y
		CONFIG_UTS_NS=y
		CONFIG_CGROUPS=y
		CONFIG_SECCOMP=y

		# Modules, in Rust, and the checks that cost little.
		CONFIG_MODULES=y
		CONFIG_MODULE_UNLOAD=y
		CONFIG_RUST=y
		CONFIG_KUNIT=y
		CONFIG_BUG=y
		CONFIG_DEBUG_BUGVERBOSE=y
		CONFIG_KALLSYMS=y
		CONFIG_DEBUG_KERNEL=y
		CONFIG_DEBUG_LIST=y
		CONFIG_DETECT_HUNG_TASK=y
		CONFIG_STACKTRACE=y
	END
}

# The expensive checks, except for KASAN and KCSAN.
checking_options() {
	cat <<-END
		CONFIG_DEBUG_KMEMLEAK=y
		CONFIG_UBSAN=y
		CONFIG_UBSAN_BOUNDS=y
		CONFIG_UBSAN_SHIFT=y
		CONFIG_UBSAN_BOOL=y
		CONFIG_UBSAN_ENUM=y
		CONFIG_RUST_DEBUG_ASSERTIONS=y
		CONFIG_RUST_OVERFLOW_CHECKS=y

		# Locks, and waiting. The host may not run an emulated processor for a while.
		CONFIG_PROVE_LOCKING=y
		CONFIG_DEBUG_ATOMIC_SLEEP=y
		CONFIG_DEFAULT_HUNG_TASK_TIMEOUT=60
		CONFIG_RCU_CPU_STALL_TIMEOUT=60

		# Lifetimes of objects.
		CONFIG_DEBUG_OBJECTS=y
		CONFIG_DEBUG_OBJECTS_FREE=y
		CONFIG_DEBUG_OBJECTS_TIMERS=y
		CONFIG_DEBUG_OBJECTS_WORK=y
		CONFIG_DEBUG_OBJECTS_RCU_HEAD=y
		CONFIG_DEBUG_KOBJECT_RELEASE=y

		# Allocations that fail.
		CONFIG_FAULT_INJECTION=y
		CONFIG_FAILSLAB=y
		CONFIG_FAULT_INJECTION_DEBUG_FS=y
		CONFIG_FAULT_INJECTION_STACKTRACE_FILTER=y

		# Each allocation and each lock records its stack, which frame pointers make cheap.
		CONFIG_UNWINDER_FRAME_POINTER=y
		CONFIG_INIT_STACK_NONE=y
	END
}

fetch_linux() {
	local folder=$1
	say "asking Debian for its Linux 6.12"
	apt update
	say "downloading $source_package"
	unpack_packages "$folder/packages" <<<"$source_package"
	say "unpacking $source_package"
	mkdir "$folder/source"
	tar -x -C "$folder/source" --strip-components=1 \
		-f "$folder/packages/usr/src/$source_package.tar.xz"
	rm -r "$folder/packages"
}

# Modules are built with the kernel's compiler.
keep_variables() {
	local file=$1
	shift
	printf 'export %s\n' "$@" >"$file"
	echo 'include Makefile' >>"$file"
}

# Kconfig drops options with unmet dependencies silently.
check_options() {
	local wanted=$1 missing
	missing=$(grep '^CONFIG_' "$wanted" | grep -vxFf "${wanted%/*}/.config" || true)
	[[ -z $missing ]] ||
		die "Linux drops these options: $(paste -sd' ' <<<"$missing"); mend $0."
}

make_linux() {
	local folder=$1
	shift
	local make=(make -C "$folder/source" O="$folder/build" -j"$(nproc)" "$@")

	mkdir "$folder"
	fetch_linux "$folder"

	say "configuring Linux"
	mkdir "$folder/build"
	{
		common_options
		options
	} >"$folder/build/options"
	"${make[@]}" KCONFIG_ALLCONFIG="$folder/build/options" allnoconfig
	check_options "$folder/build/options"

	say "compiling Linux"
	"${make[@]}" bzImage modules_prepare modules
	keep_variables "$folder/build/GNUmakefile" "$@"
	cp "$folder/build/arch/x86/boot/bzImage" "$folder/vmlinuz"
	cp "$folder/build/include/config/kernel.release" "$folder/release"
}
