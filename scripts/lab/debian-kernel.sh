# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# One of Debian's kernels, unmodified, and a tree to build modules against:
#
#     make_debian_kernel FOLDER SUITE FLAVOUR [RUST_PACKAGE]
#
# An empty SUITE takes the newest of Debian 13 and its security updates. RUST_PACKAGE is a package of
# Debian 13 with the source that Rust comes from.
#
# Debian ships no Rust metadata in its headers, and its default kernel has no Rust at all:
# scripts/rust-build-tree makes what is missing.

# Makes apt use the archives of another release than the root's, and ignore the root's packages.
use_archives_of() {
	local suite=$1 folder=$2
	mkdir -p "$folder/lists/partial"
	: >"$folder/status"
	archives_of "$suite" >"$folder/sources.list"
	cat >"$folder/apt.conf" <<-END
		Dir::Etc::sourcelist "$folder/sources.list";
		Dir::Etc::sourceparts "-";
		Dir::State::lists "$folder/lists";
		Dir::State::status "$folder/status";
		Dir::Cache::pkgcache "";
		Dir::Cache::srcpkgcache "";
	END
	export APT_CONFIG=$folder/apt.conf
	apt update
}

# Modules of the kernel that guests need: a disk and a network, and what tests/vm/scsi.py makes of iSCSI.
# Some kernels have part of it built in.
guest_modules=(
	virtio_blk virtio_net net_failover failover
	configfs target_core_mod target_core_file iscsi_target_mod
	scsi_common scsi_mod sd_mod scsi_transport_iscsi libiscsi libiscsi_tcp iscsi_tcp
	crc32c_generic crct10dif_common crc-t10dif crc64 crc64-rocksoft t10-pi
)

# The packages that hold image, headers and source, as lines `NAME VERSION`. The source is the image's:
# what Debian signs reaches the archive days after the rest, which keeps older sources for that.
choose_packages() {
	local suite=$1 flavour=$2 packages version
	packages=$(linux_packages "$suite" "linux-image-$flavour" "linux-headers-$flavour" linux-source |
		grep -E "^linux-((image|binary|modules|headers)-[0-9].*-$flavour|headers-[0-9].*-common|kbuild-.*|source-[0-9.]*) ") ||
		return
	version=$(sed -nE "s/^linux-image-[^ ]* //p" <<<"$packages")
	sed "/^linux-source-/ s/ .*/ $version/" <<<"$packages"
}

# Point releases reach the archive piece by piece.
check_offered() {
	local name version
	while read -r name version; do
		[[ -n $(apt-cache show "$name=$version" 2>/dev/null) ]] ||
			die "Debian does not offer $name in the version $version at the moment; try again in a few hours."
	done <<<"$1"
}

release_of() {
	local release
	release=$(sed -nE "s/^linux-headers-([0-9][^ ]*-$1) .*/\1/p" <<<"$2")
	[[ $release != *[[:space:]]* ]] || die "Debian offers several kernels at once: $release"
	echo "$release"
}

# Where the image is depends on how Debian cut the packages.
take_image() {
	local folder=$1 packages=$2 release=$3 image
	for image in "$packages/usr/lib/modules/$release/vmlinuz" "$packages/boot/vmlinuz-$release"; do
		if [[ -e $image ]]; then
			cp "$image" "$folder/vmlinuz"
			return
		fi
	done
	die "Debian's packages of the kernel $release hold its image in a place that $lab/debian-kernel.sh does not know."
}

# Guests have insmod only, which takes no compressed module.
take_modules() {
	local folder=$1 packages=$2 release=$3 name
	mkdir "$folder/modules"
	for name in "${guest_modules[@]}"; do
		find "$packages" -path "*/modules/$release/*" -name "$name.ko*" \
			-exec cp -t "$folder/modules" {} +
	done
	find "$folder/modules" -name "*.xz" -exec xz -d {} +
}

make_debian_kernel() {
	local folder=$1 suite=$2 flavour=$3 rust_package=${4-}
	local packages=$1/packages chosen release tree

	mkdir "$folder"
	say "asking Debian for its kernel"
	apt update
	if [[ -n $rust_package ]]; then
		linux_packages '' "$rust_package" | unpack_packages "$folder/rust"
		export RUST_SOURCE=$folder/rust/usr/src/$rust_package.tar.xz
	fi
	if [[ $suite != '' && $suite != trixie* ]]; then
		use_archives_of "$suite" "$folder/archives"
		suite=
	fi
	chosen=$(choose_packages "$suite" "$flavour") ||
		die "Debian offers no whole kernel at the moment; try again in a few hours."
	check_offered "$chosen"
	release=$(release_of "$flavour" "$chosen")
	say "fetching Linux $release"
	unpack_packages "$packages" <<<"$chosen"
	take_image "$folder" "$packages" "$release"
	take_modules "$folder" "$packages" "$release"
	say "making the build tree of Linux $release"
	tree=$(KDIR=$packages/usr/src/linux-headers-$release \
		LINUX_SOURCE=$(compgen -G "$packages/usr/src/linux-source-*.tar.xz") \
		RUST_TREES=$folder "$lab/../rust-build-tree" "$release") ||
		die "$(tail -n 1 "$folder/$release.log")"
	ln -s "$(basename "$(dirname "$tree")")"/{build,source} "$folder/"
	echo "$release" >"$folder/release"
	rm -rf "$packages" "$folder"/{rust,archives}
}
