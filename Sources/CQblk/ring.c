// The only file that sees liburing.h (see qb_ring.h).
#define _GNU_SOURCE
#include "cqblk.h"
#include <errno.h>
#include <liburing.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#define SAME(ours, theirs)                                                                                            \
    _Static_assert(offsetof(struct qb_sqe, ours) == offsetof(struct io_uring_sqe, theirs), #ours)
SAME(opcode, opcode);
SAME(flags, flags);
SAME(ioprio, ioprio);
SAME(fd, fd);
SAME(offset, off);
SAME(address, addr);
SAME(length, len);
SAME(op_flags, rw_flags);
SAME(user_data, user_data);
SAME(buffer_index, buf_index);
SAME(personality, personality);
SAME(file_index, file_index);
_Static_assert(sizeof(struct qb_sqe) == sizeof(struct io_uring_sqe), "the ring is built without SQE128");
_Static_assert(sizeof(struct qb_cqe) == sizeof(struct io_uring_cqe), "the ring is built without CQE32");
_Static_assert(offsetof(struct qb_cqe, result) == offsetof(struct io_uring_cqe, res), "cqe");
_Static_assert(QB_OP_NOP == IORING_OP_NOP && QB_OP_READV == IORING_OP_READV, "opcodes");
_Static_assert(QB_OP_WRITEV == IORING_OP_WRITEV && QB_OP_FSYNC == IORING_OP_FSYNC, "opcodes");
_Static_assert(QB_OP_READ_FIXED == IORING_OP_READ_FIXED && QB_OP_WRITE_FIXED == IORING_OP_WRITE_FIXED, "opcodes");
_Static_assert(QB_OP_POLL_ADD == IORING_OP_POLL_ADD && QB_OP_TIMEOUT == IORING_OP_TIMEOUT, "opcodes");
_Static_assert(QB_OP_ASYNC_CANCEL == IORING_OP_ASYNC_CANCEL && QB_OP_FALLOCATE == IORING_OP_FALLOCATE, "opcodes");
_Static_assert(QB_OP_READ == IORING_OP_READ && QB_OP_WRITE == IORING_OP_WRITE, "opcodes");
_Static_assert(QB_SQE_FIXED_FILE == IOSQE_FIXED_FILE && QB_SQE_DRAIN == IOSQE_IO_DRAIN, "sqe flags");
_Static_assert(QB_SQE_LINK == IOSQE_IO_LINK && QB_SQE_ASYNC == IOSQE_ASYNC, "sqe flags");
_Static_assert(QB_SQE_SKIP_SUCCESS == IOSQE_CQE_SKIP_SUCCESS, "sqe flags");
_Static_assert(QB_FSYNC_DATA_ONLY == IORING_FSYNC_DATASYNC, "fsync");
_Static_assert(QB_RWF_DSYNC == RWF_DSYNC, "write flags");
_Static_assert(QB_SQ_CQ_OVERFLOW == IORING_SQ_CQ_OVERFLOW && QB_SQ_TASKRUN == IORING_SQ_TASKRUN, "sq flags");

static struct io_uring *of(const struct qb_ring *ring) { return ring->liburing; }

int qb_ring_open(struct qb_ring *ring, uint32_t entries, uint32_t completions, int mode) {
    static const unsigned modes[] = {
        [QB_RING_DEFERRED] = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
                             IORING_SETUP_SUBMIT_ALL,
        [QB_RING_COOPERATIVE] = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
        [QB_RING_PLAIN] = 0,
    };
    struct io_uring_params parameters;
    struct io_uring *inner = calloc(1, sizeof *inner);
    if (!inner) return -ENOMEM;
    memset(&parameters, 0, sizeof parameters);
    parameters.flags = modes[mode] | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE;
    parameters.cq_entries = completions;
    int result = io_uring_queue_init_params(entries, inner, &parameters);
    if (result != 0) {
        free(inner);
        return result;
    }
    // Spares a descriptor look-up per call, and ties the ring to this thread: only where the mode does so anyway.
    if (mode == QB_RING_DEFERRED) (void)io_uring_register_ring_fd(inner);
    ring->liburing = inner;
    ring->cq_head = inner->cq.khead;
    ring->cq_tail = inner->cq.ktail;
    ring->cq_mask = inner->cq.ring_mask;
    ring->cqes = (const struct qb_cqe *)inner->cq.cqes;
    ring->sq_flags = inner->sq.kflags;
    return 0;
}

void qb_ring_close(struct qb_ring *ring) {
    io_uring_queue_exit(of(ring));
    free(ring->liburing);
    ring->liburing = NULL;
}

struct qb_sqe *qb_ring_entry(const struct qb_ring *ring) {
    struct qb_sqe *entry = (struct qb_sqe *)io_uring_get_sqe(of(ring));
    if (entry) memset(entry, 0, sizeof *entry);
    return entry;
}

int qb_ring_submit(const struct qb_ring *ring) { return io_uring_submit(of(ring)); }

int qb_ring_submit_and_wait(const struct qb_ring *ring, uint32_t wait) {
    return wait ? io_uring_submit_and_wait(of(ring), wait) : io_uring_submit_and_get_events(of(ring));
}

int qb_ring_get_events(const struct qb_ring *ring) { return io_uring_get_events(of(ring)); }

unsigned qb_ring_prepared(const struct qb_ring *ring) { return io_uring_sq_ready(of(ring)); }

int qb_ring_register_files(const struct qb_ring *ring, const int *fds, uint32_t count) {
    return io_uring_register_files(of(ring), fds, count);
}

int qb_ring_register_places(const struct qb_ring *ring, uint32_t count) {
    return io_uring_register_files_sparse(of(ring), count);
}

int qb_ring_set_place(const struct qb_ring *ring, uint32_t place, int fd) {
    return io_uring_register_files_update(of(ring), place, &fd, 1);
}

int qb_ring_register_buffers(const struct qb_ring *ring, const struct iovec *buffers, uint32_t count) {
    return io_uring_register_buffers(of(ring), buffers, count);
}
