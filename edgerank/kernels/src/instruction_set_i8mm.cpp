#include "tile_neon.h"
// after the tile
#include "attend.h"
#include "nearest.h"
#include "tasks.h"

extern const Kernels i8mm_kernels;
const Kernels i8mm_kernels = {"i8mm",       TASK_SIZE, project, linear,
                              feed_forward, attend,    nearest, pooled};
