# What every comparison needs: interleaved rounds, medians, CPU time of a server, clean-up. Sourced by the scripts
# beside it; never run alone.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C

rounds=${ROUNDS:-5}
seconds=${SECONDS_PER_RUN:-2}
work=$(mktemp -d "${TMPDIR:-/tmp}/qblk-bench.XXXXXX")
memory=$(mktemp -d /dev/shm/qblk-bench.XXXXXX)
cleanups=()

at_exit() { cleanups=("$*" "${cleanups[@]:+${cleanups[@]}}"); }
finish() {
  local c
  for c in "${cleanups[@]:+${cleanups[@]}}"; do eval "$c" >/dev/null 2>&1 || true; done
  rm -rf "$work" "$memory"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '%s\n' "$*" >&2; }
median() { sort -g | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN {if (b > 0) printf "%.2f", a / b; else print "-"}'; }

# fio_iops DEVICE DEPTH [RW] -> IOPS of one short run; the requests done are added up in $work/requests
fio_iops() {
  fio --name=b --filename="$1" --rw="${3:-randread}" --bs="${4:-4k}" --iodepth="$2" --ioengine=io_uring --direct=1 \
    --norandommap --time_based --runtime="$seconds" --readonly --output-format=json 2>/dev/null |
    jq -r '.jobs[0].read | "\(.iops) \(.total_ios)"' | { read -r iops ios; echo "$ios" >"$work/requests"; echo "$iops"; }
}

# cpu_ticks PID... -> user and system time of the processes, in clock ticks
cpu_ticks() {
  local pid total=0 t
  for pid in "$@"; do
    t=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | awk '{print $12 + $13}') || t=0
    total=$((total + ${t:-0}))
  done
  echo "$total"
}

# wait_for SECONDS COMMAND...: until it succeeds
wait_for() {
  local n=$(($1 * 20)); shift
  while ! "$@" >/dev/null 2>&1; do n=$((n - 1)); [ "$n" -gt 0 ] || { say "timed out: $*"; return 1; }; sleep 0.05; done
}

# fill_raw FILE SIZE: random bytes, all allocated
fill_raw() { dd if=/dev/urandom of="$1" bs=4M count=$(($2 / 4)) status=none; }
