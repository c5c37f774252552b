#include <algorithm>
#include <cmath>

#include "check.h"

namespace {

enum class Seen { all, causal, window, parts, ranges, one };

struct Shape {
  int64_t size, sharing, queries, keys, past;
};

// For each query, the keys that it sees; there is one at least.
void set_seen(Seen seen, const Shape& shape, Random& random, std::vector<int32_t>& first,
              std::vector<int32_t>& end) {
  const auto keys = static_cast<int32_t>(shape.keys);
  for (size_t i = 0; i < first.size(); ++i) {
    const auto own = std::min(keys - 1, static_cast<int32_t>(shape.past) + static_cast<int32_t>(i));
    first[i] = 0;
    end[i] = keys;
    switch (seen) {
      case Seen::all:
        break;
      case Seen::causal:
        end[i] = own + 1;
        break;
      case Seen::window:
        first[i] = std::max(0, own - 7);
        end[i] = std::min(keys, own + 8);
        break;
      case Seen::parts:
        first[i] = own / 10 * 10;
        end[i] = std::min(keys, first[i] + 10);
        break;
      case Seen::ranges:
        first[i] = static_cast<int32_t>(random.below(keys));
        end[i] = first[i] + 1 + static_cast<int32_t>(random.below(keys - first[i]));
        break;
      case Seen::one:
        first[i] = static_cast<int32_t>(random.below(keys));
        end[i] = first[i] + 1;
        break;
    }
  }
}

void test_one(const Kernels& kernels, const Shape& shape, Seen seen, float logit_size,
              Random& random) {
  const int64_t size = shape.size, width = shape.sharing * size;
  // other heads lie before and behind the columns in use
  const int64_t query_stride = width + (random.coin() ? size : 0);
  const int64_t key_stride = 2 * size * (random.coin() ? 1 : 3);
  const int64_t num_past = shape.past, num_own = shape.keys - num_past;
  Guarded queries = random.normals((shape.queries - 1) * query_stride + width);
  Guarded past = random.normals(num_past * key_stride);
  Guarded own = random.normals(num_own * key_stride);
  Guarded output(queries.size(), 12345);
  std::vector<int32_t> first(static_cast<size_t>(shape.queries)), end(first.size());
  set_seen(seen, shape, random, first, end);

  AttentionTask task;
  task.query = queries.data();
  task.query_stride = query_stride;
  task.num_queries = shape.queries;
  task.num_heads = shape.sharing;
  task.head_size = size;
  task.scale = logit_size / std::sqrt(static_cast<float>(size));
  task.key_stride = key_stride;
  task.value_offset = key_stride / 2;
  // keys at the end of their half, so that the last value ends the memory
  const int64_t column = key_stride / 2 - size;
  const float* runs[2] = {num_past ? past.data() + column : nullptr,
                          num_own ? own.data() + column : nullptr};
  task.runs[0] = {runs[0], num_past};
  task.runs[1] = {runs[1], num_own};
  if (num_past == 0) std::swap(task.runs[0], task.runs[1]);
  task.first_seen = first.data();
  task.end_seen = end.data();
  task.output = output.data();
  task.output_stride = query_stride;
  kernels.attend(task);

  const Operand operand(kernels);
  const auto key_at = [&](int64_t place) {
    return place < num_past ? runs[0] + place * key_stride
                            : runs[1] + (place - num_past) * key_stride;
  };
  for (int64_t i = 0; i < shape.queries; ++i) {
    for (int64_t head = 0; head < shape.sharing; ++head) {
      const float* query = queries.data() + i * query_stride + head * size;
      const float* computed = output.data() + i * query_stride + head * size;
      const int64_t begin = first[static_cast<size_t>(i)], after = end[static_cast<size_t>(i)];
      std::vector<double> weights;
      double most = -1e300, doubt = 1e-5;
      for (int64_t place = begin; place < after; ++place) {
        double logit = 0, terms = 0;
        for (int64_t d = 0; d < size; ++d) {
          const double term =
              operand.is_bfloat16
                  ? operand(query[d] * task.scale) * operand(key_at(place)[d])
                  : double(query[d]) * double(key_at(place)[d]) * double(task.scale);
          logit += term;
          terms += std::fabs(term);
        }
        weights.push_back(logit);
        most = std::max(most, logit);
        doubt = std::max(doubt, 1e-6 * terms);
      }
      double total = 0;
      for (double& weight : weights) total += weight = std::exp(weight - most);
      for (int64_t d = 0; d < size; ++d) {
        double value = 0, largest = 0;
        for (int64_t place = begin; place < after; ++place) {
          const double from = operand(key_at(place)[task.value_offset + d]);
          value += weights[static_cast<size_t>(place - begin)] / total * from;
          largest = std::max(largest, std::fabs(from));
        }
        digest(computed[d]);
        const double number = double(computed[d]);
        expect(std::fabs(number - value) <= (doubt + operand.doubt()) * largest,
               "attention of %lld x %lld to %lld (%lld past), query %lld, head %lld, column %lld: "
               "%.9g, not %.9g",
               (long long)shape.queries, (long long)size, (long long)shape.keys,
               (long long)num_past, (long long)i, (long long)head, (long long)d, number, value);
      }
    }
    for (int64_t d = width; d < query_stride && i + 1 < shape.queries; ++d) {
      expect(output[i * query_stride + d] == 12345, "attention wrote beside its heads");
    }
  }
}

}  // namespace

void test_attention(const Kernels& kernels) {
  Random random(4);
  const Seen kinds[] = {Seen::all,   Seen::causal, Seen::window,
                        Seen::parts, Seen::ranges, Seen::one};
  for (const int64_t size : {1, 2, 7, 20, 32, 48, 64, 128, 256}) {
    for (const Seen seen : kinds) {
      const int64_t keys = 1 + random.below(150);
      const Shape shape{size, 1 + random.below(4), 1 + random.below(70), keys,
                        random.coin() ? random.below(keys + 1) : 0};
      const float logit_size = random.below(3) == 0 ? 30.0f : 1.0f;
      test_one(kernels, shape, seen, logit_size, random);
    }
  }
  // several blocks of keys and of queries; the first of two runs ends in a block or at its end
  for (const Seen seen : kinds) {
    test_one(kernels, {32, 1, 130, 1100, 0}, seen, 1, random);
    test_one(kernels, {20, 3, 41, 1030, 700}, seen, 1, random);
    test_one(kernels, {16, 2, 5, 1024, 512}, seen, 30, random);
  }
  test_one(kernels, {64, 1, 1, 1, 0}, Seen::all, 1, random);
  test_one(kernels, {64, 8, 1, 513, 512}, Seen::all, 1, random);
  test_one(kernels, {64, 1, 64, 512, 512}, Seen::all, 1, random);
}
