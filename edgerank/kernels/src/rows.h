// What is done to whole rows of floats: norms, rounding to integers, rotation of heads, and the
// activation functions. Included after a simd_*.h and a tile_*.h.
#pragma once

#include <cfloat>
#include <cmath>

#include "kernels.h"

namespace {

// Calls whole(k) for each vector of a row, then part(k, rest) for what is left.
template <typename Whole, typename Part>
inline void for_each_vector(int64_t width, Whole whole, Part part) {
  int64_t k = 0;
  for (; k + WIDTH <= width; k += WIDTH) whole(k);
  if (k < width) part(k, width - k);
}

// Adds up a row in sixteen lanes, and the lanes in one order: vectors of all widths give the same
// bits. add(k, sum) adds the vector at k. What is left of the row is for the caller.
constexpr int LANES = 16;
template <typename Add>
inline float sum_in_lanes(int64_t width, const Add& add) {
  constexpr int VECTORS = LANES / WIDTH;
  Floats sums[VECTORS];
  for (Floats& sum : sums) sum = splat(0);
  for (int64_t k = 0; k + LANES <= width; k += LANES) {
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS; ++i) sums[i] = add(k + i * WIDTH, sums[i]);
  }
#pragma GCC unroll 4
  for (int half = VECTORS / 2; half > 0; half /= 2) {
#pragma GCC unroll 4
    for (int i = 0; i < half; ++i) sums[i] = sums[i] + sums[i + half];
  }
  return sum_of(sums[0]);
}

inline int64_t whole_lanes(int64_t width) { return width / LANES * LANES; }

inline float sum_of_squares(const float* x, int64_t width, float offset) {
  const Floats minus = splat(offset);
  float rest = 0;
  for (int64_t k = whole_lanes(width); k < width; ++k) rest += (x[k] - offset) * (x[k] - offset);
  return rest + sum_in_lanes(width, [&](int64_t k, Floats sum) {
           const Floats centred = load(x + k) - minus;
           return multiply_add(centred, centred, sum);
         });
}

inline float mean_of(const float* x, int64_t width) {
  float rest = 0;
  for (int64_t k = whole_lanes(width); k < width; ++k) rest += x[k];
  const float sum =
      sum_in_lanes(width, [&](int64_t k, Floats total) { return total + load(x + k); });
  return (rest + sum) / static_cast<float>(width);
}

// Normalises a row; y may be x.
inline void normalize(const Norm& norm, const float* x, int64_t width, float* y) {
  const float mean = norm.kind == NormKind::layer ? mean_of(x, width) : 0.0f;
  const float variance = sum_of_squares(x, width, mean) / static_cast<float>(width);
  const Floats minus = splat(mean), factor = splat(1.0f / std::sqrt(variance + norm.epsilon));
  for_each_vector(
      width,
      [&](int64_t k) {
        Floats z = (load(x + k) - minus) * factor * load(norm.gain + k);
        if (norm.bias) z = z + load(norm.bias + k);
        store(y + k, z);
      },
      [&](int64_t k, int64_t count) {
        Floats z = (load_first(x + k, count) - minus) * factor * load_first(norm.gain + k, count);
        if (norm.bias) z = z + load_first(norm.bias + k, count);
        store_first(y + k, z, count);
      });
}

inline float peak_of(const RowRange& range, const float* x, int64_t width) {
  Floats most = splat(0);
  if (range.is_symmetric()) {
    for_each_vector(
        width, [&](int64_t k) { most = larger(most, magnitude(load(x + k))); },
        [&](int64_t k, int64_t count) {
          most = larger(most, magnitude(load_first(x + k, count)));
        });
  } else {
    most = splat(range.floor);
    for_each_vector(
        width, [&](int64_t k) { most = larger(most, load(x + k)); },
        [&](int64_t k, int64_t count) { most = larger(most, load_first(x + k, count)); });
  }
  return largest_of(most);
}

// What a row with this peak is multiplied by before it is rounded. It is finite: a row of zeros or
// of denormals becomes zeros, and not infinities, which instruction sets round to different
// integers.
inline float inverse_step(const RowRange& range, float peak) {
  const float inverse = range.levels() / peak;
  return inverse < FLT_MAX ? inverse : FLT_MAX;
}

// Rounds a row to integers as RowRange says, less INTEGER_OFFSET, and returns its step. Integers
// are written up to the next whole vector.
inline float quantize(const RowRange& range, const float* x, int64_t width, uint8_t* integers) {
  const float peak = peak_of(range, x, width);
  const Floats inverse = splat(inverse_step(range, peak));
  for_each_vector(
      width,
      [&](int64_t k) {
        store_integers<INTEGER_OFFSET>(integers + k, load(x + k) * inverse, range.zero_point);
      },
      [&](int64_t k, int64_t count) {
        store_integers<INTEGER_OFFSET>(integers + k, load_first(x + k, count) * inverse,
                                       range.zero_point);
      });
  return peak * (1.0f / range.levels());
}

// Rounds what rounding took from a row.
inline void quantize_rests(const RowRange& range, const float* x, int64_t width, uint8_t* rests) {
  const Floats inverse = splat(inverse_step(range, peak_of(range, x, width)));
  const Floats units = splat(range.units());
  const auto rest = [&](Floats numbers) {
    const Floats scaled = numbers * inverse;
    return (scaled - rounded(scaled)) * units;
  };
  for_each_vector(
      width,
      [&](int64_t k) {
        store_integers<INTEGER_OFFSET>(rests + k, rest(load(x + k)), range.zero_point);
      },
      [&](int64_t k, int64_t count) {
        store_integers<INTEGER_OFFSET>(rests + k, rest(load_first(x + k, count)), range.zero_point);
      });
}

// e^x within two units in the last place: the polynomial of Cephes' expf.
inline Floats exponential(Floats x) {
  x = larger(smaller(x, splat(88.0f)), splat(-87.0f));
  const Floats n = rounded(x * splat(1.44269504088896341f));
  Floats r = multiply_add(n, splat(-0.693359375f), x);
  r = multiply_add(n, splat(2.12194440e-4f), r);
  Floats p = splat(1.9875691500e-4f);
  p = multiply_add(p, r, splat(1.3981999507e-3f));
  p = multiply_add(p, r, splat(8.3334519073e-3f));
  p = multiply_add(p, r, splat(4.1665795894e-2f));
  p = multiply_add(p, r, splat(1.6666665459e-1f));
  p = multiply_add(p, r, splat(5.0000001201e-1f));
  p = multiply_add(p, r * r, r) + splat(1.0f);
  return times_power_of_two(p, n);
}

inline Floats sigmoid(Floats x) {
  return quotient(splat(1.0f), splat(1.0f) + exponential(splat(0) - x));
}

inline Floats silu(Floats x) { return quotient(x, splat(1.0f) + exponential(splat(0) - x)); }

// x Φ(x), with Eigen's rational approximation of erf.
inline Floats gelu(Floats x) {
  Floats t = x * splat(0.70710678118654752f);
  t = smaller(larger(t, splat(-4.0f)), splat(4.0f));
  const Floats s = t * t;
  Floats p = splat(-2.72614225801306e-10f);
  p = multiply_add(p, s, splat(2.77068142495902e-08f));
  p = multiply_add(p, s, splat(-2.10102402082508e-06f));
  p = multiply_add(p, s, splat(-5.69250639462346e-05f));
  p = multiply_add(p, s, splat(-7.34990630326855e-04f));
  p = multiply_add(p, s, splat(-2.95459980854025e-03f));
  p = multiply_add(p, s, splat(-1.60960333262415e-02f));
  Floats q = splat(-1.45660718464996e-05f);
  q = multiply_add(q, s, splat(-2.13374055278905e-04f));
  q = multiply_add(q, s, splat(-1.68282697438203e-03f));
  q = multiply_add(q, s, splat(-7.37332916720468e-03f));
  q = multiply_add(q, s, splat(-1.42647390514189e-02f));
  const Floats half = x * splat(0.5f);
  return multiply_add(half, quotient(t * p, q), half);
}

// The approximation by tanh: 0.5 x (1 + tanh u) = x sigmoid(2 u).
inline Floats gelu_tanh(Floats x) {
  const Floats u = x * multiply_add(x * x, splat(0.044715f), splat(1.0f));
  return x * sigmoid(u * splat(2 * 0.79788456080286536f));
}

// Rotates the two halves of a head by the angles of its position (RoFormer).
inline void rotate(float* head, int64_t size, const float* cosines, const float* sines) {
  const int64_t half = size / 2;
  float *left = head, *right = head + half;
  for_each_vector(
      half,
      [&](int64_t k) {
        const Floats a = load(left + k), b = load(right + k);
        const Floats c = load(cosines + k), s = load(sines + k);
        store(left + k, a * c - b * s);
        store(right + k, b * c + a * s);
      },
      [&](int64_t k, int64_t count) {
        const Floats a = load_first(left + k, count), b = load_first(right + k, count);
        const Floats c = load_first(cosines + k, count), s = load_first(sines + k, count);
        store_first(left + k, a * c - b * s, count);
        store_first(right + k, b * c + a * s, count);
      });
}

}  // namespace
