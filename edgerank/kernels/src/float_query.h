// A query's tokens as floats, and the tokens of documents likewise, some rows at a time.
// Included after a simd_*.h and a tile_*.h.
#pragma once

#include "float_tile.h"
#include "kernels.h"
#include "rows.h"
#include "workspace.h"

namespace {

constexpr int64_t QUERY_STEP = WIDTH;  // tokens are filled up with zeros to a multiple of it
constexpr int64_t COMPARED_ROWS = 48;  // at once: as floats they stay in the first-level cache

class QueryTokens {
 public:
  // Bytes of a workspace.
  static int64_t size(const NearestTask& task) {
    const int64_t padded = rounded_up(task.num_query, QUERY_STEP);
    return Workspace::size<float>(task.width * padded) +
           Workspace::size<float>(COMPARED_ROWS * task.width) +
           Workspace::size<float>(COMPARED_ROWS * padded);
  }

  QueryTokens(Workspace& space, const NearestTask& task)
      : task_(task),
        padded_(rounded_up(task.num_query, QUERY_STEP)),
        query_(space.take<float>(task.width * padded_)),
        rows_(space.take<float>(COMPARED_ROWS * task.width)),
        products_(space.take<float>(COMPARED_ROWS * padded_)) {
    for (int64_t k = 0; k < task.width; ++k) {
      for (int64_t i = 0; i < padded_; ++i) {
        query_[k * padded_ + i] = i < task.num_query ? task.query[i * task.width + k] : 0;
      }
    }
  }

  // Raises `most` to the dot products with rows from `first` on.
  void raise(int64_t first, int64_t count, float* most) {
    load_rows(task_.vectors + first * task_.width, count * task_.width);
    multiply(count);
    for (int64_t i = 0; i < padded_; i += WIDTH) {
      Floats most_of = load(most + i);
      for (int64_t row = 0; row < count; ++row) {
        const Floats scale = splat(task_.scales[first + row]);
        most_of = larger(load(products_ + row * padded_ + i) * scale, most_of);
      }
      store(most + i, most_of);
    }
  }

  float step(int64_t) const { return 1; }

 private:
  void load_rows(const int8_t* vectors, int64_t count) {
    for_each_vector(
        count, [&](int64_t k) { store(rows_ + k, load(vectors + k)); },
        [&](int64_t k, int64_t rest) {
          for (int64_t i = k; i < k + rest; ++i) rows_[i] = vectors[i];
        });
  }

  void multiply(int64_t count) {
    const int64_t width = task_.width;
    const ProductTile<float> tile{rows_, width, query_, padded_, width, products_, padded_};
    const int64_t pairs = padded_ / (2 * WIDTH) * 2 * WIDTH;
    cover(count, 0, pairs, tile);
    if (pairs < padded_) {  // one vector is left: twice the rows keep as many sums in flight
      cover_rows<1, ProductTile<float>, 2 * FLOAT_ROWS>(0, count, pairs, tile);
    }
  }

  const NearestTask& task_;
  int64_t padded_;
  float* query_;  // [width][padded]
  float* rows_;   // [COMPARED_ROWS][width]
  float* products_;
};

}  // namespace
