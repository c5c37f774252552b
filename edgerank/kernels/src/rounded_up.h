// Whole steps.
#pragma once

#include <cstdint>

// Each file has its own: one that is compiled for an instruction set must not serve the others.
static constexpr int64_t rounded_up(int64_t count, int64_t step) {
  return (count + step - 1) / step * step;
}
