// Kernel constants that Swift cannot import (macros with _IOR or casts, macros behind _GNU_SOURCE) or that older
// kernel headers lack. Numbers written out here are checked against the headers in constants.c wherever a header has
// them.
#ifndef QB_KERNEL_H
#define QB_KERNEL_H
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/magic.h>

/// ioctl requests, of the type that Swift's ioctl() takes.
enum : unsigned long {
    QB_BLKROGET = BLKROGET,
    QB_BLKROSET = BLKROSET,
    QB_BLKRRPART = BLKRRPART,
    QB_BLKFLSBUF = BLKFLSBUF,
    QB_BLKSSZGET = BLKSSZGET,
    QB_BLKPBSZGET = BLKPBSZGET,
    QB_BLKGETSIZE64 = BLKGETSIZE64,
    QB_BLKDISCARD = BLKDISCARD,
    QB_BLKZEROOUT = BLKZEROOUT,
    QB_BLKGETDISKSEQ = 0x80081280UL,
    QB_FICLONE = FICLONE,
    QB_FICLONERANGE = FICLONERANGE,
    QB_LOOP_SET_FD = LOOP_SET_FD,
    QB_LOOP_CLR_FD = LOOP_CLR_FD,
    QB_LOOP_SET_STATUS64 = LOOP_SET_STATUS64,
    QB_LOOP_GET_STATUS64 = LOOP_GET_STATUS64,
    QB_LOOP_CHANGE_FD = LOOP_CHANGE_FD,
    QB_LOOP_SET_CAPACITY = LOOP_SET_CAPACITY,
    QB_LOOP_SET_DIRECT_IO = LOOP_SET_DIRECT_IO,
    QB_LOOP_SET_BLOCK_SIZE = LOOP_SET_BLOCK_SIZE,
    QB_LOOP_CONFIGURE = 0x4C0AUL,
    QB_LOOP_CTL_ADD = LOOP_CTL_ADD,
    QB_LOOP_CTL_REMOVE = LOOP_CTL_REMOVE,
    QB_LOOP_CTL_GET_FREE = LOOP_CTL_GET_FREE,
};

/// Loop device flags (an anonymous enum in the kernel's header).
enum : unsigned int {
    QB_LO_FLAGS_READ_ONLY = LO_FLAGS_READ_ONLY,
    QB_LO_FLAGS_AUTOCLEAR = LO_FLAGS_AUTOCLEAR,
    QB_LO_FLAGS_PARTSCAN = LO_FLAGS_PARTSCAN,
    QB_LO_FLAGS_DIRECT_IO = LO_FLAGS_DIRECT_IO,
};

/// What glibc shows only under _GNU_SOURCE.
enum : int {
    QB_O_DIRECT = __O_DIRECT,
    QB_O_PATH = __O_PATH,
    QB_O_NOATIME = __O_NOATIME,
    QB_O_TMPFILE = __O_TMPFILE,
    QB_F_OFD_GETLK = 36,
    QB_F_OFD_SETLK = 37,
    QB_F_OFD_SETLKW = 38,
    QB_F_ADD_SEALS = 1033,
    QB_SEEK_DATA = 3,
    QB_SEEK_HOLE = 4,
    QB_PR_SET_IO_FLUSHER = 57,
    QB_PR_GET_IO_FLUSHER = 58,
    QB_MCL_CURRENT = 1,
    QB_MCL_FUTURE = 2,
    QB_MCL_ONFAULT = 4,
    QB_MNT_DETACH = 2,
    QB_RLIMIT_MEMLOCK = 8,
    QB_MADV_POPULATE_READ = 22,
    QB_MADV_POPULATE_WRITE = 23,
    QB_UMOUNT_NOFOLLOW = 8,
    QB_CLOSE_RANGE_CLOEXEC = 4,
};

/// fallocate modes.
enum : int {
    QB_FALLOC_KEEP_SIZE = FALLOC_FL_KEEP_SIZE,
    QB_FALLOC_PUNCH_HOLE = FALLOC_FL_PUNCH_HOLE,
    QB_FALLOC_ZERO_RANGE = FALLOC_FL_ZERO_RANGE,
};

/// File systems told apart by statfs.
enum : unsigned int { QB_TMPFS_MAGIC = TMPFS_MAGIC, QB_RAMFS_MAGIC = RAMFS_MAGIC, QB_FUSE_MAGIC = 0x65735546 };
enum : unsigned int { QB_EXT4_MAGIC = EXT4_SUPER_MAGIC, QB_XFS_MAGIC = XFS_SUPER_MAGIC, QB_HUGETLBFS_MAGIC = HUGETLBFS_MAGIC };
#endif
