# Shared by the guest tools: where prepared kernels live, and when one is ready to boot.
# The cache is outside the source tree: a kernel outlives a checkout, and no clean step may delete it.
# shellcheck shell=bash

GUEST_DIR=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
CACHE=${QBLK_CACHE:-${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/qblk}

# mke2fs is there, outside an ordinary user's PATH
PATH=$PATH:/usr/sbin:/sbin

say() { echo "${0##*/}: $*" >&2; }

# The folder of a prepared kernel. UML's is named after its configuration, so that a changed uml.config
# asks for a new build and two checkouts with different ones do not overwrite each other.
kernel_dir() {
	case $1 in
	uml) echo "$CACHE/uml-$(sha256sum <"$GUEST_DIR/uml.config" | cut -c1-12)" ;;
	tcg) echo "$CACHE/tcg" ;;
	esac
}

# Prints the commands among the arguments that this machine lacks.
lacking() {
	local tool
	for tool; do
		command -v "$tool" >/dev/null || printf '%s ' "$tool"
	done
}

# 'ready' is made last, when the kernel has booted once on this machine.
is_ready() { [ -e "$(kernel_dir "$1")/ready" ]; }

# Prints in one line why KERNEL cannot be booted now; prints nothing when it can.
why_not_ready() {
	local kernel=$1 tools
	tools=$(lacking busybox mke2fs setpriv timeout)
	[ "$kernel" = uml ] || tools+=$(lacking qemu-system-x86_64)
	if [ -n "$tools" ]; then
		echo "commands missing: $tools(run tools/deps --test)"
	elif [ "$kernel" = tcg ] && [ "$(id -u)" != 0 ]; then
		echo "the tcg guest needs root (its file server does)"
	elif ! is_ready "$kernel" && [ "${QBLK_GUEST_PROVING:-}" != "$kernel" ]; then
		echo "no $kernel kernel in $CACHE (run tools/guest/prepare $kernel)"
	fi
}
