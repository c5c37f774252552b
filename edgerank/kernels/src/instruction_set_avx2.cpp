#include "tile_avx2.h"
// after the tile
#include "attend.h"
#include "nearest.h"
#include "tasks.h"

extern const Kernels avx2_kernels;
const Kernels avx2_kernels = {"avx2",       TASK_SIZE, project, linear,
                              feed_forward, attend,    nearest, pooled};
