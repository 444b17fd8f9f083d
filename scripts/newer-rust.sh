# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Part of rust-build-tree: the Rust of a newer Linux, built for a kernel that is older than the kernel
# crate which the module uses.
#
# A tree of two is put together: the makefiles and crates of the newer source, and the headers,
# generated headers and configuration of the older one. So bindgen sees the running kernel's
# structures, and the compiler gets the flags that its configuration wants. Only rust/ is built there.
# Modules are then built by the older kernel's makefiles, except for the one Rust file, see Kbuild.

# The first Linux whose kernel crate the module can use, and the oldest that this was tried with.
first_crate=6.12
first_tried=6.1

is_before() {
	[[ $1 != "$2" && $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]
}

# A kernel built with Rust has to be used with its own crate.
check_crate() {
	[[ $(option RUST) != y ]] || ! is_before "$1" "$first_crate" ||
		die "Linux $1 is too old: the Rust in it has not yet what this module uses, as Linux $first_crate has."
}

# The source of the kernel crate.
find_rust_source() {
	local version=$1 series
	if [[ -n ${RUST_SOURCE-} ]]; then
		[[ -e $RUST_SOURCE ]] || die "RUST_SOURCE names $RUST_SOURCE, which is not there."
		rust_source=$RUST_SOURCE
		return
	fi
	if ! is_before "$version" "$first_crate"; then
		rust_source=$source
		return
	fi
	is_before "$version" "$first_tried" &&
		die "Linux $version is too old: Rust was built for kernels since $first_tried; RUST_SOURCE=... tries it with the source that it names."
	for series in $(compgen -G '/usr/src/linux-source-*' | sed -nE 's/.*source-([0-9.]*[0-9]).*/\1/p' | sort -uV); do
		if ! is_before "$series" "$first_crate"; then
			rust_source=$(installed_source "$series")
			return
		fi
	done
	die "the Rust of Linux $version is too old for this module, which takes that of a newer source instead; install one with: apt-get install linux-source-$first_crate (or name a folder or tar archive with RUST_SOURCE=...)."
}

# Adapts the newer crates to the older kernel's C code. Functions that the module never calls are replaced
# by ones that fail.
adapt_newer_rust() {
	local rust=$1/rust
	cat >>"$rust/bindgen_parameters" <<-END
		--blocklist-function kvrealloc
		--raw-line 'pub const wq_misc_consts_WORK_CPU_UNBOUND: u32 = $(option NR_CPUS);'
	END
	sed -i '/blk_features_t/d' "$rust/bindings/bindings_helper.h" &&
		sed -i '/"kunit\.c"/d' "$rust/helpers/helpers.c" &&
		sed -i -E 's/return k?vrealloc\(.*/return NULL;/' "$rust"/helpers/{slab,vmalloc}.c
}

# A goal that the makefile does not have: rust/ and what that needs, and the flags for a module's file.
add_goal() {
	# shellcheck disable=SC2016 # Make expands these.
	sed -i '/^endif # need-sub-make/i \
rust_only: scripts\
	$(Q)$(MAKE) $(build)=rust\
	@printf '"'%s\\\\n'"' $(filter-out -Zfunction-sections=y,$(KBUILD_RUSTFLAGS)) >rust/rustflags' "$1/Makefile"
}

# Options of the newer source's Kconfig that the older one may lack: facts of the compiler, and the
# alignment of functions.
new_options() {
	mkdir "$2" &&
		cp "$making/build/.config" "$2/" &&
		build_in newer newer-build olddefconfig &&
		grep -E '^CONFIG_(RUSTC_.*|FUNCTION_ALIGNMENT)=' "$2/.config" >"$1" &&
		rm -r "$2"
}

# The newer makefiles read the older kernel's configuration. Some of its options have been renamed since,
# and are given by both names. Rust code for block devices would need headers that the older kernel does
# not have. objtool runs on the whole module instead.
configure_newer_rust() {
	local generated=$1/include new=$2
	{
		cat "$new"
		sed -nE 's/^CONFIG_(RETPOLINE|RETHUNK|SLS)=y/CONFIG_MITIGATION_\1=y/p' "$1/.config"
	} >>"$generated/config/auto.conf" &&
		sed -i '/^CONFIG_OBJTOOL=/d' "$generated/config/auto.conf" &&
		cat "$1/.config" "$new" |
		sed -nE 's/^(CONFIG_[A-Z0-9_]*)=([ym])$/--cfg=\1\n--cfg=\1="\2"/p' |
		grep -v '=CONFIG_BLOCK\b' >"$generated/generated/rustc_cfg" &&
		# Newer than their sources, so that make keeps them.
		touch "$generated"/{config/auto.conf,generated/autoconf.h,generated/rustc_cfg} &&
		: >"$generated/config/auto.conf.cmd"
}

build_with_newer_rust() {
	local newer=$making/newer output=$making/newer-build
	build prepare modules_prepare &&
		take_source "$rust_source" "$newer" &&
		adapt_newer_rust "$newer" &&
		add_goal "$newer" &&
		new_options "$making/new-options" "$output" &&
		rm -r "$newer/include" "$newer/arch/$architecture/include" &&
		ln -s "$making/source/include" "$newer/include" &&
		ln -s "$making/source/arch/$architecture/include" "$newer/arch/$architecture/include" &&
		cp -a "$making/build" "$output" &&
		rm -rf "$output"/{Makefile,source,rust} &&
		configure_newer_rust "$output" "$making/new-options" &&
		build_in newer newer-build "${with_rust[@]}" rust_only &&
		rm -rf "$making/build/rust" &&
		mv "$output/rust" "$making/build/rust" &&
		cp "$output/scripts/target.json" "$making/build/scripts/" &&
		cp "$output/include/generated/rustc_cfg" "$making/build/include/generated/" &&
		rm -r "$newer" "$output" "$making/new-options"
}
