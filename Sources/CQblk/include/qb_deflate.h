// ISA-L's deflate by one call. Its stream is a struct of 100 KiB with arrays that Swift cannot import, and its memory
// belongs to one cluster after the other.
#ifndef QB_DEFLATE_H
#define QB_DEFLATE_H
#include <stddef.h>

struct qb_deflate;
/// Working memory for one thread; NULL when there is none.
struct qb_deflate *qb_deflate_new(void);
void qb_deflate_free(struct qb_deflate *deflate);
/// Compresses `count` bytes into one raw deflate stream whose matches reach back no more than 4 KiB. Bytes of the stream;
/// 0 when it does not fit into `room`.
size_t qb_deflate_encode(struct qb_deflate *deflate, const void *source, size_t count, void *target, size_t room);
#endif
