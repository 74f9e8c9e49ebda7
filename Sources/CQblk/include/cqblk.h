// The one umbrella for every C header qblk uses. Several system-library modules would each re-parse glibc with other
// feature macros and conflict (fd_set, flock); one target with one order of includes does not. Never define
// _GNU_SOURCE here: Swift's Glibc module is built without it. The .c files do.
#ifndef CQBLK_H
#define CQBLK_H
#include <features.h> // latch glibc's feature macros as SwiftGlibc sees them, before a library header sets its own
#include <sys/types.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/uio.h>

#include <libdeflate.h>
#include <libdevmapper.h>
#include <zlib.h>
#include <zstd.h>

#include "qb_deflate.h"
#include "qb_kernel.h"
#include "qb_fuse.h"
#include "qb_ring.h"
#include "qb_shims.h"
#endif
