#include "reference.h"

namespace {

struct Shape {
  int64_t rows, depth, columns;
};

void test_one(const Kernels& kernels, const Shape& shape, const RowRange& range, Random& random,
              Comparison& comparison) {
  Linear op;
  op.range = range;
  Weights weights(random, shape.depth, shape.columns, random.coin());
  op.matrix = weights.view(op.range);
  const Guarded x = make_rows(random, shape.rows, shape.depth, 1e30f);
  const Guarded residual = random.normals(random.coin() ? shape.rows * shape.columns : 0);
  const Guarded residual_scales = random.normals(random.coin() ? shape.columns : 0);
  op.residual_scales = residual_scales.data();
  Guarded y(shape.rows * shape.columns, -1);
  const Refined refined(random, shape.rows);
  kernels.linear(op, x.data(), shape.rows, refined.rows, residual.data(), y.data());

  std::vector<Row> expected;
  for (int64_t row = 0; row < shape.rows; ++row) {
    const IntegerRow integers =
        round_row(op.range, exact(x.data() + row * shape.depth, shape.depth), refined.has(row));
    expected.push_back(multiply(integers, integers.step, weights));
    add(expected.back(), weights.bias.data());
    if (residual.data()) {
      add(expected.back(), residual.data() + row * shape.columns, residual_scales.data());
    }
  }
  comparison.rows(y.data(), expected);
}

}  // namespace

void test_linear(const Kernels& kernels) {
  Random random(1);
  Comparison comparison("linear", 1e-6), mixed("linear of mixed channels", 5e-3);
  const int64_t rows[] = {1, 2, 3, 4, 5, 6, 7, 13, 16, 17, 26, 32, 33, 40};
  const int64_t depths[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 130, 384, 1536};
  const int64_t columns[] = {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 33, 48, 63, 64, 65, 100, 130};
  for (const int64_t depth : depths) {
    for (const int64_t count : columns) {
      const Shape shape{rows[random.below(14)], depth, count};
      test_one(kernels, shape, random.coin() ? RowRange{16, 0.25f} : RowRange{}, random,
               comparison);
      const RowRange range = random_range(random, depth);
      if (range.mixed_block) test_one(kernels, shape, range, random, mixed);
    }
  }
  test_one(kernels, {50, 384, 384}, {}, random, comparison);
  test_one(kernels, {50, 384, 384}, {128, 0, 128}, random, mixed);
}
