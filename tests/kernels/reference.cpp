#include "reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace {

constexpr double PI = 3.14159265358979323846;
constexpr double FLOAT = 1.2e-7;  // relative error of two operations in float32

int clamped(double integer) { return static_cast<int>(std::min(std::max(integer, 0.0), 255.0)); }

// A row times a Hadamard matrix in blocks: the sign is the parity of what row and column share.
Row mix(const Row& x, int64_t block) {
  if (!block) return x;
  Row y;
  for (int64_t k = 0; k < static_cast<int64_t>(x.size()); ++k) {
    const int64_t start = k / block * block;
    Number sum;
    for (int64_t i = 0; i < block; ++i) {
      const Number& term = x[static_cast<size_t>(start + i)];
      sum.value +=
          __builtin_parityll(static_cast<uint64_t>(i & (k - start))) ? -term.value : term.value;
      sum.error += term.error + 8 * 6e-8 * std::fabs(term.value);  // of eight additions
    }
    y.push_back(sum);
  }
  return y;
}

}  // namespace

Row exact(const float* x, int64_t width) {
  Row row(static_cast<size_t>(width));
  for (size_t k = 0; k < row.size(); ++k) row[k].value = double(x[k]);
  return row;
}

Row normalize(const Norm& norm, const Row& x) {
  const double width = double(x.size());
  Number mean;
  if (norm.kind == NormKind::layer) {
    double most = 0;
    for (const Number& each : x) {
      mean.value += each.value / width;
      mean.error += each.error / width;
      most = std::max(most, std::fabs(each.value));
    }
    mean.error += (4 + width / 16) * FLOAT * most;  // sums of 4 lanes at least
  }
  Number variance;
  for (const Number& each : x) {
    const double centred = each.value - mean.value, error = each.error + mean.error;
    variance.value += centred * centred / width;
    variance.error += (2 * std::fabs(centred) + error) * error / width;
  }
  variance.value += double(norm.epsilon);
  variance.error += 8 * FLOAT * variance.value;
  const double factor = 1 / std::sqrt(variance.value);
  const double factor_error = variance.error / variance.value / 2 + 4 * FLOAT;
  Row y(x.size());
  for (size_t k = 0; k < x.size(); ++k) {
    const double gain = factor * double(norm.gain[k]);
    y[k].value = (x[k].value - mean.value) * gain;
    y[k].error = std::fabs(gain) * (x[k].error + mean.error) + std::fabs(y[k].value) * factor_error;
  }
  add(y, norm.bias);
  return y;
}

RowRange random_range(Random& random, int64_t width) {
  const int64_t largest = width & -width;  // power of two that divides it
  if (largest >= LEAST_MIXED_BLOCK && random.coin()) {
    const int64_t block = LEAST_MIXED_BLOCK << random.below(5);
    return {128, 0, block < largest ? block : largest};
  }
  return random.below(4) == 0 ? RowRange{16, 0.25f} : RowRange{};
}

IntegerRow round_row(const RowRange& range, const Row& source, bool is_refined) {
  const Row x = mix(source, range.mixed_block);
  const bool is_symmetric = range.zero_point == 128;
  const float levels = is_symmetric ? 127.0f : 255.0f - float(range.zero_point);
  float peak = is_symmetric ? 0.0f : range.floor;
  double peak_error = 0;
  for (const Number& each : x) {
    const float value = float(each.value);
    peak = std::max(peak, is_symmetric ? std::fabs(value) : value);
    peak_error = std::max(peak_error, each.error);
  }
  IntegerRow row;
  row.units = is_refined ? 2 * range.zero_point : 1;
  for (Doubtful* each : {&row.terms, &row.firsts}) {
    each->integers.resize(x.size());
    each->slack.resize(x.size());
  }
  const float inverse = levels / peak;
  row.is_known = std::isfinite(inverse) && peak_error < 0.01 * double(peak);
  if (!row.is_known) {
    row.step.value = (double(peak) + peak_error) / double(levels);
    return row;
  }
  row.step.value = double(peak * (1.0f / levels)) / row.units;
  row.step.error = peak_error / double(levels) / row.units;
  const double zero = double(range.zero_point);
  const auto first = [&](double place) {
    return clamped(std::rint(place) + zero) - range.zero_point;
  };
  const auto both = [&](double place) {
    if (!is_refined) return first(place);
    const int rest = clamped(std::rint((place - std::rint(place)) * row.units) + zero);
    return first(place) * row.units + rest - range.zero_point;
  };
  const auto set = [&](Doubtful& row, size_t k, double place, double error, const auto& rounded) {
    const int integer = rounded(place);
    row.integers[k] = integer;
    if (error > 0) {
      row.slack[k] = std::max(rounded(place + error) - integer, integer - rounded(place - error));
    }
  };
  for (size_t k = 0; k < x.size(); ++k) {
    const double place = double(float(x[k].value) * inverse);
    double error = 0;
    if (peak_error > 0) {
      error =
          x[k].error * double(inverse) + std::fabs(place) * (peak_error / double(peak) + 2 * FLOAT);
    }
    set(row.terms, k, place, error, both);
    set(row.firsts, k, place, error, first);
  }
  return row;
}

namespace {

// The product of a row's integers and a column; `doubt` is what two terms, of which each may be so
// much larger than both together, may be off beside that.
Number product_of(const IntegerRow& row, const Doubtful& terms, const Number& step,
                  const Integers8& weights, int64_t column, double doubt) {
  int64_t sum = 0, slack = 0, weights_size = 0;
  for (int64_t k = 0; k < weights.depth; ++k) {
    const size_t at = static_cast<size_t>(k);
    const int weight = weights.values[static_cast<size_t>(k * weights.columns + column)];
    const int size = weight < 0 ? -weight : weight;
    if (row.is_known) sum += terms.integers[at] * weight;
    slack += (row.is_known ? terms.slack[at] : 256) * size;
    weights_size += size;
  }
  const double scale = double(weights.scales[column]);
  const double size = std::fabs(double(sum)) + doubt * double(weights_size);
  return {double(sum) * scale * step.value,
          double(slack) * scale * (step.value + step.error) +
              size * scale * (step.error + 2 * FLOAT * step.value)};
}

}  // namespace

Row multiply(const IntegerRow& row, const Number& step, const Weights& weights) {
  const bool is_refined = row.units > 1;
  const Number first_step{step.value * row.units, step.error * row.units};
  Row y;
  for (int64_t n = 0; n < weights.columns; ++n) {
    const double doubt = is_refined ? double(row.units) : 0;
    y.push_back(product_of(row, row.terms, step, weights.rounded, n, doubt));
    if (!is_refined || !weights.has_rests) continue;
    const Number other = product_of(row, row.firsts, first_step, weights.rests, n, 0);
    Number& each = y.back();
    each.error += other.error + FLOAT * (std::fabs(each.value) + std::fabs(other.value));
    each.value += other.value;
  }
  return y;
}

Row activate(Activation activation, const Row& x) {
  Row y(x.size());
  for (size_t k = 0; k < x.size(); ++k) {
    const double v = x[k].value;
    double z = v;
    switch (activation) {
      case Activation::none:
        break;
      case Activation::gelu:
        z = 0.5 * v * std::erfc(-v * std::sqrt(0.5));
        break;
      case Activation::gelu_tanh:
        z = v / (1 + std::exp(-2 * std::sqrt(2 / PI) * (v + 0.044715 * v * v * v)));
        break;
      case Activation::silu:
        z = v / (1 + std::exp(-v));
        break;
    }
    y[k].value = z;
    y[k].error = 1.13 * x[k].error;  // no slope is steeper
    if (activation != Activation::none) y[k].error += 6 * FLOAT * std::fabs(v);
  }
  return y;
}

Number product(const Number& a, const Number& b) {
  const double value = a.value * b.value;
  return {value, std::fabs(a.value) * b.error + std::fabs(b.value) * a.error + a.error * b.error +
                     FLOAT * std::fabs(value)};
}

void add(Row& row, const Row* terms, const float* factors) {
  for (size_t k = 0; terms && k < row.size(); ++k) {
    const Number term = product((*terms)[k], {factors ? double(factors[k]) : 1.0, 0});
    row[k].error += term.error + FLOAT * (std::fabs(row[k].value) + std::fabs(term.value));
    row[k].value += term.value;
  }
}

void add(Row& row, const float* terms, const float* factors) {
  if (!terms) return;
  const Row exact_terms = exact(terms, int64_t(row.size()));
  add(row, &exact_terms, factors);
}

void place(const Heads& heads, Row& row, const float* cosines, const float* sines) {
  for (int64_t head = 0; head < heads.count; ++head) {
    const auto begin = row.begin() + head * heads.size;
    Row one(begin, begin + heads.size);
    if (heads.norm.kind != NormKind::none) one = normalize(heads.norm, one);
    const size_t half = static_cast<size_t>(heads.size / 2);
    for (size_t k = 0; cosines && k < half; ++k) {
      const Number c{double(cosines[k]), 0}, s{double(sines[k]), 0};
      const Number ac = product(one[k], c), as = product(one[k], s);
      const Number bc = product(one[half + k], c), bs = product(one[half + k], s);
      one[k] = {ac.value - bs.value, 2 * (ac.error + bs.error)};
      one[half + k] = {bc.value + as.value, 2 * (bc.error + as.error)};
    }
    std::copy(one.begin(), one.end(), begin);
  }
}

Comparison::~Comparison() {
  expect(10 * certain_ >= 6 * all_, "%s: the reference was certain about only %lld of %lld rows",
         what_, static_cast<long long>(certain_), static_cast<long long>(all_));
}

void Comparison::rows(const float* computed, const std::vector<Row>& rows) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    double errors = 0, sizes = 1e-30 * double(row.size());
    for (size_t k = 0; k < row.size(); ++k) {
      digest(computed[i * row.size() + k]);
      const double number = double(computed[i * row.size() + k]);
      const double off = std::fabs(number - row[k].value);
      expect(off <= row[k].error + 1e-30, "%s: row %zu, column %zu is %.9g, not %.9g +- %.2g",
             what_, i, k, number, row[k].value, row[k].error);
      errors += row[k].error;
      sizes += std::fabs(row[k].value);
    }
    certain_ += errors <= doubt_ * sizes;
    ++all_;
  }
}
