// Why this file exists: a mapped file can lose its pages (somebody cuts it, its disk fails), and a touch of one that is
// gone is a signal. Whoever copies out of such a mapping must come back from that, which only setjmp can.
#define _GNU_SOURCE
#include "cqblk.h"
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>

struct copy {
    sigjmp_buf back;
    const char *from;
    size_t count;
};
static _Thread_local struct copy *volatile current;

int qb_copy_mapped(void *to, const void *from, size_t count) {
    struct copy copy;
    copy.from = from;
    copy.count = count;
    if (sigsetjmp(copy.back, 0)) {
        // Out of a handler whose signal is still blocked.
        current = NULL;
        sigset_t bus;
        sigemptyset(&bus);
        sigaddset(&bus, SIGBUS);
        pthread_sigmask(SIG_UNBLOCK, &bus, NULL);
        return -1;
    }
    current = &copy;
    memcpy(to, from, count);
    current = NULL;
    return 0;
}

void qb_end_copy(const void *fault) {
    struct copy *copy = current;
    if (!copy) return;
    const char *at = fault;
    // The address may be the page's, not the byte's.
    if (at < copy->from - 4095 || at >= copy->from + copy->count) return;
    siglongjmp(copy->back, 1);
}

long qb_major_faults(void) {
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_majflt : 0;
}
