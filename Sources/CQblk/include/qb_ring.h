// Io_uring without liburing.h, whose copy of the kernel's header clashes with the one that
// swift-system's C module includes. The layouts here are the kernel's ABI; ring.c checks them against liburing.
#ifndef QB_RING_H
#define QB_RING_H
#include <stdint.h>

/// One submission entry, as the kernel reads it.
struct qb_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t offset;
    uint64_t address;
    uint32_t length;
    uint32_t op_flags;
    uint64_t user_data;
    uint16_t buffer_index;
    uint16_t personality;
    uint32_t file_index;
    uint64_t address3;
    uint64_t padding;
};

/// One completion.
struct qb_cqe {
    uint64_t user_data;
    int32_t result;
    uint32_t flags;
};

/// A ring and the places in memory shared with the kernel that the data path looks at without a call.
struct qb_ring {
    void *liburing; // struct io_uring, on the heap
    const uint32_t *cq_tail;
    uint32_t *cq_head;
    const struct qb_cqe *cqes;
    const uint32_t *sq_flags;
    uint32_t cq_mask;
};

enum : uint8_t {
    QB_OP_NOP = 0,
    QB_OP_READV = 1,
    QB_OP_WRITEV = 2,
    QB_OP_FSYNC = 3,
    QB_OP_READ_FIXED = 4,
    QB_OP_WRITE_FIXED = 5,
    QB_OP_POLL_ADD = 6,
    QB_OP_TIMEOUT = 11,
    QB_OP_ASYNC_CANCEL = 14,
    QB_OP_FALLOCATE = 17,
    QB_OP_READ = 22,
    QB_OP_WRITE = 23,
};
enum : uint8_t {
    QB_SQE_FIXED_FILE = 1u << 0,
    QB_SQE_DRAIN = 1u << 1,
    QB_SQE_LINK = 1u << 2,
    QB_SQE_ASYNC = 1u << 4,
    QB_SQE_SKIP_SUCCESS = 1u << 6,
};
enum : uint32_t { QB_FSYNC_DATA_ONLY = 1u << 0 };
/// op_flags of a write.
enum : uint32_t { QB_RWF_DSYNC = 1u << 1 };
/// In `sq_flags`.
enum : uint32_t { QB_SQ_CQ_OVERFLOW = 1u << 1, QB_SQ_TASKRUN = 1u << 2 };
/// Modes of a ring, best first: 6.1, 5.19, any kernel.
enum : int { QB_RING_DEFERRED = 0, QB_RING_COOPERATIVE = 1, QB_RING_PLAIN = 2 };

/// 0, or minus an errno.
int qb_ring_open(struct qb_ring *ring, uint32_t entries, uint32_t completions, int mode);
void qb_ring_close(struct qb_ring *ring);
/// A free entry, zeroed, or NULL while the queue is full.
struct qb_sqe *qb_ring_entry(const struct qb_ring *ring);
/// Entries taken, or minus an errno. `wait` 0 also runs what the kernel deferred.
int qb_ring_submit(const struct qb_ring *ring);
int qb_ring_submit_and_wait(const struct qb_ring *ring, uint32_t wait);
/// Lets the kernel post deferred or overflowed completions.
int qb_ring_get_events(const struct qb_ring *ring);
/// Entries that are filled and not submitted.
unsigned qb_ring_prepared(const struct qb_ring *ring);
int qb_ring_register_files(const struct qb_ring *ring, const int *fds, uint32_t count);
/// A table of `count` places, all free; then one place at a time (-1: free again).
int qb_ring_register_places(const struct qb_ring *ring, uint32_t count);
int qb_ring_set_place(const struct qb_ring *ring, uint32_t place, int fd);
int qb_ring_register_buffers(const struct qb_ring *ring, const struct iovec *buffers, uint32_t count);

/// Tells the processor that this is a loop that waits.
static inline void qb_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}
static inline uint32_t qb_load_acquire(const uint32_t *place) { return __atomic_load_n(place, __ATOMIC_ACQUIRE); }
static inline uint32_t qb_load_relaxed(const uint32_t *place) { return __atomic_load_n(place, __ATOMIC_RELAXED); }
static inline void qb_store_release(uint32_t *place, uint32_t value) {
    __atomic_store_n(place, value, __ATOMIC_RELEASE);
}
#endif
