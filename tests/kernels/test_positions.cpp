#include <algorithm>
#include <cmath>

#include "check.h"

namespace {

enum class Added { by_tables, biases, both };

struct Shape {
  int64_t size, first_position, queries, keys;
};

// Buckets of distances from -reach to reach that rise by none, one or several.
std::vector<int32_t> rising_buckets(int64_t reach, int64_t percent_of_ones, Random& random) {
  std::vector<int32_t> buckets(static_cast<size_t>(2 * reach + 1));
  for (size_t i = 1; i < buckets.size(); ++i) {
    const bool is_one = random.below(100) < percent_of_ones;
    buckets[i] = buckets[i - 1] + static_cast<int32_t>(is_one ? 1 : 3 * random.below(2));
  }
  return buckets;
}

void test_one(const Kernels& kernels, const Shape& shape, Added added, int64_t percent_of_ones,
              Random& random) {
  const bool has_tables = added != Added::biases, has_biases = added != Added::by_tables;
  const int64_t size = shape.size, key_stride = 2 * size;
  const int64_t reach = std::max(shape.keys, shape.first_position + shape.queries);
  const std::vector<int32_t> buckets = rising_buckets(reach, percent_of_ones, random);
  const int64_t rows = buckets.back() + 1, stride = rows + 16;
  Guarded queries = random.normals(shape.queries * size);
  Guarded keys = random.normals(shape.keys * key_stride);
  Guarded key_table = random.normals(size * stride, 0, 0.3f);
  Guarded query_table = random.normals(size * stride, 0, 0.3f);
  // they end with the largest distance
  const int64_t first_distance = shape.first_position - (shape.keys - 1);
  Guarded biases = random.normals(shape.queries + shape.keys - 1, 0, 2);
  Guarded output(queries.size());
  const std::vector<int32_t> first(static_cast<size_t>(shape.queries));
  const std::vector<int32_t> end(first.size(), static_cast<int32_t>(shape.keys));

  AttentionTask task;
  task.query = queries.data();
  task.query_stride = task.output_stride = task.head_size = task.value_offset = size;
  task.num_queries = shape.queries;
  task.num_heads = 1;
  task.scale = 0.3f;
  task.runs[0] = {keys.data(), shape.keys};
  task.key_stride = key_stride;
  task.first_seen = first.data();
  task.end_seen = end.data();
  task.output = output.data();
  if (has_tables) {
    task.tables = {key_table.data(), query_table.data(), stride, buckets.data() + reach};
  }
  if (has_biases) task.biases = biases.data() - first_distance;
  task.first_position = shape.first_position;
  kernels.attend(task);

  const Operand operand(kernels);
  std::vector<double> weights(static_cast<size_t>(shape.keys));
  for (int64_t i = 0; i < shape.queries; ++i) {
    double most = -1e300, total = 0;
    for (int64_t j = 0; j < shape.keys; ++j) {
      const int64_t distance = shape.first_position + i - j;
      const int64_t row = buckets[static_cast<size_t>(reach + distance)];
      double logit = has_biases ? double(biases[distance - first_distance]) : 0;
      for (int64_t d = 0; d < size; ++d) {
        const float query = queries[i * size + d], key = keys[j * key_stride + d];
        logit += operand.is_bfloat16 ? operand(query * task.scale) * operand(key)
                                     : double(task.scale) * double(query) * double(key);
        if (!has_tables) continue;
        logit += double(query) * double(key_table[d * stride + row]) +
                 double(key) * double(query_table[d * stride + row]);
      }
      weights[static_cast<size_t>(j)] = logit;
      most = std::max(most, logit);
    }
    for (double& weight : weights) total += weight = std::exp(weight - most);
    for (int64_t d = 0; d < size; ++d) {
      double value = 0, largest = 0;
      for (int64_t j = 0; j < shape.keys; ++j) {
        const double from = operand(keys[j * key_stride + size + d]);
        value += weights[static_cast<size_t>(j)] / total * from;
        largest = std::max(largest, std::fabs(from));
      }
      const double number = double(output[i * size + d]);
      expect(std::fabs(number - value) <= (3e-5 + operand.doubt()) * largest,
             "attention by distances (%d), %lld x %lld from %lld to %lld, query %lld, column %lld: "
             "%.9g, not %.9g",
             static_cast<int>(added), (long long)shape.queries, (long long)size,
             (long long)shape.first_position, (long long)shape.keys, (long long)i, (long long)d,
             number, value);
    }
  }
}

}  // namespace

void test_positions(const Kernels& kernels) {
  Random random(5);
  for (const Added added : {Added::by_tables, Added::biases, Added::both}) {
    for (const int64_t percent_of_ones : {100, 95, 50, 0}) {
      for (const int64_t size : {1, 7, 32, 64}) {
        const int64_t keys = 1 + random.below(150), queries = 1 + random.below(150);
        const Shape shape{size, random.below(3) * 40, queries, keys};
        test_one(kernels, shape, added, percent_of_ones, random);
      }
    }
    test_one(kernels, {16, 0, 64, 64}, added, 100, random);
    test_one(kernels, {16, 0, 1, 1}, added, 100, random);
    // several blocks of keys and of queries
    test_one(kernels, {16, 500, 100, 600}, added, 97, random);
  }
}
