// What attention multiplies, as bfloat16: floats that are rounded to eight significant bits. Two of
// them are an element, and the instruction adds both products to a float32 sum: elements of queries
// and keys are neighbours in a head, those of weights and values belong to two keys.
//
// In place of float_operands.h, where AVX-512 BF16 is compiled for.
#pragma once

#include "kernels.h"
#include "positions.h"
#include "rows.h"
#include "workspace.h"

namespace {

struct BfloatPair {
  uint32_t bits;
};

struct BfloatPairs {  // 16 of them
  __m512i bits;
};

inline BfloatPairs splat(BfloatPair pair) { return {_mm512_set1_epi32(int(pair.bits))}; }
inline BfloatPairs load(const BfloatPair* from) { return {_mm512_loadu_si512(from)}; }
inline void store(BfloatPair* to, BfloatPairs x) { _mm512_storeu_si512(to, x.bits); }
inline Floats multiply_add(BfloatPairs a, BfloatPairs b, Floats c) {
  return _mm512_dpbf16_ps(c, (__m512bh)a.bits, (__m512bh)b.bits);
}

// 32 bfloat16: those of `first`, then those of `second`
inline __m512i rounded_to_bfloat16(Floats first, Floats second) {
  return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}

// Pairs of a number of `first` and one of `second`.
inline BfloatPairs paired(Floats first, Floats second) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return {_mm512_permutexvar_epi16(order, rounded_to_bfloat16(first, second))};
}

// A vector of a row of `size` floats, from `place` on, with zeros behind its end.
inline Floats load_within(const float* row, int64_t place, int64_t size) {
  if (place + WIDTH <= size) return load(row + place);
  return place < size ? load_first(row + place, size - place) : splat(0.0f);
}

// pairs [(count + 1) / 2][QUERIES] of rows [count][QUERIES], in the memory of those if need be
inline void pair_rows(const float* rows, int64_t count, int64_t lanes, BfloatPair* pairs) {
  for (int64_t row = 0; row < count; row += 2) {
    const float* first = rows + row * QUERIES;
    BfloatPair* to = pairs + row / 2 * QUERIES;
    for (int64_t lane = 0; lane < lanes; lane += WIDTH) {
      const Floats second = row + 1 < count ? load(first + QUERIES + lane) : splat(0.0f);
      store(to + lane, paired(load(first + lane), second));
    }
  }
}

class Operands {
 public:
  using Element = BfloatPair;

  // How many elements hold so many numbers.
  static int64_t elements(int64_t count) { return (count + 1) / 2; }

  // Bytes of a workspace.
  static int64_t size(const AttentionTask& task, int64_t num_keys) {
    return Workspace::size<BfloatPair>(elements(task.head_size) * QUERIES) +
           Workspace::size<BfloatPair>(num_keys * key_stride(task)) +
           Workspace::size<BfloatPair>(elements(num_keys) * value_stride(task));
  }

  Operands(Workspace& space, const AttentionTask& task, int64_t num_keys)
      : task_(task),
        queries_(space.take<BfloatPair>(elements(task.head_size) * QUERIES)),
        keys_(space.take<BfloatPair>(num_keys * key_stride(task))),
        values_(space.take<BfloatPair>(elements(num_keys) * value_stride(task))) {}

  // [elements of a head][QUERIES], of floats [head size][QUERIES]
  const BfloatPair* queries(const float* transposed, int64_t lanes) {
    pair_rows(transposed, task_.head_size, lanes, queries_);
    return queries_;
  }

  ElementRows<BfloatPair> keys(const float* keys, int64_t count) {
    const int64_t stride = key_stride(task_), size = task_.head_size;
    for (int64_t i = 0; i < count; ++i) {
      const float* from = keys + i * task_.key_stride;
      for (int64_t k = 0; k < size; k += 2 * WIDTH) {
        const __m512i bits =
            rounded_to_bfloat16(load_within(from, k, size), load_within(from, k + WIDTH, size));
        store(keys_ + i * stride + k / 2, BfloatPairs{bits});
      }
    }
    return {keys_, stride};
  }

  // [elements of keys][QUERIES], of floats [keys][QUERIES], whose memory they may take
  const BfloatPair* weights(float* weights, int64_t count, int64_t lanes) {
    auto* pairs = reinterpret_cast<BfloatPair*>(weights);
    pair_rows(weights, count, lanes, pairs);
    return pairs;
  }

  // Takes the values of consecutive keys over, of which the first is the block's one at `place`.
  void set_values(const float* values, int64_t place, int64_t count) {
    const int64_t stride = value_stride(task_), size = task_.head_size;
    for (int64_t i = 0; i < count; ++i) {
      const float* from = values + i * task_.key_stride;
      BfloatPair* to = values_ + (place + i) / 2 * stride;
      const bool is_second = (place + i) % 2 != 0;  // of a pair whose first is there
      const float* next = !is_second && i + 1 < count ? from + task_.key_stride : nullptr;
      for (int64_t k = 0; k < size; k += WIDTH) {
        const Floats x = load_within(from, k, size);
        if (is_second) {
          const __m512i above = paired(splat(0.0f), x).bits;
          const __m512i below = _mm512_and_si512(load(to + k).bits, _mm512_set1_epi32(0xffff));
          store(to + k, BfloatPairs{_mm512_or_si512(above, below)});
        } else {
          store(to + k, paired(x, next ? load_within(next, k, size) : splat(0.0f)));
        }
      }
      if (next) ++i;
    }
  }

  // [elements of keys][...]
  ElementRows<BfloatPair> values() const { return {values_, value_stride(task_)}; }

 private:
  static int64_t key_stride(const AttentionTask& task) {
    return rounded_up(task.head_size, 2 * WIDTH) / 2;
  }
  static int64_t value_stride(const AttentionTask& task) {
    return rounded_up(task.head_size, WIDTH);
  }

  const AttentionTask& task_;
  BfloatPair *queries_, *keys_, *values_;
};

}  // namespace
