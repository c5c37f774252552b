// The instruction sets that kernels were compiled for, and the one in use.
#pragma once

struct Kernels;  // kernels.h

// Those that sessions use from now on; null if the CPU can run none.
const Kernels* chosen_kernels();

// The place of an instruction set among those that this CPU can run.
constexpr int MAX_INSTRUCTION_SETS = 4;
int place_of(const Kernels& kernels);

extern "C" {

// Names of the instruction sets that this CPU can run, the fastest first, with commas between.
__attribute__((visibility("default"))) const char* edgerank_instruction_sets();

// Lets sessions that are opened from now on use the named one; 0 if this CPU cannot run it.
__attribute__((visibility("default"))) int edgerank_use_instruction_set(const char* name);
}
