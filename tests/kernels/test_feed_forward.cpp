#include <cmath>

#include "reference.h"

namespace {

enum class Residual { none, normed, given };

struct Options {
  NormKind norm;
  Activation activation;
  bool is_gated;
  Residual residual;
};

struct Shape {
  int64_t rows, width, inner_width;
};

void test_one(const Kernels& kernels, const Shape& shape, const Options& options, Random& random,
              Comparison& comparison) {
  const int64_t rows = shape.rows, width = shape.width;
  FeedForward op;
  op.range = random_range(random, width);
  op.inner_range = random_range(random, shape.inner_width);
  // the floor of a one-sided range is one of numbers with their step, which gated ones lack
  if (options.is_gated && !op.inner_range.is_symmetric()) op.inner_range = {};
  op.activation = options.activation;
  op.is_gated = options.is_gated;
  const NormOf norm(random, options.norm, width, random.coin());
  op.norm = norm.view;
  op.adds_normed = options.residual != Residual::none;
  const int64_t columns = options.residual == Residual::normed ? width : 1 + random.below(80);
  Weights up(random, width, shape.inner_width, random.coin());
  Weights gate(random, width, shape.inner_width, false);
  Weights down(random, shape.inner_width, columns, random.coin());
  op.up = up.view(op.range);
  if (op.is_gated) op.gate = gate.view(op.range);
  op.down = down.view(op.inner_range);
  const bool is_given = options.residual == Residual::given;
  const Guarded residual = random.normals(is_given ? rows * columns : 0);
  const Guarded residual_scales = random.normals(random.coin() ? columns : 0);
  op.residual_scales = residual_scales.data();
  // products of larger numbers leave float32
  const bool multiplies = options.is_gated || options.norm != NormKind::none;
  const Guarded x = make_rows(random, rows, width, multiplies ? 1e12f : 1e25f);
  Guarded y(rows * columns, -1);
  const Refined refined(random, rows);
  kernels.feed_forward(op, x.data(), rows, refined.rows, residual.data(), y.data());

  std::vector<Row> expected;
  for (int64_t row = 0; row < rows; ++row) {
    Row source = exact(x.data() + row * width, width);
    if (options.norm != NormKind::none) source = normalize(op.norm, source);
    const IntegerRow integers = round_row(op.range, source, refined.has(row));
    Row inner = multiply(integers, integers.step, up);
    add(inner, up.bias.data());
    inner = activate(options.activation, inner);
    if (options.is_gated) {
      const Row gates = multiply(integers, {1.0 / integers.units, 0}, gate);
      for (size_t k = 0; k < inner.size(); ++k) inner[k] = product(inner[k], gates[k]);
    }
    const IntegerRow inner_integers = round_row(op.inner_range, inner, refined.has(row));
    Number step = inner_integers.step;
    if (options.is_gated) {
      step = product(step,
                     {integers.step.value * integers.units, integers.step.error * integers.units});
    }
    Row z = multiply(inner_integers, step, down);
    add(z, down.bias.data());
    if (is_given) add(z, residual.data() + row * columns, residual_scales.data());
    if (!is_given && op.adds_normed) add(z, &source, residual_scales.data());
    expected.push_back(z);
  }
  comparison.rows(y.data(), expected);
}

}  // namespace

void test_feed_forward(const Kernels& kernels) {
  Random random(3);
  Comparison comparison("feed-forward", 5e-3);
  for (const NormKind norm : {NormKind::none, NormKind::layer, NormKind::rms}) {
    for (const Activation activation :
         {Activation::none, Activation::gelu, Activation::gelu_tanh, Activation::silu}) {
      for (const Residual residual : {Residual::none, Residual::normed, Residual::given}) {
        for (const bool is_gated : {false, true}) {
          const Options options{norm, activation, is_gated, residual};
          const Shape shape{1 + random.below(14), 1 + random.below(100), 1 + random.below(200)};
          test_one(kernels, shape, options, random, comparison);
          test_one(kernels, {1 + random.below(8), 64, 128}, options, random, comparison);
          test_one(kernels, {1, 1, 1}, options, random, comparison);
          test_one(kernels, {1 + random.below(4), 48, 256 * (1 + random.below(3))}, options, random,
                   comparison);
        }
      }
    }
  }
  test_one(kernels, {26, 384, 1536}, {NormKind::layer, Activation::gelu, false, Residual::normed},
           random, comparison);
}
