// What a process does to itself and to its children. Between fork and execve only async-signal-safe calls are allowed
// (other threads may hold any lock), which Swift cannot promise.
#define _GNU_SOURCE
#include <sched.h>
#include "cqblk.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

// Every count-th of the processors this thread may use, from the index-th on; all of them where they are too few.
int qb_spread_thread(int index, int count) {
  cpu_set_t allowed, mine;
  if (count < 2 || sched_getaffinity(0, sizeof allowed, &allowed) < 0 || CPU_COUNT(&allowed) < count) return 0;
  CPU_ZERO(&mine);
  for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &allowed) && seen++ % count == index % count) CPU_SET(cpu, &mine);
  return sched_setaffinity(0, sizeof mine, &mine);
}

int qb_processors(void) {
  cpu_set_t allowed;
  return sched_getaffinity(0, sizeof allowed, &allowed) < 0 ? 1 : CPU_COUNT(&allowed);
}

int qb_set_thread_name(const char *name) { return pthread_setname_np(pthread_self(), name); }
int qb_pidfd_open(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); } // always close-on-exec
int qb_pidfd_send_signal(int pidfd, int signal) {
    return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0);
}
int qb_set_io_flusher(void) { return prctl(QB_PR_SET_IO_FLUSHER, 1, 0, 0, 0); }
int qb_unshare_mounts(void) { return unshare(CLONE_NEWNS); }

int qb_set_thread_stack(size_t bytes) {
    pthread_attr_t usual;
    int error = pthread_attr_init(&usual);
    if (error != 0) return error;
    if ((error = pthread_attr_setstacksize(&usual, bytes)) == 0) error = pthread_setattr_default_np(&usual);
    pthread_attr_destroy(&usual);
    return error;
}

void qb_reserve_heap(size_t bytes) {
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
    mallopt(M_MMAP_THRESHOLD, 32 << 20); // the largest that glibc takes
    volatile char *memory = malloc(bytes);
    if (!memory) return;
    for (size_t i = 0; i < bytes; i += 4096) memory[i] = 1;
    free((void *)memory);
}

static void close_on_exec_from(int first) {
    if (syscall(SYS_close_range, first, ~0u, QB_CLOSE_RANGE_CLOEXEC) == 0) return;
    long most = sysconf(_SC_OPEN_MAX); // kernels before 5.11
    for (int fd = first; fd < (most > 0 && most < 65536 ? most : 65536); fd++) fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static int null_stdio(void) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0) return -1;
    for (int fd = 0; fd < 3; fd++) {
        if (fd == null) fcntl(fd, F_SETFD, 0);
        else if (dup2(null, fd) < 0) return -1;
    }
    return 0;
}

static int default_signals(void) {
    struct sigaction usual = {.sa_handler = SIG_DFL};
    sigset_t none;
    for (int signal = 1; signal < NSIG; signal++) sigaction(signal, &usual, NULL); // fails for KILL, STOP: fine
    sigemptyset(&none);
    return sigprocmask(SIG_SETMASK, &none, NULL);
}

// In the child. `high` is scratch space of fd_count ints. Returns only on failure.
static void become(
    const char *path, char *const argv[], char *const envp[], const int *sources, const int *targets, int *high,
    int fd_count, unsigned int flags) {
    int above = 3;
    for (int i = 0; i < fd_count; i++)
        if (targets[i] >= above) above = targets[i] + 1;
    // Move the sources out of the targets' way first, so that no dup2 runs over a source still needed.
    for (int i = 0; i < fd_count; i++)
        if ((high[i] = fcntl(sources[i], F_DUPFD_CLOEXEC, above)) < 0) return;
    close_on_exec_from(3);
    if ((flags & QB_SPAWN_NULL_STDIO) && null_stdio() != 0) return;
    for (int i = 0; i < fd_count; i++)
        if (dup2(high[i], targets[i]) < 0) return;
    if ((flags & QB_SPAWN_NEW_SESSION) && setsid() < 0) return;
    if ((flags & QB_SPAWN_ROOT_DIRECTORY) && chdir("/") != 0) return;
    if (default_signals() != 0) return;
    execve(path, argv, envp);
}

pid_t qb_spawn(
    const char *path, char *const argv[], char *const envp[], const int *sources, const int *targets, int fd_count,
    unsigned int flags) {
    int report[2], error = 0;
    int *high = calloc((size_t)fd_count + 1, sizeof *high);
    if (!high) return -ENOMEM;
    if (pipe2(report, O_CLOEXEC) != 0) {
        error = errno;
        free(high);
        return -error;
    }
    // The child's end must not be where a target goes: dup2 would replace it and the report would be lost.
    int above = 3;
    for (int i = 0; i < fd_count; i++)
        if (targets[i] >= above) above = targets[i] + 1;
    int end = fcntl(report[1], F_DUPFD_CLOEXEC, above);
    error = errno;
    close(report[1]);
    pid_t pid = end < 0 ? -1 : fork();
    if (pid == 0) {
        become(path, argv, envp, sources, targets, high, fd_count, flags);
        error = errno;
        ssize_t told = write(end, &error, sizeof error);
        _exit(told == sizeof error ? 127 : 126);
    }
    if (end >= 0 && pid < 0) error = errno;
    free(high);
    if (end >= 0) close(end);
    if (pid < 0) {
        close(report[0]);
        return -error;
    }
    // The write end closes by itself when execve succeeds: no bytes mean success.
    ssize_t got;
    do got = read(report[0], &error, sizeof error);
    while (got < 0 && errno == EINTR);
    close(report[0]);
    if (got != sizeof error) return pid;
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
    return -error;
}

// Fork without execve: the child calls async-signal-safe functions only, and ends.
pid_t qb_fork_sync(int fd) {
    pid_t pid = fork();
    if (pid < 0) return -errno;
    if (pid > 0) return pid;
    if (dup2(fd, 0) < 0) _exit(errno);
    if (syscall(SYS_close_range, 1, ~0u, 0) != 0)
        for (int other = 1; other < 65536; other++) close(other); // kernels before 5.9
    default_signals();
    setsid();
    prctl(PR_SET_NAME, "qblk-sync", 0, 0, 0);
    if (chdir("/") != 0) _exit(errno);
    _exit(fsync(0) == 0 ? 0 : errno);
}

const void *qb_fault_address(const void *siginfo) { return ((const siginfo_t *)siginfo)->si_addr; }
