// What attention multiplies, as float32: keys and queries are read where they are.
// Included after a simd_*.h.
#pragma once

#include "kernels.h"
#include "positions.h"
#include "rows.h"
#include "workspace.h"

namespace {

class Operands {
 public:
  using Element = float;

  // How many elements hold so many numbers.
  static int64_t elements(int64_t count) { return count; }

  // Bytes of a workspace.
  static int64_t size(const AttentionTask& task, int64_t num_keys) {
    return Workspace::size<float>(num_keys * rounded_up(task.head_size, WIDTH));
  }

  Operands(Workspace& space, const AttentionTask& task, int64_t num_keys)
      : task_(task),
        stride_(rounded_up(task.head_size, WIDTH)),
        values_(space.take<float>(num_keys * stride_)) {}

  // [elements of a head][QUERIES], of floats [head size][QUERIES]
  const float* queries(const float* transposed, int64_t) { return transposed; }

  ElementRows<float> keys(const float* keys, int64_t) { return {keys, task_.key_stride}; }

  // [elements of keys][QUERIES], of floats [keys][QUERIES], whose memory they may take
  const float* weights(float* weights, int64_t, int64_t) { return weights; }

  // Takes the values of consecutive keys over, of which the first is the block's one at `place`.
  void set_values(const float* values, int64_t place, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const float* from = values + i * task_.key_stride;
      float* to = values_ + (place + i) * stride_;
      for_each_vector(
          task_.head_size, [&](int64_t k) { store(to + k, load(from + k)); },
          [&](int64_t k, int64_t rest) { store(to + k, load_first(from + k, rest)); });
    }
  }

  // [elements of keys][...]
  ElementRows<float> values() const { return {values_, stride_}; }

 private:
  const AttentionTask& task_;
  int64_t stride_;
  float* values_;
};

}  // namespace
