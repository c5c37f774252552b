#include <memory>

#include "reference.h"

namespace {

struct Part {
  int64_t heads, size, others;  // columns behind the heads
};

struct Options {
  NormKind norm;
  bool has_head_norms, is_rotated;
};

void test_one(const Kernels& kernels, int64_t rows, int64_t width, const std::vector<Part>& parts,
              const Options& options, Random& random, Comparison& comparison) {
  Projection op;
  op.width = width;
  op.num_parts = static_cast<int>(parts.size());
  op.range = random_range(random, width);
  const NormOf norm(random, options.norm, width, random.coin());
  op.norm = norm.view;
  std::vector<std::unique_ptr<Weights>> weights;
  std::vector<std::unique_ptr<NormOf>> head_norms;
  std::vector<Guarded> outputs;
  float* to[2] = {};
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& part = parts[i];
    const int64_t columns = part.heads * part.size + part.others;
    weights.push_back(std::make_unique<Weights>(random, width, columns, random.coin()));
    op.parts[i] = weights[i]->view(op.range);
    const NormKind kind = options.has_head_norms ? NormKind::rms : NormKind::none;
    head_norms.push_back(std::make_unique<NormOf>(random, kind, part.size, false));
    op.heads[i] = {part.heads, part.size, head_norms[i]->view};
    outputs.emplace_back(rows * columns, -1.0f);
    to[i] = outputs[i].data();
  }
  const int64_t half = parts[0].size / 2;
  const Guarded cosines = random.normals(options.is_rotated ? rows * half : 0);
  const Guarded sines = random.normals(options.is_rotated ? rows * half : 0);
  // squares of larger numbers leave float32
  const bool has_norm = options.norm != NormKind::none;
  const Guarded x =
      make_rows(random, rows, width, has_norm || options.has_head_norms ? 1e12f : 1e30f);
  Guarded normed(has_norm && random.coin() ? rows * width : 0, -1);
  const Refined refined(random, rows);
  kernels.project(op, x.data(), rows, cosines.data(), sines.data(), refined.rows, to,
                  normed.data());

  std::vector<Row> sources;
  for (int64_t row = 0; row < rows; ++row) {
    sources.push_back(exact(x.data() + row * width, width));
    if (has_norm) sources.back() = normalize(op.norm, sources.back());
  }
  if (normed.data()) comparison.rows(normed.data(), sources);
  for (size_t i = 0; i < parts.size(); ++i) {
    std::vector<Row> expected;
    for (int64_t row = 0; row < rows; ++row) {
      const IntegerRow integers =
          round_row(op.range, sources[static_cast<size_t>(row)], refined.has(row));
      expected.push_back(multiply(integers, integers.step, *weights[i]));
      add(expected.back(), weights[i]->bias.data());
      const int64_t at = options.is_rotated ? row * half : 0;
      place(op.heads[i], expected.back(), options.is_rotated ? cosines.data() + at : nullptr,
            sines.data() + at);
    }
    comparison.rows(outputs[i].data(), expected);
  }
}

}  // namespace

void test_projection(const Kernels& kernels) {
  Random random(2);
  Comparison comparison("projection", 2e-3);
  const std::vector<std::vector<Part>> parts = {{{0, 0, 1}},
                                                {{0, 0, 70}},
                                                {{3, 20, 0}, {1, 20, 20}},
                                                {{2, 32, 0}},
                                                {{4, 64, 0}, {2, 64, 128}},
                                                {{1, 128, 0}, {1, 128, 128}},
                                                {{1, 2, 3}, {1, 2, 2}}};
  for (const int64_t width : {1, 6, 20, 35, 64, 100, 384}) {
    for (const auto& each : parts) {
      for (const NormKind norm : {NormKind::none, NormKind::layer, NormKind::rms}) {
        const bool has_heads = each[0].heads > 0;
        const Options options{norm, has_heads && random.coin(), has_heads && random.coin()};
        const int64_t rows = 1 + random.below(14);
        test_one(kernels, rows, width, each, options, random, comparison);
      }
    }
  }
}
