// Integer products: rows of uint8 times panels of int8, turned into floats while the sums are still
// in registers. Included after a simd_*.h and a tile_*.h, which has the innermost loop:
//
//   TILE_ROWS, TILE_COLUMNS     what is multiplied at once; the columns are whole panels
//   INTEGER_OFFSET              what is taken off integers, where instructions want them signed
//   tile<Rows>(integers, stride, panels, depth, sums)   sums[Rows][TILE_COLUMNS / WIDTH] of
//   Integers to_floats(Integers), subtract, times
//
// and, where there are instructions for more rows than registers hold sums of (tile_amx.h):
//
//   BLOCK_ROWS                  as many rows
//   BLOCK_STEP                  they are read in multiples of it, as far as the integers' memory
//   block(integers, stride, panels, depth, rows, sums)  sums[rows][TILE_COLUMNS] in memory
//   BlockSetup                  has to live while blocks are computed
#pragma once

#include <cstring>

#include "kernels.h"
#include "workspace.h"

namespace {

constexpr int SUM_VECTORS = TILE_COLUMNS / WIDTH;

#if !defined(BLOCK_ROWS)
#define BLOCK_ROWS 0
constexpr int64_t BLOCK_STEP = 1;
struct BlockSetup {
  BlockSetup() {}
};
inline void block(const uint8_t*, int64_t, const int8_t*, int64_t, int64_t, int32_t*) {}
#endif

constexpr int64_t MOST_ROWS = BLOCK_ROWS ? BLOCK_ROWS : TILE_ROWS;  // of a product with a strip
// Blocks are multiplied faster than weights come from the third-level cache, so many rows share
// them, although these then leave the second level.
constexpr TaskSize TASK_SIZE =
    BLOCK_ROWS ? TaskSize{BLOCK_ROWS, 4 * BLOCK_ROWS, 8 << 20} : TaskSize{6, 48, 512 << 10};

inline int64_t padded_depth(int64_t depth) { return rounded_up(depth, MATRIX_STEP); }

// Rows as integers.
struct IntegerRows {
  const uint8_t* integers;
  int64_t stride;
  const float* steps;               // of the rows
  RefinedRows refined;              // and of these, in their order:
  const uint8_t* firsts = nullptr;  // their integers once more
  const uint8_t* rests = nullptr;
  float units = 1;  // of the rests, in a step
};

// Where a product goes, and what is added to it: y = product + residual * residual_scales.
struct Target {
  float* y;
  int64_t stride;                // of y and of the residual
  const float* residual;         // or null
  const float* residual_scales;  // of the columns, or null for ones
};

// A strip of a matrix is as many of its columns as a tile has.
inline int64_t num_strips(const Matrix& matrix) {
  return (matrix.columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
}

// How many columns a strip has, without those that fill it up.
inline int64_t columns_of_strip(const Matrix& matrix, int64_t strip) {
  const int64_t left = matrix.columns - strip * TILE_COLUMNS;
  return left < TILE_COLUMNS ? left : TILE_COLUMNS;
}

inline Matrix strip_of(const Matrix& matrix, int64_t strip) {
  const int64_t column = strip * TILE_COLUMNS;
  const IntegerMatrix& whole = matrix.rounded;
  return {matrix.depth,
          columns_of_strip(matrix, strip),
          {whole.panels + column * padded_depth(matrix.depth), whole.sums + column,
           whole.scales + column},
          matrix.zero_point,
          matrix.bias ? matrix.bias + column : nullptr,
          {}};
}

// What belongs to a strip's columns, with zeros for those that fill it up.
struct FilledUp {
  alignas(64) int32_t sums[TILE_COLUMNS] = {};
  alignas(64) float scales[TILE_COLUMNS] = {};
  alignas(64) float bias[TILE_COLUMNS] = {};
  Matrix view;

  explicit FilledUp(const Matrix& strip) : view(strip) {
    const size_t bytes = static_cast<size_t>(strip.columns) * 4;
    std::memcpy(sums, strip.rounded.sums, bytes);
    std::memcpy(scales, strip.rounded.scales, bytes);
    if (strip.bias) std::memcpy(bias, strip.bias, bytes);
    view.rounded.sums = sums;
    view.rounded.scales = scales;
    view.bias = bias;
  }
};

inline Floats get(const float* from, int64_t count) {
  return count >= WIDTH ? load(from) : load_first(from, count);
}

inline void put(float* to, Floats x, int64_t count) {
  if (count >= WIDTH) {
    store(to, x);
  } else {
    store_first(to, x, count);
  }
}

struct Ones {
  float values[MOST_ROWS];
  constexpr Ones() : values() {
    for (int64_t i = 0; i < MOST_ROWS; ++i) values[i] = 1;
  }
};
constexpr Ones ONES;

// What turns the sums of a vector of a strip's columns, from `column` on, into floats:
// y = float(sum) * scale * step + bias + residual * residual_scale.
template <bool has_residual>
struct Finish {
  Integers correction;
  Floats scale, shift, factor;

  Finish(const Matrix& strip, int64_t column, const Target& target)
      : correction(
            times(load_integers(strip.rounded.sums + column), strip.zero_point - INTEGER_OFFSET)),
        scale(load(strip.rounded.scales + column)),
        shift(strip.bias ? load(strip.bias + column) : splat(0)),
        factor(target.residual_scales ? load(target.residual_scales + column) : splat(1)) {}

  void store_row(Integers sums, float step, const Target& target, int64_t place) const {
    const Floats real = to_floats(subtract(sums, correction)) * scale;
    Floats z = real * splat(step) + shift;
    if constexpr (has_residual) z = z + load(target.residual + place) * factor;
    store(target.y + place, z);
  }
};

// Multiplies Rows rows by a strip, whose columns' scales and all else are there for a whole one.
//
// A function of its own, so that the innermost loop's sums have the registers to themselves.
template <int Rows, bool has_residual>
__attribute__((noinline)) void whole_tile(const uint8_t* integers, int64_t stride,
                                          const float* steps, const Matrix& strip,
                                          const Target& target) {
  Integers sums[Rows][SUM_VECTORS];
  tile<Rows>(integers, stride, strip.rounded.panels, padded_depth(strip.depth), sums);
#pragma GCC unroll 16
  for (int j = 0; j < SUM_VECTORS; ++j) {
    const Finish<has_residual> finish(strip, j * WIDTH, target);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      finish.store_row(sums[i][j], steps[i], target, i * target.stride + j * WIDTH);
    }
  }
}

// Likewise for up to BLOCK_ROWS rows.
template <bool has_residual>
__attribute__((noinline)) void whole_block(int64_t num_rows, const uint8_t* integers,
                                           int64_t stride, const float* steps, const Matrix& strip,
                                           const Target& target) {
  alignas(64) int32_t sums[MOST_ROWS * TILE_COLUMNS];
  block(integers, stride, strip.rounded.panels, padded_depth(strip.depth), num_rows, sums);
  for (int64_t j = 0; j < TILE_COLUMNS; j += WIDTH) {
    const Finish<has_residual> finish(strip, j, target);
    for (int64_t i = 0; i < num_rows; ++i) {
      finish.store_row(load_integers(sums + i * TILE_COLUMNS + j), steps[i], target,
                       i * target.stride + j);
    }
  }
}

template <int Rows = TILE_ROWS>
inline void few_rows(int64_t num_rows, const uint8_t* integers, int64_t stride, const float* steps,
                     const Matrix& strip, const Target& target) {
  if constexpr (Rows > 0) {
    if (num_rows == Rows && target.residual) {
      whole_tile<Rows, true>(integers, stride, steps, strip, target);
    } else if (num_rows == Rows) {
      whole_tile<Rows, false>(integers, stride, steps, strip, target);
    } else {
      few_rows<Rows - 1>(num_rows, integers, stride, steps, strip, target);
    }
  }
}

inline void some_rows(int64_t num_rows, const uint8_t* integers, int64_t stride, const float* steps,
                      const Matrix& strip, const Target& target) {
  if constexpr (BLOCK_ROWS > 0) {
    if (num_rows > TILE_ROWS && target.residual) {
      return whole_block<true>(num_rows, integers, stride, steps, strip, target);
    } else if (num_rows > TILE_ROWS) {
      return whole_block<false>(num_rows, integers, stride, steps, strip, target);
    }
  }
  few_rows(num_rows, integers, stride, steps, strip, target);
}

// Multiplies at most MOST_ROWS rows, from `row` on, by one strip; the target begins at the rows'
// first column of the strip. Without steps their factor is left to the caller.
inline void product_tile(const IntegerRows& rows, int64_t row, int64_t num_rows,
                         const Matrix& matrix, int64_t number, const Target& target) {
  const uint8_t* integers = rows.integers + row * rows.stride;
  const float* steps = rows.steps ? rows.steps + row : ONES.values;
  const Matrix strip = strip_of(matrix, number);
  const int64_t count = strip.columns;
  if (count == TILE_COLUMNS) {
    some_rows(num_rows, integers, rows.stride, steps, strip, target);
    return;
  }
  const FilledUp filled_up(strip);
  alignas(64) float whole[MOST_ROWS * TILE_COLUMNS];  // with the columns that fill the strip up
  some_rows(num_rows, integers, rows.stride, steps, filled_up.view,
            {whole, TILE_COLUMNS, nullptr, nullptr});
  for (int64_t i = 0; i < num_rows; ++i) {
    for (int64_t j = 0; j < count; j += WIDTH) {
      Floats z = load(whole + i * TILE_COLUMNS + j);
      const int64_t place = i * target.stride + j;
      if (target.residual) {
        Floats residual = get(target.residual + place, count - j);
        if (target.residual_scales) {
          residual = residual * get(target.residual_scales + j, count - j);
        }
        z = z + residual;
      }
      put(target.y + place, z, count - j);
    }
  }
}

// Multiplies some of the refined rows by one strip, without their steps: [count][TILE_COLUMNS].
inline void refining_tile(const IntegerRows& rows, const uint8_t* integers,
                          const RefinedRows& refined, const Matrix& matrix,
                          const IntegerMatrix& weights, int64_t strip, float* terms) {
  Matrix plain = matrix;
  plain.rounded = weights;
  plain.bias = nullptr;
  const IntegerRows some{integers, rows.stride, nullptr, {}};
  product_tile(some, refined.numbers - rows.refined.numbers, refined.count, plain, strip,
               {terms, TILE_COLUMNS, nullptr, nullptr});
}

// Adds to a tile's refined rows, which are counted from its first, what refines them.
__attribute__((noinline)) inline void refine(const IntegerRows& rows, const float* steps,
                                             const RefinedRows& refined, const Matrix& matrix,
                                             int64_t strip, const Target& target) {
  alignas(64) float terms[MOST_ROWS * TILE_COLUMNS], others[MOST_ROWS * TILE_COLUMNS];
  refining_tile(rows, rows.rests, refined, matrix, matrix.rounded, strip, terms);
  const bool has_others = matrix.rests.panels != nullptr;
  if (has_others) refining_tile(rows, rows.firsts, refined, matrix, matrix.rests, strip, others);
  const int64_t columns = columns_of_strip(matrix, strip);
  const Floats unit = splat(1.0f / rows.units);
  for (int64_t i = 0; i < refined.count; ++i) {
    const int64_t row = refined.row(i);
    const Floats step = splat(steps ? steps[row] : 1.0f);
    for (int64_t j = 0; j < columns; j += WIDTH) {
      const int64_t at = i * TILE_COLUMNS + j;
      float* y = target.y + row * target.stride + j;
      Floats term = get(terms + at, columns - j) * unit;
      if (has_others) term = term + get(others + at, columns - j);
      put(y, get(y, columns - j) + term * step, columns - j);
    }
  }
}

// As product_tile, with what refines some of the rows.
inline void refined_tile(const IntegerRows& rows, int64_t row, int64_t num_rows,
                         const Matrix& matrix, int64_t strip, const Target& target) {
  product_tile(rows, row, num_rows, matrix, strip, target);
  if (rows.refined.count == 0) return;
  const RefinedRows refined = rows.refined.among(row, num_rows);
  if (refined.count == 0) return;
  refine(rows, rows.steps ? rows.steps + row : nullptr, refined, matrix, strip, target);
}

// Calls visit(row, count) for the tiles of rows.
template <typename Visit>
inline void for_each_tile(int64_t num_rows, const Visit& visit) {
  for (int64_t row = 0; row < num_rows; row += MOST_ROWS) {
    visit(row, num_rows - row < MOST_ROWS ? num_rows - row : MOST_ROWS);
  }
}

// The target of a tile, from that of all rows and columns.
inline Target part_of(const Target& target, int64_t row, int64_t strip) {
  const int64_t column = strip * TILE_COLUMNS, at = row * target.stride + column;
  return {target.y + at, target.stride, target.residual ? target.residual + at : nullptr,
          target.residual_scales ? target.residual_scales + column : nullptr};
}

// Multiplies all rows by all strips: a strip stays in the cache while the rows pass by.
inline void product(const IntegerRows& rows, int64_t num_rows, const Matrix& matrix,
                    const Target& target) {
  for (int64_t strip = 0; strip < num_strips(matrix); ++strip) {
    for_each_tile(num_rows, [&](int64_t row, int64_t count) {
      refined_tile(rows, row, count, matrix, strip, part_of(target, row, strip));
    });
  }
}

}  // namespace
