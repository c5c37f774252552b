#include "tile_amx.h"
// after the tile
#include "attend.h"
#include "nearest.h"
#include "tasks.h"

extern const Kernels amx_kernels;
const Kernels amx_kernels = {"amx",        TASK_SIZE, project, linear,
                             feed_forward, attend,    nearest, pooled};
