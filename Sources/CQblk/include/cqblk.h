// Why this file exists: the one umbrella for every C header qblk uses. Several system-library modules would each
// re-parse glibc with other feature macros and conflict (fd_set, flock); one target with one order of includes
// does not.
#ifndef CQBLK_H
#define CQBLK_H
#include <features.h> // latch glibc's feature macros as SwiftGlibc sees them, before a library header sets its own
#include <sys/types.h>
#include <liburing.h>
#include <libdevmapper.h>
#include <libdeflate.h>
#include <zlib.h>
#include <zstd.h>
#endif
