// Memory aligned for vectors.
#pragma once

#include <cstddef>

// Null if there is no memory left.
void* allocate_aligned(size_t bytes);
void free_aligned(void* data);
