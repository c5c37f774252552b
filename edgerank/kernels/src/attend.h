// Attention without a mask's memory: the queries of one sequence to its keys, a block of keys after
// the other, with the running softmax of Milakov and Gimelshein (arXiv 1805.02867).
//
// Up to QUERIES queries lie transposed in the lanes of vectors, so that keys are read where they
// are and a softmax needs no sums across lanes:
//
//   logits [keys][QUERIES] = keys [keys][size] · queries [size][QUERIES]
//   output [queries][size] = weights [keys][QUERIES]ᵀ · values [keys][size]
//
// Included after a simd_*.h.
#pragma once

#include "float_tile.h"
#include "kernels.h"
#include "positions.h"
#if defined(__AVX512BF16__)
#include "bfloat16.h"
#else
#include "float_operands.h"
#endif
#include "rows.h"
#include "workspace.h"

namespace {

constexpr int64_t KEY_BLOCK = 512;  // at once: their logits and values stay in the cache
constexpr float UNSEEN = -3e38f;    // the logit of a key that a query does not see
constexpr float LEAST = -1e30f;     // below every logit that is seen

// output = output * carries + weightsᵀ · values, times factors.
struct OutputTile {
  const Operands::Element* weights;  // [depth][QUERIES]
  int64_t depth;                     // elements that hold the block's keys
  const Operands::Element* values;   // [depth][value_stride]
  int64_t value_stride;
  int64_t size;
  float* const* outputs;  // of the queries
  const float* carries;   // of the queries, or null where nothing is there yet
  const float* factors;   // of the queries

  template <int Rows, int Vectors>
  void at(int64_t row, int64_t column) const {
    Floats sums[Rows][Vectors];
    float_tile<Rows, Vectors>(weights + row, 1, QUERIES, values + column, value_stride, depth,
                              sums);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
      for (int j = 0; j < Vectors; ++j) {
        const int64_t first_column = column + j * WIDTH;
        const int64_t count = size - first_column < WIDTH ? size - first_column : WIDTH;
        float* to = outputs[row + i] + first_column;
        Floats z = sums[i][j];
        if (carries) z = multiply_add(load_first(to, count), splat(carries[row + i]), z);
        store_first(to, z * splat(factors[row + i]), count);
      }
    }
  }
};

// Queries in lanes, and how far their softmax is.
struct QueryBlock {
  alignas(64) float first_seen[QUERIES];  // as floats, to be compared in lanes
  alignas(64) float end_seen[QUERIES];
  alignas(64) float most[QUERIES];     // the largest logit so far
  alignas(64) float total[QUERIES];    // the sum of weights so far, relative to it
  alignas(64) float carries[QUERIES];  // what a new largest logit makes of the sum before
  alignas(64) float factors[QUERIES];
  const float* sources[QUERIES];
  float* outputs[QUERIES];
  int64_t first = 0;  // counted over queries and heads
  int64_t count = 0;
};

// Lays queries from `first` on, counted over queries and heads, into lanes.
inline void load_queries(const AttentionTask& task, int64_t first, QueryBlock& block,
                         float* transposed) {
  const int64_t all = task.num_queries * task.num_heads;
  block.first = first;
  block.count = all - first < QUERIES ? all - first : QUERIES;
  const int64_t lanes = (block.count + WIDTH - 1) / WIDTH * WIDTH;
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const int64_t item = first + (lane < block.count ? lane : block.count - 1);
    const int64_t query = item / task.num_heads, head = item % task.num_heads;
    block.sources[lane] = task.query + query * task.query_stride + head * task.head_size;
    block.outputs[lane] = task.output + query * task.output_stride + head * task.head_size;
    block.first_seen[lane] = static_cast<float>(task.first_seen[query]);
    block.end_seen[lane] = static_cast<float>(task.end_seen[query]);
    block.most[lane] = LEAST;
    block.total[lane] = 0;
  }
  const Floats scale = splat(task.scale);
  for (int64_t lane = 0; lane < lanes; lane += WIDTH) {
    int64_t d = 0;
    for (; d + WIDTH <= task.head_size; d += WIDTH) {
      transpose(block.sources + lane, d, scale, transposed + d * QUERIES + lane, QUERIES);
    }
    for (; d < task.head_size; ++d) {
      for (int64_t i = lane; i < lane + WIDTH; ++i) {
        transposed[d * QUERIES + i] = block.sources[i][d] * task.scale;
      }
    }
  }
}

// Turns the logits of keys from `begin` to `end` into weights, lane by lane.
inline void soften(QueryBlock& block, float* logits, int64_t begin, int64_t end) {
  for (int64_t lane = 0; lane < block.count; lane += WIDTH) {
    const Floats first = load(block.first_seen + lane), after = load(block.end_seen + lane);
    const int64_t common_begin = static_cast<int64_t>(largest_of(first));
    const int64_t common_end = static_cast<int64_t>(-largest_of(splat(0) - after));
    const Floats before = load(block.most + lane);
    Floats most = before;
    for (int64_t key = begin; key < end; ++key) {
      float* at = logits + (key - begin) * QUERIES + lane;
      Floats x = load(at);
      if (key < common_begin || key >= common_end) {
        x = within(first, splat(static_cast<float>(key)), after, x, splat(UNSEEN));
        store(at, x);
      }
      most = larger(most, x);
    }
    Floats sum = splat(0);
    for (int64_t key = begin; key < end; ++key) {
      float* at = logits + (key - begin) * QUERIES + lane;
      const Floats weight = exponential(load(at) - most);
      sum = sum + weight;
      store(at, weight);
    }
    const Floats carry = exponential(before - most);
    const Floats total = multiply_add(load(block.total + lane), carry, sum);
    store(block.most + lane, most);
    store(block.total + lane, total);
    store(block.carries + lane, carry);
    store(block.factors + lane, splat(1.0f) / total);
  }
}

// Keys that some query of a block sees.
struct Span {
  int64_t begin, end;
};

inline Span seen_by(const QueryBlock& block) {
  float begin = block.first_seen[0], end = block.end_seen[0];
  for (int64_t lane = 1; lane < block.count; ++lane) {
    if (block.first_seen[lane] < begin) begin = block.first_seen[lane];
    if (block.end_seen[lane] > end) end = block.end_seen[lane];
  }
  return {static_cast<int64_t>(begin), static_cast<int64_t>(end)};
}

// Calls visit(pointer to the first key, its place, count) for the runs between two places.
template <typename Visit>
inline void for_each_run(const AttentionTask& task, int64_t begin, int64_t end,
                         const Visit& visit) {
  int64_t start = 0;
  for (const KeyRun& run : task.runs) {
    const int64_t from = begin > start ? begin : start;
    const int64_t to = end < start + run.count ? end : start + run.count;
    if (from < to) visit(run.keys + (from - start) * task.key_stride, from, to - from);
    start += run.count;
  }
}

inline void attend_block(const AttentionTask& task, const DistanceTerms& terms, QueryBlock& block,
                         Operands& operands, const Operands::Element* queries, float* logits) {
  const Span seen = seen_by(block);
  const int64_t depth = Operands::elements(task.head_size);
  static const float ones[QUERIES] = {
#define EIGHT 1, 1, 1, 1, 1, 1, 1, 1
      EIGHT, EIGHT, EIGHT, EIGHT, EIGHT,
      EIGHT, EIGHT, EIGHT
#undef EIGHT
  };
  for (int64_t begin = seen.begin; begin < seen.end; begin += KEY_BLOCK) {
    const int64_t end = seen.end - begin < KEY_BLOCK ? seen.end : begin + KEY_BLOCK;
    for_each_run(task, begin, end, [&](const float* keys, int64_t place, int64_t count) {
      float* to_logits = logits + (place - begin) * QUERIES;
      const auto rows = operands.keys(keys, count);
      const ProductTile<Operands::Element> tile{rows.first, rows.stride, queries, QUERIES,
                                                depth,      to_logits,   QUERIES};
      cover(count, 0, block.count, tile);
      const LogitBlock products{block.first, block.count, keys, place, count, to_logits};
      terms.add_to(products);
      add_biases(task, products);
      operands.set_values(keys + task.value_offset, place - begin, count);
    });
    soften(block, logits, begin, end);
    const bool is_first = begin == seen.begin, is_last = end == seen.end;
    const auto values = operands.values();
    const OutputTile tile{operands.weights(logits, end - begin, block.count),
                          Operands::elements(end - begin),
                          values.first,
                          values.stride,
                          task.head_size,
                          block.outputs,
                          is_first ? nullptr : block.carries,
                          is_last ? block.factors : ones};
    cover(block.count, 0, task.head_size, tile);
  }
}

inline bool attend(const AttentionTask& task) {
  const int64_t all_keys = task.runs[0].count + task.runs[1].count;
  const int64_t num_keys = all_keys < KEY_BLOCK ? all_keys : KEY_BLOCK;
  Workspace space(Workspace::size<float>(task.head_size * QUERIES) +
                  Workspace::size<float>(num_keys * QUERIES) + Operands::size(task, num_keys) +
                  DistanceTerms::size(task, all_keys));
  if (!space) return false;
  float* queries = space.take<float>(task.head_size * QUERIES);
  float* logits = space.take<float>(num_keys * QUERIES);
  Operands operands(space, task, num_keys);
  const DistanceTerms terms(space, task, all_keys);
  QueryBlock block;
  for (int64_t first = 0; first < task.num_queries * task.num_heads; first += QUERIES) {
    load_queries(task, first, block, queries);
    attend_block(task, terms, block, operands, operands.queries(queries, block.count), logits);
  }
  return true;
}

}  // namespace
