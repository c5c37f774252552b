// What logits gain from distances, in MPNet and in DeBERTa. Included after a simd_*.h.
#pragma once

#include "float_tile.h"
#include "kernels.h"
#include "rows.h"
#include "workspace.h"

namespace {

constexpr int64_t QUERIES = 64;  // at once, in lanes of vectors

// Queries of a task and keys of its sequence, whose logits [keys][QUERIES] are there.
struct LogitBlock {
  int64_t first_query;  // of the task's
  int64_t num_queries;
  const float* keys;
  int64_t first_key;  // its position
  int64_t num_keys;
  float* logits;
};

// MPNet (arXiv 2004.09297): logit of query i and key j += biases[i - j]. The distances from queries
// in lanes to a key are consecutive.
inline void add_biases(const AttentionTask& task, const LogitBlock& block) {
  if (!task.biases) return;
  const int64_t first = task.first_position + block.first_query - block.first_key;
  for (int64_t key = 0; key < block.num_keys; ++key) {
    const float* biases = task.biases + first - key;
    float* logits = block.logits + key * QUERIES;
    const auto add = [&](int64_t lane, Floats z) { store(logits + lane, load(logits + lane) + z); };
    for_each_vector(
        block.num_queries, [&](int64_t lane) { add(lane, load(biases + lane)); },
        [&](int64_t lane, int64_t count) { add(lane, load_first(biases + lane, count)); });
  }
}

// Disentangled attention (DeBERTa, arXiv 2006.03654):
//
//   logit of query i and key j += q_i · K[b(i - j)] + k_j · Q[b(i - j)]
//
// where K and Q are tables of positions, and b the row of theirs that a distance falls into, which
// never falls as distances grow. Rows of queries and keys are multiplied with the columns (the
// tables lie transposed) that their distances reach, and no others. Most of what consecutive
// distances read lies side by side then, since each short distance has a row of its own.
class DistanceTerms {
 public:
  // Bytes of a workspace.
  static int64_t size(const AttentionTask& task, int64_t num_keys) {
    if (!task.tables.buckets) return 0;
    const Layout layout(task, num_keys);
    return Workspace::size<int32_t>(layout.num_distances) +
           Workspace::size<bool>(layout.num_distances) + Workspace::size<float>(layout.products());
  }

  DistanceTerms(Workspace& space, const AttentionTask& task, int64_t num_keys) : task_(task) {
    if (!task.tables.buckets) return;
    const Layout layout(task, num_keys);
    least_ = layout.least;
    stride_ = layout.stride;
    columns_ = space.take<int32_t>(layout.num_distances);
    is_run_ = space.take<bool>(layout.num_distances);
    products_ = space.take<float>(layout.products()) + WIDTH;
    first_row_ = layout.first_row;
    const int64_t last = layout.num_distances - WIDTH;  // of those that occur, exclusive
    for (int64_t i = WIDTH; i < last; ++i) {
      columns_[i] = task.tables.buckets[least_ + i] - static_cast<int32_t>(first_row_);
    }
    for (int64_t i = WIDTH; i-- > 0;) columns_[i] = columns_[i + 1] - 1;
    for (int64_t i = last; i < layout.num_distances; ++i) columns_[i] = columns_[i - 1] + 1;
    int64_t run = 1;
    for (int64_t i = layout.num_distances - 1; i-- > 0;) {
      run = columns_[i + 1] == columns_[i] + 1 ? run + 1 : 1;
      is_run_[i] = run >= WIDTH;
    }
  }

  void add_to(const LogitBlock& block) const {
    if (!task_.tables.buckets) return;
    add_of_keys(block);
    add_of_queries(block);
  }

 private:
  // Distances that occur, and a vector more to each side, so that whole vectors can be read.
  struct Layout {
    int64_t least, num_distances;
    int64_t first_row;  // of the tables' rows that occur: column 0 of products
    int64_t stride;     // of rows of products

    Layout(const AttentionTask& task, int64_t num_keys) {
      const int64_t first = task.first_position - (num_keys - 1);
      const int64_t last = task.first_position + task.num_queries - 1;
      least = first - WIDTH;
      num_distances = last + WIDTH - least + 1;
      first_row = task.tables.buckets[first];
      // what one row reads beyond its columns lies between it and the next or last
      stride = rounded_up(task.tables.buckets[last] - first_row + 1, WIDTH) + WIDTH;
    }

    int64_t products() const { return WIDTH + QUERIES * stride; }
  };

  int64_t column(int64_t distance) const { return columns_[distance - least_]; }

  // products = rows · the table's columns for distances from `least` to `most`
  void multiply(const float* rows, int64_t row_stride, int64_t num_rows, const float* table,
                int64_t least, int64_t most, float* products) const {
    const ProductTile<float> tile{
        rows,     row_stride, table + first_row_, task_.tables.stride, task_.head_size,
        products, stride_};
    cover(num_rows, column(least), column(most) + 1, tile);
  }

  // Of a row of products, those for `distance` and the WIDTH - 1 after it.
  Floats products_at(const float* products, int64_t distance) const {
    const int32_t* columns = columns_ + (distance - least_);
    return is_run_[distance - least_] ? load(products + *columns) : gather(products, columns);
  }

  // k_j · Q[b(i - j)]: a key's distances to queries in lanes are consecutive
  void add_of_keys(const LogitBlock& block) const {
    const int64_t first = task_.first_position + block.first_query;
    for (int64_t row = 0; row < block.num_keys; row += FLOAT_ROWS) {
      const int64_t left = block.num_keys - row, num_rows = left < FLOAT_ROWS ? left : FLOAT_ROWS;
      const int64_t key = block.first_key + row;
      multiply(block.keys + row * task_.key_stride, task_.key_stride, num_rows,
               task_.tables.queries, first - (key + num_rows - 1),
               first + block.num_queries - 1 - key, products_);
      for (int64_t i = 0; i < num_rows; ++i) {
        for (int64_t lane = 0; lane < block.num_queries; lane += WIDTH) {
          float* at = block.logits + (row + i) * QUERIES + lane;
          const Floats term = products_at(products_ + i * stride_, first + lane - (key + i));
          store(at, load(at) + term);
        }
      }
    }
  }

  // q_i · K[b(i - j)]: a query's distances to keys in falling order are consecutive; they become
  // lanes a square at a time
  void add_of_queries(const LogitBlock& block) const {
    const int64_t first = task_.first_position + block.first_query;
    const int64_t last_key = block.first_key + block.num_keys - 1;
    for (int64_t row = 0; row < block.num_queries; row += FLOAT_ROWS) {
      const int64_t left = block.num_queries - row,
                    num_rows = left < FLOAT_ROWS ? left : FLOAT_ROWS;
      multiply(task_.query + (block.first_query + row) * task_.query_stride, task_.query_stride,
               num_rows, task_.tables.keys, first + row - last_key,
               first + row + num_rows - 1 - block.first_key, products_ + row * stride_);
    }
    for (int64_t lane = 0; lane < block.num_queries; lane += WIDTH) {
      for (int64_t key = 0; key < block.num_keys; key += WIDTH) {
        alignas(64) float gathered[WIDTH * WIDTH], square[WIDTH * WIDTH];
        const float* rows[WIDTH];
        for (int64_t i = 0; i < WIDTH; ++i) {
          const int64_t query = lane + i < block.num_queries ? lane + i : block.num_queries - 1;
          const int64_t distance = first + query - (block.first_key + key + WIDTH - 1);
          const float* products = products_ + query * stride_;
          rows[i] = products + column(distance);
          if (!is_run_[distance - least_]) {
            store(gathered + i * WIDTH, products_at(products, distance));
            rows[i] = gathered + i * WIDTH;
          }
        }
        transpose(rows, 0, splat(1), square, WIDTH);
        for (int64_t i = 0; i < WIDTH && key + i < block.num_keys; ++i) {
          float* at = block.logits + (key + i) * QUERIES + lane;
          store(at, load(at) + load(square + (WIDTH - 1 - i) * WIDTH));
        }
      }
    }
  }

  const AttentionTask& task_;
  int64_t least_ = 0, stride_ = 0, first_row_ = 0;
  int32_t* columns_ = nullptr;  // of distances from least_ on; growing by one beyond those in use
  bool* is_run_ = nullptr;  // whether the columns of WIDTH distances from one on are consecutive
  float* products_ = nullptr;
};

}  // namespace
