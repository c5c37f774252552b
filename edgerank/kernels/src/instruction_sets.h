// The instruction sets that kernels were compiled for, and the one in use.
#pragma once

#include <cstdint>

struct Kernels;  // kernels.h
struct NearestTask;
struct PooledTask;

// What the next session is given.
struct Choice {
  const Kernels* kernels;  // null if the CPU can run none
  int threads;             // that the session has
};
Choice chosen();

// The place of an instruction set among those that this CPU can run.
constexpr int MAX_INSTRUCTION_SETS = 6;
int place_of(const Kernels& kernels);

extern "C" {

// Names of the instruction sets that this CPU can run, with commas between: the fastest first, and
// last one that is only for who asks for it.
__attribute__((visibility("default"))) const char* edgerank_instruction_sets();

// Lets sessions that are opened from now on use the named one, and cut their work for so many
// threads; 0 if this CPU cannot run it.
__attribute__((visibility("default"))) int edgerank_choose(const char* instruction_set,
                                                           int threads);

// Compare parts of stored documents from `first` to before `last` with a query, by the named
// instruction set; 0 if this CPU cannot run it, or no memory is left.
__attribute__((visibility("default"))) int edgerank_nearest(const char* instruction_set,
                                                            const NearestTask* task, int64_t first,
                                                            int64_t last);
__attribute__((visibility("default"))) int edgerank_pooled(const char* instruction_set,
                                                           const PooledTask* task, int64_t first,
                                                           int64_t last);
}
