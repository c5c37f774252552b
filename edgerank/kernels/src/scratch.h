// Memory that a thread keeps for what lies between the steps of a task.
#pragma once

#include <cstddef>

// Returns at least `bytes`, aligned for vectors; what an earlier call returned is no longer valid.
// Null if there is no memory left.
void* scratch(size_t bytes);
