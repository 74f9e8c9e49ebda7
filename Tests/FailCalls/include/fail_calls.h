// Tables are written and synced by plain system calls of an image's helper thread, and disks fail under those, too.
// Linked into the tests, this stands before the C library and fails one call on one file.
#ifndef FAIL_CALLS_H
#define FAIL_CALLS_H
#include <stdint.h>
enum { QBLK_CALL_NONE = -1, QBLK_CALL_WRITE, QBLK_CALL_SYNC, QBLK_CALL_RESIZE };
/// From here on the calls on a file are counted: pwrite, fdatasync, ftruncate. Number `failing` (from 1) does nothing and says
/// `error`; 0 for `error`: a write does a part, others as always. One file at a time.
void qblk_fail_call(uint64_t device, uint64_t inode, long failing, int error);
/// No more of that.
void qblk_fail_none(void);
/// Calls on the file so far.
long qblk_calls(void);
/// Which kind of call failed.
int qblk_failed_kind(void);
/// Whether calls can be failed in this build.
int qblk_fails_calls(void);
#endif
