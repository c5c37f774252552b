// Vectors of 8 floats: AVX2 and FMA.
#pragma once

#include <immintrin.h>

#include <cstdint>

#if defined(__GNUC__) && !defined(__clang__)
// This pass lets gcc keep the sums of an innermost loop in memory: a third of the speed.
#pragma GCC optimize("no-tree-pre")
#endif

namespace {

using Floats = __m256;  // + - * / work on it

constexpr int WIDTH = 8;
constexpr int TILE_VECTORS = 2;  // of a float tile: 6 x 2 accumulators of 16 registers

inline __m256i first(int64_t count) {
  alignas(64) static const int32_t ones_then_zeros[2 * WIDTH] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ones_then_zeros + WIDTH - count));
}

inline Floats splat(float value) { return _mm256_set1_ps(value); }
inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
inline Floats load_first(const float* from, int64_t count) {
  return _mm256_maskload_ps(from, first(count));
}
inline Floats load(const int8_t* from) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
inline Floats load(const int16_t* from) {
  const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(words));
}
// from[places[0]], from[places[1]], ...
inline Floats gather(const float* from, const int32_t* places) {
  const __m256i indexes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(places));
  return _mm256_i32gather_ps(from, indexes, sizeof(float));
}
inline void store(float* to, Floats x) { _mm256_storeu_ps(to, x); }
inline void store_first(float* to, Floats x, int64_t count) {
  _mm256_maskstore_ps(to, first(count), x);
}
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats magnitude(Floats x) { return _mm256_andnot_ps(splat(-0.0f), x); }
inline float largest_of(Floats x) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
inline float sum_of(Floats x) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline Floats rounded(Floats x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// x * 2^n for whole n from -126 to 127
inline Floats times_power_of_two(Floats x, Floats n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return x * _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

inline Floats quotient(Floats a, Floats b) { return a / b; }

// The lanes i and i ^ distance in each other's place, for a distance of 1, 2 or 4.
template <int distance>
inline Floats swapped(Floats x) {
  if constexpr (distance == 1) return _mm256_permute_ps(x, 0xB1);
  if constexpr (distance == 2) return _mm256_permute_ps(x, 0x4E);
  if constexpr (distance == 4) return _mm256_permute2f128_ps(x, x, 1);
}

// x where first <= place < end, else otherwise
inline Floats within(Floats first_place, Floats place, Floats end, Floats x, Floats otherwise) {
  const Floats is_seen = _mm256_and_ps(_mm256_cmp_ps(place, first_place, _CMP_GE_OQ),
                                       _mm256_cmp_ps(place, end, _CMP_LT_OQ));
  return _mm256_blendv_ps(otherwise, x, is_seen);
}

// to[column * stride + row] = rows[row][offset + column] * factor, 8 by 8
inline void transpose(const float* const* rows, int64_t offset, Floats factor, float* to,
                      int64_t stride) {
  __m256 a[8], b[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) a[i] = load(rows[i] + offset) * factor;
#pragma GCC unroll 8
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 2; ++i) {
    a[4 * i] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0x44);
    a[4 * i + 1] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0xee);
    a[4 * i + 2] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0x44);
    a[4 * i + 3] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0xee);
  }
  // lane l of a[4 i + j] holds column 4 l + j of rows 4 i .. 4 i + 3
#pragma GCC unroll 8
  for (int j = 0; j < 4; ++j) {
    store(to + j * stride, _mm256_permute2f128_ps(a[j], a[4 + j], 0x20));
    store(to + (4 + j) * stride, _mm256_permute2f128_ps(a[j], a[4 + j], 0x31));
  }
}

// Stores clamp(round(x) + zero_point, 0, 255) - Offset of 8 floats; the offset is 0, or
// 128 for signed integers.
template <int Offset>
inline void store_integers(uint8_t* to, Floats x, int zero_point) {
  const __m256i integers = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(zero_point));
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256(integers, 1));
  __m128i bytes = _mm_packus_epi16(words, words);
  if (Offset) bytes = _mm_xor_si128(bytes, _mm_set1_epi8(-128));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), bytes);
}

}  // namespace
