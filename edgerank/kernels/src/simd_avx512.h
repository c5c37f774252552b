// Vectors of 16 floats: AVX-512 F, BW, DQ and VL.
#pragma once

#include <immintrin.h>

#include <cstdint>

#if defined(__GNUC__) && !defined(__clang__)
// This pass lets gcc keep the sums of an innermost loop in memory: a third of the speed.
#pragma GCC optimize("no-tree-pre")
#endif

namespace {

using Floats = __m512;  // + - * / work on it

constexpr int WIDTH = 16;
constexpr int TILE_VECTORS = 4;  // of a float tile: 6 x 4 accumulators of 32 registers

inline __mmask16 first(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }

inline Floats splat(float value) { return _mm512_set1_ps(value); }
inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline Floats load_first(const float* from, int64_t count) {
  return _mm512_maskz_loadu_ps(first(count), from);
}
inline Floats load(const int8_t* from) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
inline Floats load(const int16_t* from) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(words));
}
// from[places[0]], from[places[1]], ...
inline Floats gather(const float* from, const int32_t* places) {
  return _mm512_i32gather_ps(_mm512_loadu_si512(places), from, sizeof(float));
}
inline void store(float* to, Floats x) { _mm512_storeu_ps(to, x); }
inline void store_first(float* to, Floats x, int64_t count) {
  _mm512_mask_storeu_ps(to, first(count), x);
}
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats magnitude(Floats x) { return _mm512_abs_ps(x); }
inline float largest_of(Floats x) { return _mm512_reduce_max_ps(x); }
// as with narrower vectors: first lanes that lie 8 apart, then 4, 2 and 1
inline float sum_of(Floats x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline Floats rounded(Floats x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }

// x * 2^n for whole n
inline Floats times_power_of_two(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }

// a / b, rounded as the division that it takes half the time of (Markstein's theorem)
inline Floats quotient(Floats a, Floats b) {
  const Floats one = _mm512_set1_ps(1.0f);
  Floats inverse = _mm512_rcp14_ps(b);
  inverse = _mm512_fmadd_ps(_mm512_fnmadd_ps(b, inverse, one), inverse, inverse);
  inverse = _mm512_fmadd_ps(_mm512_fnmadd_ps(b, inverse, one), inverse, inverse);
  const Floats guess = a * inverse;
  return _mm512_fmadd_ps(_mm512_fnmadd_ps(b, guess, a), inverse, guess);
}

// The lanes i and i ^ distance in each other's place, for a distance of 1, 2, 4 or 8.
template <int distance>
inline Floats swapped(Floats x) {
  if constexpr (distance == 1) return _mm512_permute_ps(x, 0xB1);
  if constexpr (distance == 2) return _mm512_permute_ps(x, 0x4E);
  if constexpr (distance == 4) return _mm512_shuffle_f32x4(x, x, 0xB1);
  if constexpr (distance == 8) return _mm512_shuffle_f32x4(x, x, 0x4E);
}

// x where first <= place < end, else otherwise
inline Floats within(Floats first_place, Floats place, Floats end, Floats x, Floats otherwise) {
  const __mmask16 is_after = _mm512_cmp_ps_mask(place, first_place, _CMP_GE_OQ);
  const __mmask16 is_seen = _mm512_mask_cmp_ps_mask(is_after, place, end, _CMP_LT_OQ);
  return _mm512_mask_blend_ps(is_seen, otherwise, x);
}

// to[column * stride + row] = rows[row][offset + column] * factor, 16 by 16
inline void transpose(const float* const* rows, int64_t offset, Floats factor, float* to,
                      int64_t stride) {
  __m512 a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = load(rows[i] + offset) * factor;
#pragma GCC unroll 16
  for (int i = 0; i < 8; ++i) {
    b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    const __m512d lo0 = _mm512_castps_pd(b[4 * i]), lo1 = _mm512_castps_pd(b[4 * i + 2]);
    const __m512d hi0 = _mm512_castps_pd(b[4 * i + 1]), hi1 = _mm512_castps_pd(b[4 * i + 3]);
    a[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo0, lo1));
    a[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo0, lo1));
    a[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(hi0, hi1));
    a[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(hi0, hi1));
  }
  // lane l of a[4 i + j] holds column 4 l + j of rows 4 i .. 4 i + 3
#pragma GCC unroll 16
  for (int j = 0; j < 4; ++j) {
    b[j] = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x88);
    b[4 + j] = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xdd);
    b[8 + j] = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x88);
    b[12 + j] = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xdd);
  }
#pragma GCC unroll 16
  for (int j = 0; j < 4; ++j) {
    store(to + j * stride, _mm512_shuffle_f32x4(b[j], b[8 + j], 0x88));
    store(to + (4 + j) * stride, _mm512_shuffle_f32x4(b[4 + j], b[12 + j], 0x88));
    store(to + (8 + j) * stride, _mm512_shuffle_f32x4(b[j], b[8 + j], 0xdd));
    store(to + (12 + j) * stride, _mm512_shuffle_f32x4(b[4 + j], b[12 + j], 0xdd));
  }
}

// Stores clamp(round(x) + zero_point, 0, 255) - Offset of 16 floats; the offset is 0, or
// 128 for signed integers.
template <int Offset>
inline void store_integers(uint8_t* to, Floats x, int zero_point) {
  __m512i integers = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(zero_point));
  integers = _mm512_max_epi32(integers, _mm512_setzero_si512());
  __m128i bytes = _mm512_cvtusepi32_epi8(integers);
  if (Offset) bytes = _mm_xor_si128(bytes, _mm_set1_epi8(-128));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
}

}  // namespace
