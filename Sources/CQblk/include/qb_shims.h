// System calls that Swift cannot reach (variadic, behind _GNU_SOURCE, CMSG macros, fork). One call each; whatever
// decides something belongs into Swift. Results are the call's: -1 and errno on failure, unless said otherwise.
#ifndef QB_SHIMS_H
#define QB_SHIMS_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// files (files.c)
int qb_fallocate(int fd, int mode, uint64_t offset, uint64_t length);
/// Bytes of a byte-range lock on the open file description, start and length; `type` is F_RDLCK, F_WRLCK, F_UNLCK.
int qb_ofd_lock(int fd, short type, uint64_t start, uint64_t length);
/// 1 when a lock of `type` would be refused because of another process's, 0 when not, -1 on failure.
int qb_ofd_test(int fd, short type, uint64_t start, uint64_t length);
/// What the kernel says about direct I/O: 1 and the two alignments (0, 0: not possible), or 0 when it does not say.
int qb_dio_alignment(int fd, uint32_t *memory, uint32_t *offset);
/// f_type of statfs, or 0.
unsigned long qb_filesystem_magic(int fd);
int qb_membarrier(void);
int qb_memfd_create(const char *name, unsigned int flags);
unsigned int qb_major(uint64_t device);
unsigned int qb_minor(uint64_t device);
int qb_mknod_block(const char *path, unsigned int mode, unsigned int major, unsigned int minor);

// mapped files (mapped.c)
struct qb_copy {
    void *to;
    const void *from; // in a mapping whose pages may be gone
    size_t count;
};
/// Does the copies one after the other; how many are done: less than `count` when pages of the next are gone, and how
/// much of that was copied is unknown.
size_t qb_copy_mapped(const struct qb_copy *copies, size_t count);
/// For a SIGBUS handler: does not come back when the fault is in the mapping that this thread copies from.
void qb_end_copy(const void *fault);
/// preadv that fails with EAGAIN where it would wait for a disk.
ssize_t qb_preadv_now(int fd, const void *ranges, int count, uint64_t offset); // of struct iovec
/// Times this thread waited for a page of memory to come from a disk.
long qb_major_faults(void);

// messages (messages.c)
/// Sends `count` bytes and up to 16 descriptors along with them; bytes sent.
ssize_t qb_send_fds(int socket, const void *bytes, size_t count, const int *fds, int fd_count);
/// Receives up to `count` bytes; descriptors (close-on-exec) go to `fds`, `*fd_count` says how many fit and is set to
/// how many came. More than fit: all are closed and the call fails with EMSGSIZE.
ssize_t qb_recv_fds(int socket, void *bytes, size_t count, int *fds, int *fd_count, int flags);
void qb_openlog(const char *name, int facility); // `name` is copied
void qb_syslog(int priority, const char *text);
/// Sends what libdevmapper would print to `sink` instead (NULL: nowhere). Levels are syslog's, 7 being debug.
void qb_dm_log_to(void (*sink)(int level, const char *text));

// processes (processes.c)
int qb_set_thread_name(const char *name);
int qb_spread_thread(int index, int count);
/// Processors that this thread may use.
int qb_processors(void);
int qb_pidfd_open(pid_t pid);
int qb_pidfd_send_signal(int pidfd, int signal);
int qb_set_io_flusher(void);
/// A mount namespace of its own for this process, which must have one thread only.
int qb_unshare_mounts(void);
/// Bytes of stack of the threads that are made from now on; 0, or an errno.
int qb_set_thread_stack(size_t bytes);
/// Has malloc keep what it has, take everything from one heap, and hold `bytes` of touched memory ready in it.
void qb_reserve_heap(size_t bytes);
/// Where a SIGBUS or SIGSEGV came from (siginfo_t's address is a macro).
const void *qb_fault_address(const void *siginfo);

enum : unsigned int {
    QB_SPAWN_NEW_SESSION = 1u << 0,   // setsid
    QB_SPAWN_NULL_STDIO = 1u << 1,    // 0, 1, 2 on /dev/null unless given a descriptor
    QB_SPAWN_ROOT_DIRECTORY = 1u << 2 // chdir /
};
/// Runs `path` (no search) with `sources[i]` inherited as descriptor `targets[i]` and no other descriptor but 0, 1, 2.
/// Returns the pid, or minus an errno: of fork, or of whatever failed in the child up to and including execve.
pid_t qb_spawn(
    const char *path, char *const argv[], char *const envp[], const int *sources, const int *targets, int fd_count,
    unsigned int flags);
/// fsync(2) of `fd` in a child that has no other descriptor and a session of its own: no signal ends an fsync of a device whose
/// server does not answer. Returns the child's pid, or minus an errno; its exit code is 0 or fsync's errno.
pid_t qb_fork_sync(int fd);
#endif
