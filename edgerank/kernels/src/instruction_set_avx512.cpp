#include "tile_avx512.h"
// after the tile
#include "attend.h"
#include "tasks.h"

extern const Kernels avx512_kernels;
const Kernels avx512_kernels = {"avx512",    PANEL_COLUMNS, DEPTH_STEP, INTEGER_OFFSET, TASK_ROWS,
                                pack_matrix, project,       linear,     feed_forward,   attend};
