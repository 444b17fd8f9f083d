# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Bash completion for scoutfs-fenced.

# Prints the rids of all requests, or the mounts that they come from.
_scoutfs_fenced_requests() {
	local path
	for path in /sys/fs/scoutfs{,_fence}/*/fence/*/; do
		[[ -d $path ]] || continue
		case $1 in
		rids) basename "$path" ;;
		mounts) basename "${path%/fence/*}" ;;
		esac
	done
}

_scoutfs_fenced() {
	local word=$2 before=$3 command='' words i
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--sysfs) ((i++)) ;;
		-*) ;;
		*)
			command=${COMP_WORDS[i]}
			break
			;;
		esac
	done

	COMPREPLY=()
	case $command:$before in
	:--sysfs)
		mapfile -t COMPREPLY < <(compgen -d -- "$word")
		return
		;;
	ack:--mount) words=$(_scoutfs_fenced_requests mounts) ;;
	:*) words='status check ack fence history --sysfs --version --help' ;;
	*:--host | ack:--for) return ;;
	status:* | history:*) words='--json --help' ;;
	check:*) words='--host --help' ;;
	fence:*) words='--help' ;;
	ack:*) words="--mount --host --for --withdraw --help $(_scoutfs_fenced_requests rids)" ;;
	*) return ;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}

complete -F _scoutfs_fenced scoutfs-fenced
