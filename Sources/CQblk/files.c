// File system calls that need _GNU_SOURCE, variadic fcntl with a struct, or a struct that glibc and the kernel both
// call statx.
#define _GNU_SOURCE
#include "cqblk.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h> // struct statx of the kernel; sys/stat.h would bring glibc's, which lacks the new fields
#include <linux/types.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

extern int mknod(const char *path, __mode_t mode, __dev_t device);

int qb_fallocate(int fd, int mode, uint64_t offset, uint64_t length) {
    return fallocate(fd, mode, (off_t)offset, (off_t)length);
}

static struct flock range(short type, uint64_t start, uint64_t length) {
    struct flock lock;
    memset(&lock, 0, sizeof lock); // l_pid must be 0 for OFD locks
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = (off_t)start;
    lock.l_len = (off_t)length;
    return lock;
}

int qb_ofd_lock(int fd, short type, uint64_t start, uint64_t length) {
    struct flock lock = range(type, start, length);
    return fcntl(fd, F_OFD_SETLK, &lock);
}

int qb_ofd_test(int fd, short type, uint64_t start, uint64_t length) {
    struct flock lock = range(type, start, length);
    if (fcntl(fd, F_OFD_GETLK, &lock) != 0) return -1;
    return lock.l_type != F_UNLCK;
}

int qb_dio_alignment(int fd, uint32_t *memory, uint32_t *offset) {
#ifdef STATX_DIOALIGN
    struct statx answer;
    memset(&answer, 0, sizeof answer);
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &answer) != 0) return 0;
    if (!(answer.stx_mask & STATX_DIOALIGN)) return 0;
    *memory = answer.stx_dio_mem_align;
    *offset = answer.stx_dio_offset_align;
    return 1;
#else
    return 0;
#endif
}

unsigned long qb_filesystem_magic(int fd) {
    struct statfs answer;
    return fstatfs(fd, &answer) == 0 ? (unsigned long)answer.f_type : 0;
}

int qb_membarrier(void) { return (int)syscall(SYS_membarrier, 1 /* GLOBAL */, 0, 0); }

int qb_memfd_create(const char *name, unsigned int flags) { return memfd_create(name, flags); }

unsigned int qb_major(uint64_t device) { return major(device); }
unsigned int qb_minor(uint64_t device) { return minor(device); }

int qb_mknod_block(const char *path, unsigned int mode, unsigned int number, unsigned int index) {
    return mknod(path, 0060000 /* S_IFBLK */ | mode, makedev(number, index));
}
