#include "tile_amx.h"
// after the tile
#include "attend.h"
#include "tasks.h"

extern const Kernels amx_kernels;
const Kernels amx_kernels = {"amx",       PANEL_COLUMNS, DEPTH_STEP, INTEGER_OFFSET, TASK_ROWS,
                             pack_matrix, project,       linear,     feed_forward,   attend};
