# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Shared by all of the lab's scripts: paths, messages, and entering a root.

set -euo pipefail

lab=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
checkout=$(dirname "$(dirname "$lab")")
cache=$(realpath -m "${SCOUTFS_FENCE_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/scoutfs-fence}")

# Programs in the root find the same cache, whatever HOME is there.
export SCOUTFS_FENCE_CACHE=$cache

# Things are made here, and renamed into the cache when they are complete.
# shellcheck disable=SC2034 # Not every script makes something.
making=$cache/making

die() {
	echo "lab: $*" >&2
	exit 1
}

# Prints the packages that a file lists, separated by commas.
package_list() {
	sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$1" | paste -sd,
}

# Runs a command as root in its own namespaces: its mounts are not visible outside, and none of its
# processes outlives it or the calling shell. An ordinary user becomes that root through subordinate
# ids. This comes before setpriv: the kernel clears the parent-death signal when a process becomes root.
namespace() {
	local become_root=()

	if [[ $(id -u) != 0 ]]; then
		become_root=(unshare --user --map-auto --map-root-user)
	fi
	"${become_root[@]}" setpriv --pdeathsig KILL \
		unshare --mount --pid --fork --kill-child --propagation private -- "$@"
}

# Runs a command in a root that sees the given folder instead of the cache.
enter() {
	local root=$1 folder=$2
	shift 2

	namespace "$lab/inside" "$root" "$checkout" "$folder" "$cache" "$@"
}
