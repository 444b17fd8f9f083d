# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# mmdebstrap, with all archives of a release, and without documentation and translations:
#
#     [suite=SUITE] debian FOLDER PACKAGES OPTION...
#
# SUITE is Debian 13's by default. And the archives of any release:
#
#     archives_of SUITE

archives_of() {
	echo "deb http://deb.debian.org/debian $1 main"
	[[ $1 == testing ]] || cat <<-END
		deb http://deb.debian.org/debian $1-backports main
		deb http://deb.debian.org/debian-security $1-security main
	END
}

debian() {
	local folder=$1 packages=$2 suite=${suite:-trixie} archives
	shift 2
	mapfile -t archives < <(archives_of "$suite")
	# A mirror of testing may be some days behind, when what it has counts as expired.
	[[ $suite != testing ]] || set -- --aptopt='Acquire::Check-Valid-Until "false"' "$@"

	mmdebstrap --mode=root --format=directory --include="$packages" \
		--aptopt='Acquire::Languages "none"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/info/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		"$@" "$suite" "$folder" "${archives[@]}"
}
