// A query compared with stored documents: for each of its tokens, the nearest token of a part of a
// document, and the number of equal ones; and dot products of pooled vectors.
// Included after a simd_*.h and a tile_*.h.
#pragma once

#include <cmath>

#include "kernels.h"
#if defined(BLOCK_ROWS) && BLOCK_ROWS > 0
#include "integer_query.h"
#else
#include "float_query.h"
#endif
#include "rows.h"
#include "workspace.h"

namespace {

// The sum of share * n / (n + saturation) over the query's tokens, of which a part has n each.
inline float exact_matches(const NearestTask& task, int64_t part, float* counts) {
  const int64_t start = task.starts[part], end = task.ends[part];
  for (int64_t i = 0; i < task.num_query; ++i) counts[i] = 0;
  for (int64_t token = start; token < end; ++token) {
    const int32_t id = task.token_ids[token];
    for (int64_t i = 0; i < task.num_query; ++i) counts[i] += float(id == task.query_ids[i]);
  }
  const float saturation = task.saturation_base + task.saturation_slope * float(end - start);
  float sum = 0;
  for (int64_t i = 0; i < task.num_query; ++i) {
    sum += task.shares[i] * (counts[i] / (counts[i] + saturation));
  }
  return sum;
}

inline bool nearest(const NearestTask& task, int64_t first, int64_t last) {
  const int64_t padded = rounded_up(task.num_query, QUERY_STEP);
  Workspace space(QueryTokens::size(task) + 2 * Workspace::size<float>(padded));
  if (!space) return false;
  QueryTokens query(space, task);
  float* most = space.take<float>(padded);  // of each token of the query, the largest product
  float* counts = space.take<float>(padded);
  for (int64_t part = first; part < last; ++part) {
    const int64_t start = task.starts[part], end = task.ends[part];
    for (int64_t i = 0; i < padded; ++i) most[i] = -INFINITY;
    for (int64_t row = start; row < end; row += COMPARED_ROWS) {
      query.raise(row, end - row < COMPARED_ROWS ? end - row : COMPARED_ROWS, most);
    }
    float sum = 0;
    for (int64_t i = 0; i < task.num_query; ++i) {
      sum += task.shares[i] * (start == end ? task.nearest_of_none : most[i] * query.step(i));
    }
    task.nearest[part] = sum;
    if (task.query_ids) task.exact[part] = exact_matches(task, part, counts);
  }
  return true;
}

inline bool pooled(const PooledTask& task, int64_t first, int64_t last) {
  const int64_t width = task.width;
  for (int64_t i = first; i < last; ++i) {
    const int16_t* vector = task.vectors + task.places[i] * width;
    float rest = 0;
    for (int64_t k = whole_lanes(width); k < width; ++k) rest += float(vector[k]) * task.query[k];
    const float sum = sum_in_lanes(width, [&](int64_t k, Floats total) {
      return multiply_add(load(vector + k), load(task.query + k), total);
    });
    task.products[i] = (rest + sum) * task.scales[task.places[i]];
  }
  return true;
}

}  // namespace
