#include "tile_neon.h"
// after the tile
#include "attend.h"
#include "nearest.h"
#include "tasks.h"

extern const Kernels dotprod_kernels;
const Kernels dotprod_kernels = {"dotprod",    TASK_SIZE, project, linear,
                                 feed_forward, attend,    nearest, pooled};
