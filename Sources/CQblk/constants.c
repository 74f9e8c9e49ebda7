// Holds the numbers written out in our headers against the system's, at compile time.
#define _GNU_SOURCE
#include "cqblk.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

_Static_assert(QB_O_DIRECT == O_DIRECT, "O_DIRECT");
_Static_assert(QB_O_PATH == O_PATH, "O_PATH");
_Static_assert(QB_O_TMPFILE == __O_TMPFILE, "O_TMPFILE without O_DIRECTORY");
_Static_assert(QB_F_OFD_GETLK == F_OFD_GETLK && QB_F_OFD_SETLK == F_OFD_SETLK, "OFD locks");
_Static_assert(QB_F_OFD_SETLKW == F_OFD_SETLKW, "OFD locks");
_Static_assert(QB_SEEK_DATA == SEEK_DATA && QB_SEEK_HOLE == SEEK_HOLE, "lseek");
_Static_assert(QB_MCL_CURRENT == MCL_CURRENT && QB_MCL_FUTURE == MCL_FUTURE, "mlockall");
_Static_assert(QB_MCL_ONFAULT == MCL_ONFAULT, "mlockall");
_Static_assert(QB_RLIMIT_MEMLOCK == RLIMIT_MEMLOCK, "setrlimit");
#ifdef MADV_POPULATE_READ
_Static_assert(QB_MADV_POPULATE_READ == MADV_POPULATE_READ, "madvise");
_Static_assert(QB_MADV_POPULATE_WRITE == MADV_POPULATE_WRITE, "madvise");
#endif
_Static_assert(QB_MNT_DETACH == MNT_DETACH && QB_UMOUNT_NOFOLLOW == UMOUNT_NOFOLLOW, "umount2");
_Static_assert(QB_PR_SET_IO_FLUSHER == PR_SET_IO_FLUSHER, "prctl");
_Static_assert(QB_LOOP_CONFIGURE == LOOP_CONFIGURE, "loop");
_Static_assert(QB_BLKGETDISKSEQ == BLKGETDISKSEQ, "diskseq");
_Static_assert(QB_F_ADD_SEALS == F_ADD_SEALS, "seals");


_Static_assert(sizeof(struct loop_info64) == 232, "loop_info64");
_Static_assert(sizeof(struct loop_config) == 304, "loop_config");

_Static_assert(sizeof(struct fuse_in_header) == 40 && sizeof(struct fuse_out_header) == 16, "fuse headers");
_Static_assert(sizeof(struct fuse_init_in) == 64 && sizeof(struct fuse_init_out) == 64, "fuse init");
_Static_assert(sizeof(struct fuse_write_in) == 40 && sizeof(struct fuse_read_in) == 40, "fuse read, write");
_Static_assert(sizeof(struct qb_fuse_backing_map) == 16, "fuse_backing_map");
_Static_assert(sizeof(struct qb_fuse_open_out) == sizeof(struct fuse_open_out), "fuse_open_out");
_Static_assert(QB_FUSE_ASYNC_DIO == FUSE_ASYNC_DIO && QB_FUSE_MAX_PAGES == FUSE_MAX_PAGES, "fuse flags");
_Static_assert(QB_FUSE_BIG_WRITES == FUSE_BIG_WRITES && QB_FUSE_ASYNC_READ == FUSE_ASYNC_READ, "fuse flags");
_Static_assert(QB_FUSE_PARALLEL_DIROPS == FUSE_PARALLEL_DIROPS && QB_FUSE_INIT_EXT == FUSE_INIT_EXT, "fuse flags");
_Static_assert(QB_FOPEN_DIRECT_IO == FOPEN_DIRECT_IO && QB_FOPEN_KEEP_CACHE == FOPEN_KEEP_CACHE, "fuse open");
_Static_assert(QB_FOPEN_NONSEEKABLE == FOPEN_NONSEEKABLE && QB_FOPEN_STREAM == FOPEN_STREAM, "fuse open");
_Static_assert(QB_FOPEN_NOFLUSH == FOPEN_NOFLUSH, "fuse open");
#ifdef FOPEN_PARALLEL_DIRECT_WRITES
_Static_assert(QB_FOPEN_PARALLEL_DIRECT_WRITES == FOPEN_PARALLEL_DIRECT_WRITES, "fuse open");
#endif
#ifdef FUSE_HAS_RESEND
_Static_assert(QB_FUSE_HAS_RESEND == FUSE_HAS_RESEND && QB_FUSE_UNIQUE_RESEND == FUSE_UNIQUE_RESEND, "fuse resend");
#endif
#ifdef FUSE_PASSTHROUGH
_Static_assert(QB_FUSE_PASSTHROUGH == FUSE_PASSTHROUGH && QB_FOPEN_PASSTHROUGH == FOPEN_PASSTHROUGH, "passthrough");
#endif
#ifdef FUSE_DEV_IOC_BACKING_OPEN
_Static_assert(QB_FUSE_DEV_IOC_BACKING_OPEN == FUSE_DEV_IOC_BACKING_OPEN, "passthrough");
_Static_assert(QB_FUSE_DEV_IOC_BACKING_CLOSE == FUSE_DEV_IOC_BACKING_CLOSE, "passthrough");
#endif
