// Memory aligned for vectors, and giving back what is no longer read.
#pragma once

#include <cstddef>

// Null if there is no memory left.
void* allocate_aligned(size_t bytes);
void free_aligned(void* data);

// Tells the system that a part of a mapped file is no longer needed: its pages leave this process,
// and come back from the file if they are read again. Does nothing to memory of another kind.
void release_mapped(const void* data, size_t bytes);
