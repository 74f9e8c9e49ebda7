#include "cqblk.h"
