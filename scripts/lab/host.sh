# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Checks that this host can run a set-up. As root it installs missing packages, else it names them.

# Gigabytes that a set-up needs at most, much of it only while it runs.
declare -A gigabytes=([toolchain]=4 [guest]=1 [packaging]=2 [system]=3 [kernel]=3)

# Prints the Debian packages that are missing here.
missing_packages() {
	command -v mmdebstrap >/dev/null || echo mmdebstrap
	command -v unshare >/dev/null || echo util-linux
	command -v git >/dev/null || echo git
	compgen -G '/usr/share/keyrings/debian-archive-keyring.*' >/dev/null || echo debian-archive-keyring
	if [[ $(id -u) != 0 ]]; then
		command -v newuidmap >/dev/null || echo uidmap
	fi
}

install_packages() {
	apt-get install --yes --no-install-recommends "$@" || {
		apt-get update
		apt-get install --yes --no-install-recommends "$@"
	}
}

check_packages() {
	local missing
	mapfile -t missing < <(missing_packages)
	[[ ${#missing[@]} != 0 ]] || return 0

	command -v apt-get >/dev/null ||
		die "this host lacks ${missing[*]}, and has no apt-get to install them with; use a Debian 12 or 13 host."
	[[ $(id -u) == 0 ]] ||
		die "this host lacks packages; install them with: sudo apt-get install --no-install-recommends ${missing[*]}"
	echo "lab: installing ${missing[*]}"
	DEBIAN_FRONTEND=noninteractive install_packages "${missing[@]}" >"$cache/logs/host" 2>&1 || {
		tail -n 10 "$cache/logs/host" >&2
		die "apt-get could not install ${missing[*]} (its output is in $cache/logs/host); install them and try again."
	}
}

check_machine() {
	[[ $(uname -m) == x86_64 ]] ||
		die "the lab runs on x86_64 hosts only, and this one is $(uname -m)."
}

# Checks that a file gives the user 65536 subordinate ids.
has_ids() {
	awk -F: -v name="$(id -un)" -v number="$(id -u)" \
		'($1 == name || $1 == number) && $3 >= 65536 { found = 1 } END { exit !found }' "$1" 2>/dev/null
}

# Prints a range of ids after all that are assigned.
free_ids() {
	awk -F: 'BEGIN { free = 100000 } $2 + $3 > free { free = $2 + $3 } END { print free "-" free + 65535 }' \
		/etc/subuid /etc/subgid 2>/dev/null || echo 100000-165535
}

check_ids() {
	local reason

	[[ $(id -u) != 0 ]] || return 0
	if ! has_ids /etc/subuid || ! has_ids /etc/subgid; then
		die "$(id -un) has no subordinate ids; add some with: sudo usermod --add-subuids $(free_ids) --add-subgids $(free_ids) $(id -un)"
	fi
	reason=$(namespace true 2>&1) ||
		die "this host does not let $(id -un) make user namespaces ($reason); allow them with: sudo sysctl kernel.unprivileged_userns_clone=1"
}

check_space() {
	local free thing needed=0
	for thing in "$@"; do
		needed=$((needed + ${gigabytes[$thing]:-${gigabytes[kernel]}}))
	done
	free=$(df --output=avail -B1G "$cache" | tail -n 1)
	((free >= needed)) ||
		die "$cache has $((free)) GB free where this set-up needs $needed GB; make room, or name another folder with SCOUTFS_FENCE_CACHE."
}

# The arguments are the things that will be made.
check_host() {
	check_machine
	check_packages
	check_ids
	check_space "$@"
}
