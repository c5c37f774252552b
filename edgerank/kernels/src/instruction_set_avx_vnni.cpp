#include "tile_avx2.h"
// after the tile
#include "attend.h"
#include "tasks.h"

extern const Kernels avx_vnni_kernels;
const Kernels avx_vnni_kernels = {"avx_vnni",  PANEL_COLUMNS, DEPTH_STEP, INTEGER_OFFSET, TASK_ROWS,
                                  pack_matrix, project,       linear,     feed_forward,   attend};
