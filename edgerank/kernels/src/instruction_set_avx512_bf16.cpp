#include "tile_avx512.h"
// after the tile
#include "attend.h"
#include "nearest.h"
#include "tasks.h"

extern const Kernels avx512_bf16_kernels;
const Kernels avx512_bf16_kernels = {"avx512_bf16", TASK_SIZE, project, linear,
                                     feed_forward,  attend,    nearest, pooled};
