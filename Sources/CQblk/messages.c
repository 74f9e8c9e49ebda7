// Descriptors over sockets (CMSG macros), and text that C libraries format with varargs.
#define _GNU_SOURCE
#include "cqblk.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <syslog.h>
#include <unistd.h>

enum { MOST_FDS = 16 };

ssize_t qb_send_fds(int socket, const void *bytes, size_t count, const int *fds, int fd_count) {
    union {
        char space[CMSG_SPACE(sizeof(int) * MOST_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = (void *)bytes, .iov_len = count};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count < 0 || fd_count > MOST_FDS) {
        errno = EINVAL;
        return -1;
    }
    if (fd_count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)fd_count);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)fd_count);
        memcpy(CMSG_DATA(head), fds, sizeof(int) * (size_t)fd_count);
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}

ssize_t qb_recv_fds(int socket, void *bytes, size_t count, int *fds, int *fd_count, int flags) {
    union {
        char space[CMSG_SPACE(sizeof(int) * MOST_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = bytes, .iov_len = count};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space,
                             .msg_controllen = sizeof control.space};
    int room = *fd_count, came = 0, lost = 0;
    *fd_count = 0;
    ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | flags);
    if (got < 0) return got;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
        size_t n = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(head) + i * sizeof(int), sizeof fd);
            if (came < room) fds[came++] = fd;
            else close(fd), lost = 1;
        }
    }
    if (lost || (message.msg_flags & MSG_CTRUNC)) {
        for (int i = 0; i < came; i++) close(fds[i]);
        errno = EMSGSIZE;
        return -1;
    }
    *fd_count = came;
    return got;
}

void qb_openlog(const char *name, int facility) {
    static char kept[64]; // syslog keeps the pointer
    snprintf(kept, sizeof kept, "%s", name);
    openlog(kept, LOG_PID | LOG_NDELAY, facility);
}

void qb_syslog(int priority, const char *text) { syslog(priority, "%s", text); }

static void (*dm_sink)(int level, const char *text);

__attribute__((format(printf, 5, 6)))
static void dm_line(int level, const char *file, int line, int error_or_class, const char *format, ...) {
    (void)file, (void)line, (void)error_or_class;
    if (!dm_sink) return;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    dm_sink(level & 7, text); // the bits above say "stderr", "once": not ours
}

void qb_dm_log_to(void (*sink)(int level, const char *text)) {
    dm_sink = sink;
    dm_log_with_errno_init(dm_line);
}
