// The row-wise operators: norm, rounding, products, and what follows a product.
// Included after a simd_*.h and a tile_*.h.
#pragma once

#include <cstring>

#include "kernels.h"
#include "mixing.h"
#include "product.h"
#include "rows.h"
#include "workspace.h"

namespace {

// Room for rows as integers and their steps, and for both terms of those that are refined.
struct IntegerBuffer {
  RowRange range;
  int64_t width, stride;
  RefinedRows refined;
  uint8_t *integers, *firsts, *rests;
  float *steps, *mixed;

  // An odd number of cache lines, so that rows below each other lie in different sets of a cache.
  static int64_t stride_of(int64_t width) { return (rounded_up(width, 64) / 64 | 1) * 64; }

  static int64_t integers_size(int64_t rows, int64_t width) {
    return Workspace::size<uint8_t>(rounded_up(rows, BLOCK_STEP) * stride_of(width));
  }
  // a tile's refined rows begin anywhere, and are read in multiples of BLOCK_STEP too
  static int64_t refined_size(const RefinedRows& refined, int64_t width) {
    return refined.count ? integers_size(refined.count + BLOCK_STEP - 1, width) : 0;
  }
  static int64_t mixed_size(const RowRange& range, int64_t width) {
    return range.mixed_block ? Workspace::size<float>(width) : 0;
  }
  static int64_t size(const RowRange& range, int64_t rows, const RefinedRows& refined,
                      int64_t width) {
    return integers_size(rows, width) + 2 * refined_size(refined, width) +
           Workspace::size<float>(rows) + mixed_size(range, width);
  }

  IntegerBuffer(Workspace& space, const RowRange& row_range, int64_t rows,
                const RefinedRows& refined_rows, int64_t row_width)
      : range(row_range),
        width(row_width),
        stride(stride_of(width)),
        refined(refined_rows),
        integers(space.take<uint8_t>(integers_size(rows, width))),
        firsts(space.take<uint8_t>(refined_size(refined, width))),
        rests(space.take<uint8_t>(refined_size(refined, width))),
        steps(space.take<float>(rows)),
        mixed(space.take<float>(range.mixed_block ? width : 0)) {}

  void set(int64_t row, const float* x) {
    if (range.mixed_block) {
      mix_blocks(x, width, range.mixed_block, mixed);
      x = mixed;
    }
    uint8_t* const whole = integers + row * stride;
    steps[row] = quantize(range, x, width, whole);
    const RefinedRows one = refined.among(row, 1);
    if (!one.count) return;
    const int64_t place = (one.numbers - refined.numbers) * stride;
    std::memcpy(firsts + place, whole, static_cast<size_t>(stride));
    quantize_rests(range, x, width, rests + place);
  }

  IntegerRows rows() const {
    return {integers, stride, steps, refined, firsts, rests, range.units()};
  }
};

// Rounds rows after their norm, if there is one. Normalised rows lie normed_stride apart, so that
// with 0 each takes the place of the one before.
inline void round_rows(IntegerBuffer& buffer, const Norm& norm, const float* x, int64_t num_rows,
                       float* normed, int64_t normed_stride) {
  const int64_t width = buffer.width;
  for (int64_t row = 0; row < num_rows; ++row) {
    const float* source = x + row * width;
    if (norm.kind != NormKind::none) {
      float* to = normed + row * normed_stride;
      normalize(norm, source, width, to);
      source = to;
    }
    buffer.set(row, source);
  }
}

inline bool linear(const Linear& op, const float* x, int64_t num_rows, const RefinedRows& refined,
                   const float* residual, float* y) {
  const Matrix& matrix = op.matrix;
  Workspace space(IntegerBuffer::size(op.range, num_rows, refined, matrix.depth));
  if (!space) return false;
  const BlockSetup setup;
  IntegerBuffer buffer(space, op.range, num_rows, refined, matrix.depth);
  round_rows(buffer, Norm{}, x, num_rows, nullptr, 0);
  product(buffer.rows(), num_rows, matrix, {y, matrix.columns, residual, op.residual_scales});
  return true;
}

// Normalises and rotates the heads at the beginning of a row.
inline void place_heads(const Heads& heads, float* row, const float* cosines, const float* sines) {
  for (int64_t head = 0; head < heads.count; ++head) {
    float* at = row + head * heads.size;
    if (heads.norm.kind != NormKind::none) normalize(heads.norm, at, heads.size, at);
    if (cosines) rotate(at, heads.size, cosines, sines);
  }
}

inline bool project(const Projection& op, const float* x, int64_t num_rows, const float* cosines,
                    const float* sines, const RefinedRows& refined, float* const outputs[2],
                    float* normed) {
  const int64_t width = op.width;
  Workspace space(IntegerBuffer::size(op.range, num_rows, refined, width) +
                  Workspace::size<float>(width));
  if (!space) return false;
  const BlockSetup setup;
  IntegerBuffer buffer(space, op.range, num_rows, refined, width);
  float* one_row = space.take<float>(width);
  round_rows(buffer, op.norm, x, num_rows, normed ? normed : one_row, normed ? width : 0);
  for (int part = 0; part < op.num_parts; ++part) {
    const Matrix& matrix = op.parts[part];
    float* y = outputs[part];
    product(buffer.rows(), num_rows, matrix, {y, matrix.columns, nullptr, nullptr});
    const Heads& heads = op.heads[part];
    const int64_t half = heads.size / 2;
    for (int64_t row = 0; row < num_rows && heads.count; ++row) {
      place_heads(heads, y + row * matrix.columns, cosines ? cosines + row * half : nullptr,
                  sines ? sines + row * half : nullptr);
    }
  }
  return true;
}

template <Activation activation>
inline Floats activated(Floats x) {
  if constexpr (activation == Activation::gelu) return gelu(x);
  if constexpr (activation == Activation::gelu_tanh) return gelu_tanh(x);
  if constexpr (activation == Activation::silu) return silu(x);
  return x;
}

// Calls change(x, place) for the vectors of a tile, where place is that in the tile.
template <typename Change>
inline void change_tile(float* y, int64_t stride, int64_t rows, int64_t columns,
                        const Change& change) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; j += WIDTH) {
      float* at = y + i * stride + j;
      put(at, change(get(at, columns - j), i * TILE_COLUMNS + j), columns - j);
    }
  }
}

// What lies between the two products of a feed-forward part, float32 [rows, inner]. The gate's
// products lack the steps of their rows, which the caller multiplies in after rounding.
template <Activation activation>
inline void expand(const FeedForward& op, const IntegerRows& rows, int64_t num_rows, float* inner) {
  const Target target{inner, op.up.columns, nullptr, nullptr};
  IntegerRows without_steps = rows;
  without_steps.steps = nullptr;
  for (int64_t strip = 0; strip < num_strips(op.up); ++strip) {
    const int64_t columns = columns_of_strip(op.up, strip);
    for_each_tile(num_rows, [&](int64_t row, int64_t count) {
      const Target part = part_of(target, row, strip);
      refined_tile(rows, row, count, op.up, strip, part);
      change_tile(part.y, part.stride, count, columns,
                  [](Floats x, int64_t) { return activated<activation>(x); });
    });
    if (!op.is_gated) continue;
    for_each_tile(num_rows, [&](int64_t row, int64_t count) {
      alignas(64) float factors[MOST_ROWS * TILE_COLUMNS];
      refined_tile(without_steps, row, count, op.gate, strip,
                   {factors, TILE_COLUMNS, nullptr, nullptr});
      const Target part = part_of(target, row, strip);
      change_tile(part.y, part.stride, count, columns,
                  [&](Floats x, int64_t place) { return x * load(factors + place); });
    });
  }
}

inline bool feed_forward(const FeedForward& op, const float* x, int64_t num_rows,
                         const RefinedRows& refined, const float* residual, float* y) {
  const int64_t width = op.up.depth, inner_width = op.up.columns;
  const bool keeps_normed = !residual && op.adds_normed;
  Workspace space(IntegerBuffer::size(op.range, num_rows, refined, width) +
                  IntegerBuffer::size(op.inner_range, num_rows, refined, inner_width) +
                  Workspace::size<float>(keeps_normed ? num_rows * width : width) +
                  Workspace::size<float>(num_rows * inner_width));
  if (!space) return false;
  const BlockSetup setup;
  IntegerBuffer outer(space, op.range, num_rows, refined, width);
  IntegerBuffer inner(space, op.inner_range, num_rows, refined, inner_width);
  float* normed = space.take<float>(keeps_normed ? num_rows * width : width);
  float* between = space.take<float>(num_rows * inner_width);
  round_rows(outer, op.norm, x, num_rows, normed, keeps_normed ? width : 0);
  switch (op.activation) {
    case Activation::none:
      expand<Activation::none>(op, outer.rows(), num_rows, between);
      break;
    case Activation::gelu:
      expand<Activation::gelu>(op, outer.rows(), num_rows, between);
      break;
    case Activation::gelu_tanh:
      expand<Activation::gelu_tanh>(op, outer.rows(), num_rows, between);
      break;
    case Activation::silu:
      expand<Activation::silu>(op, outer.rows(), num_rows, between);
      break;
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    inner.set(row, between + row * inner_width);
    if (op.is_gated) inner.steps[row] *= outer.steps[row];
  }
  const float* added = residual;
  if (keeps_normed) added = op.norm.kind == NormKind::none ? x : normed;
  product(inner.rows(), num_rows, op.down, {y, op.down.columns, added, op.residual_scales});
  return true;
}

}  // namespace
