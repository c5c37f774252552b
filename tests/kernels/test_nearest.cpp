#include <algorithm>
#include <cmath>

#include "check.h"

namespace {

// Integers that end where the next page cannot be touched.
template <typename Integer>
class GuardedIntegers {
 public:
  GuardedIntegers(Random& random, int64_t count, int64_t least, int64_t most)
      : memory_((count * bytes + 3) / 4),
        data_(reinterpret_cast<Integer*>(memory_.data() + memory_.size()) - count) {
    for (int64_t i = 0; i < count; ++i) {
      data_[i] = static_cast<Integer>(least + random.below(most - least + 1));
    }
  }

  const Integer* data() const { return data_; }

 private:
  static constexpr int64_t bytes = sizeof(Integer);
  Guarded memory_;
  Integer* data_;
};

struct Dot {
  double value = 0, sizes = 0, sum = 0;  // of products, of their sizes, and of the integers' sizes
};

template <typename Integer>
Dot dot(const Integer* integers, const float* query, int64_t width) {
  Dot found;
  for (int64_t k = 0; k < width; ++k) {
    const double term = double(integers[k]) * double(query[k]);
    found.value += term;
    found.sizes += std::fabs(term);
    found.sum += std::fabs(double(integers[k]));
  }
  return found;
}

struct Shape {
  int64_t width, num_query;
};

void test_one(const Kernels& kernels, const Shape& shape, Random& random) {
  const int64_t num_parts = 1 + random.below(5), width = shape.width;
  std::vector<int64_t> starts, ends;
  int64_t tokens = 0;
  for (int64_t part = 0; part < num_parts; ++part) {
    starts.push_back(tokens);
    const int64_t lengths[] = {0, 1, 31, 32, 33, 48, 49, 110, random.below(20)};
    tokens += lengths[random.below(9)];
    ends.push_back(tokens);
  }
  const GuardedIntegers<int8_t> vectors(random, tokens * width, -127, 127);
  const GuardedIntegers<int32_t> token_ids(random, tokens, 0, 4);
  const GuardedIntegers<int32_t> query_ids(random, shape.num_query, -1, 4);
  Guarded scales(tokens), shares(shape.num_query);
  for (int64_t i = 0; i < tokens; ++i) scales[i] = random.uniform(0.001f, 0.01f);
  for (int64_t i = 0; i < shape.num_query; ++i) shares[i] = random.uniform(0, 1);
  const Guarded query = make_rows(random, shape.num_query, width, 1e20f);
  Guarded nearest(num_parts, -1), exact(num_parts, -1);

  NearestTask task;
  task.vectors = vectors.data();
  task.scales = scales.data();
  task.token_ids = token_ids.data();
  task.starts = starts.data();
  task.ends = ends.data();
  task.query = query.data();
  task.shares = shares.data();
  task.query_ids = random.coin() ? query_ids.data() : nullptr;
  task.width = width;
  task.num_query = shape.num_query;
  task.nearest_of_none = -0.5f;
  task.saturation_base = 0.6f;
  task.saturation_slope = 0.01f;
  task.nearest = nearest.data();
  task.exact = exact.data();
  const int64_t first = random.below(num_parts);
  expect(kernels.nearest(task, first, num_parts), "nearest: it failed");
  for (int64_t part = 0; part < first; ++part) {
    expect(nearest[part] == -1 && exact[part] == -1, "nearest: another part was written");
  }

  for (int64_t part = first; part < num_parts; ++part) {
    const auto at = static_cast<size_t>(part);
    double sum = 0, error = 0, matches = 0;
    for (int64_t i = 0; i < shape.num_query; ++i) {
      const float* token = query.data() + i * width;
      double peak = 0, most = -INFINITY, doubt = 0, count = 0;
      for (int64_t k = 0; k < width; ++k) peak = std::max(peak, std::fabs(double(token[k])));
      for (int64_t row = starts[at]; row < ends[at]; ++row) {
        const Dot found = dot(vectors.data() + row * width, token, width);
        most = std::max(most, found.value * double(scales[row]));
        // a unit of the second of two terms, if the query is rounded to these
        const double rounding = found.sum * peak / 127 / 256;
        doubt = std::max(doubt, (1e-6 * found.sizes + 1.01 * rounding) * double(scales[row]));
        count += token_ids.data()[row] == query_ids.data()[i];
      }
      const double share = double(shares[i]), length = double(ends[at] - starts[at]);
      sum += share * (starts[at] == ends[at] ? -0.5 : most);
      error += share * doubt + 1e-6 * std::fabs(starts[at] == ends[at] ? 0.5 : most);
      matches += share * count / (count + 0.6 + 0.01 * length);
    }
    expect(std::fabs(double(nearest[part]) - sum) <= error + 1e-30,
           "nearest: %g instead of %g, width %d, %d tokens of the query", double(nearest[part]),
           sum, int(width), int(shape.num_query));
    const double expected = task.query_ids ? matches : -1;
    expect(std::fabs(double(exact[part]) - expected) <= 1e-5 * (1 + matches),
           "exact: %g instead of %g", double(exact[part]), expected);
    digest(nearest[part]);
    digest(exact[part]);
  }
}

void test_pooled(const Kernels& kernels, int64_t width, Random& random) {
  const int64_t count = 1 + random.below(9);
  const GuardedIntegers<int16_t> vectors(random, count * width, -32767, 32767);
  Guarded scales(count), products(count, -1);
  for (int64_t i = 0; i < count; ++i) scales[i] = random.uniform(1e-5f, 1e-4f);
  const Guarded query = random.normals(width);
  std::vector<int64_t> places;
  for (int64_t i = 0; i < count; ++i) places.push_back(random.below(count));
  PooledTask task{vectors.data(), scales.data(), places.data(),
                  query.data(),   width,         products.data()};
  expect(kernels.pooled(task, 1, count), "pooled: it failed");
  expect(products[0] == -1, "pooled: another part was written");
  for (int64_t i = 1; i < count; ++i) {
    const int64_t place = places[static_cast<size_t>(i)];
    const Dot found = dot(vectors.data() + place * width, query.data(), width);
    const double scale = double(scales[place]);
    expect(std::fabs(double(products[i]) - found.value * scale) <= 1e-6 * found.sizes * scale,
           "pooled: %g instead of %g, width %d", double(products[i]), found.value * scale,
           int(width));
    digest(products[i]);
  }
}

}  // namespace

void test_nearest(const Kernels& kernels) {
  Random random(8);
  const int64_t widths[] = {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 48, 63, 64, 65, 96, 100, 128, 200};
  for (const int64_t width : widths) {
    for (const int64_t num_query : {0, 1, 2, 5, 15, 16, 17, 31, 32, 33, 48, 70}) {
      test_one(kernels, {width, num_query}, random);
    }
    for (int i = 0; i < 4; ++i) test_pooled(kernels, width, random);
  }
}
