// A mapped file can lose its pages (another program cuts it, its disk fails), and a touch of one that is gone is a
// signal. A copy out of such a mapping must come back from that, which only setjmp can.
#define _GNU_SOURCE
#include "cqblk.h"
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/uio.h>

struct run {
    sigjmp_buf back;
    const struct qb_copy *copies;
    volatile size_t done;
};
static _Thread_local struct run *volatile current;

size_t qb_copy_mapped(const struct qb_copy *copies, size_t count) {
    struct run run;
    run.copies = copies;
    run.done = 0;
    if (sigsetjmp(run.back, 0)) {
        // Out of a handler whose signal is still blocked.
        current = NULL;
        sigset_t bus;
        sigemptyset(&bus);
        sigaddset(&bus, SIGBUS);
        pthread_sigmask(SIG_UNBLOCK, &bus, NULL);
        return run.done;
    }
    current = &run;
    // The handler sees all of this in this order.
    atomic_signal_fence(memory_order_seq_cst);
    // To find a page takes longer than to copy it; many can be looked for at once.
    if (count > 1)
        for (size_t i = 0; i < count; i++) {
            const char *from = copies[i].from;
            __builtin_prefetch(from);
            __builtin_prefetch(from + 64);
            __builtin_prefetch(from + 128);
        }
    for (size_t i = 0; i < count; i++) {
        memcpy(copies[i].to, copies[i].from, copies[i].count);
        atomic_signal_fence(memory_order_seq_cst);
        run.done = i + 1;
    }
    atomic_signal_fence(memory_order_seq_cst);
    current = NULL;
    return count;
}

void qb_end_copy(const void *fault) {
    struct run *run = current;
    if (!run) return;
    const struct qb_copy *copy = run->copies + run->done;
    // The address may be the page's, not the byte's. What is copied to may be gone, too: that is not ours.
    uintptr_t at = (uintptr_t)fault, from = (uintptr_t)copy->from;
    if (at < (from & ~(uintptr_t)4095) || at >= from + copy->count) return;
    siglongjmp(run->back, 1);
}

long qb_major_faults(void) {
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_majflt : 0;
}

ssize_t qb_preadv_now(int fd, const void *ranges, int count, uint64_t offset) {
    return preadv2(fd, ranges, count, (off_t)offset, RWF_NOWAIT);
}
