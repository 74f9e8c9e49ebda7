// The FUSE kernel protocol for the FUSE door, with what came after the oldest kernel headers that qblk builds on
// (6.1). Where the header knows a name already, constants.c checks that the numbers agree.
#ifndef QB_FUSE_H
#define QB_FUSE_H
#include <linux/fuse.h>

/// INIT flags. Above bit 31 they travel in flags2.
enum : unsigned long {
    QB_FUSE_ASYNC_READ = 1ul << 0,
    QB_FUSE_BIG_WRITES = 1ul << 5,
    QB_FUSE_ASYNC_DIO = 1ul << 15,
    QB_FUSE_PARALLEL_DIROPS = 1ul << 18,
    QB_FUSE_MAX_PAGES = 1ul << 22,
    QB_FUSE_INIT_EXT = 1ul << 30,
    QB_FUSE_DIRECT_IO_ALLOW_MMAP = 1ul << 36,
    QB_FUSE_PASSTHROUGH = 1ul << 37,
    QB_FUSE_NO_EXPORT_SUPPORT = 1ul << 38,
    QB_FUSE_HAS_RESEND = 1ul << 39,
    QB_FUSE_OVER_IO_URING = 1ul << 41,
};

/// Flags of an OPEN reply.
enum : unsigned int {
    QB_FOPEN_DIRECT_IO = 1u << 0,
    QB_FOPEN_KEEP_CACHE = 1u << 1,
    QB_FOPEN_NONSEEKABLE = 1u << 2,
    QB_FOPEN_STREAM = 1u << 4,
    QB_FOPEN_NOFLUSH = 1u << 5,
    QB_FOPEN_PARALLEL_DIRECT_WRITES = 1u << 6,
    QB_FOPEN_PASSTHROUGH = 1u << 7,
};

/// Unasked messages from the server to the kernel (error field of fuse_out_header, unique = 0).
enum : int { QB_FUSE_NOTIFY_RESEND = 7 };
/// Set in fuse_in_header.unique when the kernel sends a request again.
enum : unsigned long { QB_FUSE_UNIQUE_RESEND = 1ul << 63 };

/// Passthrough: a file the kernel reads and writes by itself (kernel 6.9).
struct qb_fuse_backing_map {
    int fd;
    unsigned int flags;
    unsigned long long padding;
};

/// The reply to OPEN with the backing file's number (fuse_open_out has `padding` there in older headers).
struct qb_fuse_open_out {
    unsigned long long fh;
    unsigned int open_flags;
    int backing_id;
};

/// ioctl requests on /dev/fuse.
enum : unsigned long {
    QB_FUSE_DEV_IOC_CLONE = FUSE_DEV_IOC_CLONE,
    QB_FUSE_DEV_IOC_BACKING_OPEN = _IOW(FUSE_DEV_IOC_MAGIC, 1, struct qb_fuse_backing_map),
    QB_FUSE_DEV_IOC_BACKING_CLOSE = _IOW(FUSE_DEV_IOC_MAGIC, 2, unsigned int),
};
#endif
