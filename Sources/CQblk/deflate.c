// See qb_deflate.h.
#include "qb_deflate.h"
#include <isa-l/igzip_lib.h>
#include <stdint.h>
#include <stdlib.h>

struct qb_deflate {
    struct isal_zstream stream;
    // Level 3 has the best ratio; of the sizes of its memory, larger ones than this gain nothing on clusters.
    uint8_t level[ISAL_DEF_LVL3_DEFAULT];
};

struct qb_deflate *qb_deflate_new(void) { return malloc(sizeof(struct qb_deflate)); }

void qb_deflate_free(struct qb_deflate *deflate) { free(deflate); }

size_t qb_deflate_encode(struct qb_deflate *deflate, const void *source, size_t count, void *target, size_t room) {
    struct isal_zstream *stream = &deflate->stream;
    if (count > UINT32_MAX || room > UINT32_MAX) return 0;
    isal_deflate_init(stream);
    stream->gzip_flag = IGZIP_DEFLATE; // no header
    stream->hist_bits = 12;
    stream->level = 3;
    stream->level_buf = deflate->level;
    stream->level_buf_size = sizeof deflate->level;
    stream->flush = NO_FLUSH;
    stream->end_of_stream = 1;
    stream->next_in = (uint8_t *)source;
    stream->avail_in = (uint32_t)count;
    stream->next_out = target;
    stream->avail_out = (uint32_t)room;
    if (isal_deflate(stream) != COMP_OK || stream->internal_state.state != ZSTATE_END) return 0;
    return stream->total_out;
}
