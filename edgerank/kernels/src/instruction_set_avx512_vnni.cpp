#include "tile_avx512.h"
// after the tile
#include "attend.h"
#include "nearest.h"
#include "tasks.h"

extern const Kernels avx512_vnni_kernels;
const Kernels avx512_vnni_kernels = {"avx512_vnni", TASK_SIZE, project, linear,
                                     feed_forward,  attend,    nearest, pooled};
