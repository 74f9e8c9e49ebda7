#define _GNU_SOURCE
#include "fail_calls.h"
#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

static int armed, planned_error, failed_kind = QBLK_CALL_NONE;
static uint64_t planned_device, planned_inode;
static long planned, calls;

void qblk_fail_call(uint64_t device, uint64_t inode, long failing, int error) {
    planned_device = device, planned_inode = inode, planned = failing, planned_error = error;
    __atomic_store_n(&calls, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&failed_kind, QBLK_CALL_NONE, __ATOMIC_RELAXED);
    __atomic_store_n(&armed, 1, __ATOMIC_RELEASE);
}
void qblk_fail_none(void) { __atomic_store_n(&armed, 0, __ATOMIC_RELEASE); }
long qblk_calls(void) { return __atomic_load_n(&calls, __ATOMIC_RELAXED); }
int qblk_failed_kind(void) { return __atomic_load_n(&failed_kind, __ATOMIC_RELAXED); }

#ifdef SANITIZED
int qblk_fails_calls(void) { return 0; }
#else
int qblk_fails_calls(void) { return 1; }

// Whether this is the call that fails.
static int fails(int fd, int kind) {
    if (!__atomic_load_n(&armed, __ATOMIC_ACQUIRE)) return 0;
    struct stat file;
    if (fstat(fd, &file) || file.st_dev != planned_device || file.st_ino != planned_inode) return 0;
    if (__atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED) != planned) return 0;
    if (planned_error) __atomic_store_n(&failed_kind, kind, __ATOMIC_RELAXED);
    errno = planned_error;
    return 1;
}


ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    if (fails(fd, QBLK_CALL_WRITE)) {
        if (planned_error) return -1;
        if (count > 1) count /= 2;
    }
    return syscall(SYS_pwrite64, fd, bytes, count, offset);
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t offset) { return pwrite(fd, bytes, count, offset); }
int fdatasync(int fd) {
    if (fails(fd, QBLK_CALL_SYNC) && planned_error) return -1;
    return (int)syscall(SYS_fdatasync, fd);
}
int ftruncate(int fd, off_t size) {
    if (fails(fd, QBLK_CALL_RESIZE) && planned_error) return -1;
    return (int)syscall(SYS_ftruncate, fd, size);
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }
#endif
