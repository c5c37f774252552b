// A query's tokens as integers of two terms, for AMX: the tokens of documents are integers already.
// A product is exact but for the rounding of the query's second term, which is at most 1/256 of a
// step of the first.
// Included after a tile_*.h that has blocks.
#pragma once

#include "kernels.h"
#include "product.h"
#include "rows.h"
#include "workspace.h"

namespace {

constexpr int64_t QUERY_STEP = PANEL_COLUMNS;  // a panel of first terms, and one of second ones
constexpr int64_t COMPARED_ROWS = BLOCK_ROWS;

class QueryTokens {
 public:
  // Bytes of a workspace.
  static int64_t size(const NearestTask& task) {
    const int64_t depth = padded_depth(task.width);
    const int64_t columns = 2 * rounded_up(task.num_query, QUERY_STEP);
    return Workspace::size<int8_t>(depth * columns) + Workspace::size<int32_t>(columns) +
           Workspace::size<float>(columns / 2) + Workspace::size<uint8_t>(COMPARED_ROWS * depth) +
           Workspace::size<int32_t>(COMPARED_ROWS * TILE_COLUMNS);
  }

  QueryTokens(Workspace& space, const NearestTask& task)
      : task_(task),
        depth_(padded_depth(task.width)),
        columns_(2 * rounded_up(task.num_query, QUERY_STEP)),
        panels_(space.take<int8_t>(depth_ * columns_)),
        corrections_(space.take<int32_t>(columns_)),
        steps_(space.take<float>(columns_ / 2)),
        rows_(space.take<uint8_t>(COMPARED_ROWS * depth_)),
        sums_(space.take<int32_t>(COMPARED_ROWS * TILE_COLUMNS)) {
    std::memset(panels_, 0, static_cast<size_t>(depth_ * columns_));
    std::memset(corrections_, 0, static_cast<size_t>(columns_) * sizeof(int32_t));
    for (int64_t i = 0; i < task.num_query; ++i) {
      const float* token = task.query + i * task.width;
      const int64_t column = i / PANEL_COLUMNS * 2 * PANEL_COLUMNS + i % PANEL_COLUMNS;
      steps_[i] = quantize(RANGE, token, task.width, rows_);
      set_column(column);
      quantize_rests(RANGE, token, task.width, rows_);
      set_column(column + PANEL_COLUMNS);
    }
    std::memset(rows_, 0, static_cast<size_t>(COMPARED_ROWS * depth_));
  }

  // Raises `most` to the dot products with rows from `first` on, in steps of the query's tokens.
  void raise(int64_t first, int64_t count, float* most) {
    const int64_t width = task_.width;
    for (int64_t row = 0; row < count; ++row) {
      load_row(task_.vectors + (first + row) * width, width, rows_ + row * depth_);
    }
    const Floats unit = splat(1.0f / RANGE.units());
    for (int64_t column = 0; column < columns_; column += 2 * PANEL_COLUMNS) {
      half_block(rows_, depth_, panels_ + column * depth_, depth_, sums_);
      const Integers correction = load_integers(corrections_ + column);
      const Integers rest_correction = load_integers(corrections_ + column + PANEL_COLUMNS);
      Floats most_of = load(most + column / 2);
      for (int64_t row = 0; row < count; ++row) {
        const int32_t* sums = sums_ + row * TILE_COLUMNS;
        const Floats whole = to_floats(subtract(load_integers(sums), correction));
        const Floats rest =
            to_floats(subtract(load_integers(sums + PANEL_COLUMNS), rest_correction));
        const Floats scale = splat(task_.scales[first + row]);
        most_of = larger(multiply_add(rest, unit, whole) * scale, most_of);
      }
      store(most + column / 2, most_of);
    }
  }

  float step(int64_t token) const { return steps_[token]; }

 private:
  static constexpr RowRange RANGE{};  // symmetric

  // Makes a column of the integers that lie in the first row.
  void set_column(int64_t column) {
    int8_t* to =
        panels_ + column / PANEL_COLUMNS * PANEL_COLUMNS * depth_ + column % PANEL_COLUMNS * 4;
    int32_t sum = 0;
    for (int64_t k = 0; k < task_.width; ++k) {
      const int integer = rows_[k] - RANGE.zero_point;
      to[k / 4 * 4 * PANEL_COLUMNS + k % 4] = static_cast<int8_t>(integer);
      sum += integer;
    }
    corrections_[column] = sum * ZERO_POINT;
  }

  // Bytes without a sign, as the instruction takes them.
  static void load_row(const int8_t* __restrict vector, int64_t width, uint8_t* __restrict row) {
    for (int64_t k = 0; k < width; ++k) row[k] = static_cast<uint8_t>(vector[k] + ZERO_POINT);
  }

  static constexpr int ZERO_POINT = 128;  // of documents' vectors

  const BlockSetup setup_;
  const NearestTask& task_;
  int64_t depth_;
  int64_t columns_;
  int8_t* panels_;        // [columns / 16][depth / 4][16][4]
  int32_t* corrections_;  // of the columns, for the zero point
  float* steps_;          // of the query's tokens
  uint8_t* rows_;
  int32_t* sums_;
};

}  // namespace
