#include "tile_avx2.h"
// after the tile
#include "attend.h"
#include "nearest.h"
#include "tasks.h"

extern const Kernels avx_vnni_kernels;
const Kernels avx_vnni_kernels = {"avx_vnni",   TASK_SIZE, project, linear,
                                  feed_forward, attend,    nearest, pooled};
