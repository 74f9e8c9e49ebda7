# How each kind of kernel is started, for 'run', which sets the variables used here. Both see the host's root
# folder as their own, read-only, and start 'init' from it; neither needs an initramfs.
#
# Each boot_* runs in a process of its own and becomes the guest: the command's stdout and stderr are fds 3 and 4,
# the kernel log is $work/log, what the guest program itself says is $work/vmm. A guest never outlives 'run', even
# if that is killed: every process on the way asks to die with its parent.
# shellcheck shell=bash disable=SC2154,SC2054

mortal=(setpriv --pdeathsig KILL)

# Processes of the guest run under seccomp, which several CPUs need, or under ptrace, where this machine refuses
# seccomp: prepare finds out which (the file 'mode'). QBLK_UML_SECCOMP=on or off insists on one.
uml_mode() {
	case ${QBLK_UML_SECCOMP:-} in
	on) echo "seccomp=on ncpus=$cpus" ;;
	off) echo seccomp=off ;;
	*) sed "s/ncpus=N/ncpus=$cpus/" "$(kernel_dir uml)/mode" ;;
	esac
}

# RCU is told to hurry: a switch of a device-mapper table waits for it, 29 or 69 ms at this kernel's 100 ticks a second.
boot_uml() {
	local n args=(mem="${mem}M" root=/dev/root rootfstype=hostfs rootflags=/ ro init="$work/init" QBLK_CTL="$work/ctl"
		con=null 'con0=null,fd:2' 'con1=null,fd:3' 'con2=null,fd:4' console=tty0 stderr=1 quiet loglevel=5
		panic=-1 rcupdate.rcu_expedited=1 uml_dir="$work/uml/" umid=guest nbd.nbds_max=4)
	for n in "${!all_disks[@]}"; do args+=("ubd$n=${all_disks[n]}"); done
	# shellcheck disable=SC2086,SC2046 # $append and the mode are several kernel parameters
	exec "${mortal[@]}" timeout -k 5 "$limit" "${mortal[@]}" \
		"$(kernel_dir uml)/linux" "${args[@]}" $(uml_mode) $append </dev/null >"$work/vmm" 2>"$work/log"
}

# serve TAG FOLDER CACHE: one file server per folder, as virtiofs has it
serve() {
	"${mortal[@]}" "$(kernel_dir tcg)/virtiofsd" --socket-path="$work/$1.sock" -o "source=$2" -o "cache=$3" \
		-o sandbox=chroot -o no_posix_lock -o xattr --thread-pool-size=0 </dev/null >>"$work/vmm" 2>&1 3>&- 4>&- &
	args+=(-chardev "socket,id=$1,path=$work/$1.sock" -device "vhost-user-fs-pci,chardev=$1,tag=$1")
	local tries=100
	until [ -S "$work/$1.sock" ]; do
		[ $((tries -= 1)) -gt 0 ] || die "the file server for $2 does not start: $(tail -n 1 "$work/vmm")"
		sleep 0.05
	done
}

# The disks that somebody else serves, and the ways into the machine from outside
vhost_user_args() {
	local n socket options queues
	for n in "${!vhost_user[@]}"; do
		IFS=, read -r socket options <<<"${vhost_user[n]}"
		queues=$(sed -nE 's/.*queues=([0-9]+).*/\1/p' <<<"$options")
		args+=(-chardev "socket,id=vhost$n,path=$socket,reconnect-ms=100"
			-device "vhost-user-blk-pci,id=vhost-disk$n,chardev=vhost$n,num-queues=${queues:-1}$(
				[[ $options != *packed=on* ]] || echo ,packed=on
			)")
	done
}

outside_args() {
	local n
	[ -z "$qmp" ] || args+=(-qmp "unix:$qmp,server=on,wait=off")
	[ -z "$shell" ] || args+=(-chardev "socket,id=shell,path=$shell,server=on,wait=off"
		-device virtserialport,chardev=shell,name=shell)
	for ((n = 0; n < ports; n++)); do
		args+=(-device "pcie-root-port,id=port$n,chassis=$((n + 1)),slot=$((n + 1))")
	done
}

boot_tcg() {
	local n machine=pc
	[ "$ports" = 0 ] || machine=q35,sata=off,smbus=off
	local args=(-M "$machine,hpet=off,usb=off,vmport=off,memory-backend=memory" -accel tcg,thread=multi -cpu max,la57=off
		-object "memory-backend-memfd,id=memory,size=${mem}M,share=on" -smp "$cpus" -m "$mem"
		-nodefaults -no-user-config -display none -no-reboot -serial "file:$work/log"
		-kernel "$(kernel_dir tcg)/vmlinuz" -device virtio-serial-pci
		-chardev file,id=out,path=/dev/fd/3 -device virtserialport,chardev=out,name=out
		-chardev file,id=err,path=/dev/fd/4 -device virtserialport,chardev=err,name=err)
	serve hostroot / always
	serve ctl "$work/ctl" none
	for n in "${!shares[@]}"; do serve "share$n" "${shares[n]}" auto; done
	for n in "${!all_disks[@]}"; do
		args+=(-drive "file=${all_disks[n]},if=none,id=disk$n,format=raw,cache=unsafe,discard=unmap"
			-device "virtio-blk-pci,drive=disk$n,num-queues=$cpus")
	done
	vhost_user_args
	outside_args
	exec "${mortal[@]}" timeout -k 5 "$limit" "${mortal[@]}" qemu-system-x86_64 "${args[@]}" -append \
		"rootfstype=virtiofs root=hostroot ro init=$work/init QBLK_CTL=$work/ctl console=ttyS0 panic=-1 loglevel=5 \
mitigations=off nokaslr tsc=nowatchdog clocksource=tsc nmi_watchdog=0 no_timer_check lpj=4000000 \
cryptomgr.notests random.trust_cpu=on rcupdate.rcu_expedited=1 $append" </dev/null >>"$work/vmm" 2>&1
}
