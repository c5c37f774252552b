// Vectors of 4 floats: Advanced SIMD of 64-bit Arm.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#if defined(__GNUC__) && !defined(__clang__)
// These passes let gcc keep some sums of an innermost loop in memory.
#pragma GCC optimize("no-tree-pre", "no-schedule-insns")
#endif

namespace {

using Floats = float32x4_t;  // + - * / work on it

constexpr int WIDTH = 4;
constexpr int TILE_VECTORS = 4;  // of a float tile: 6 x 4 accumulators of 32 registers

inline Floats splat(float value) { return vdupq_n_f32(value); }
inline Floats load(const float* from) { return vld1q_f32(from); }
inline Floats load_first(const float* from, int64_t count) {
  if (count == 4) return load(from);
  Floats x = splat(0);
  if (count & 2) x = vcombine_f32(vld1_f32(from), vdup_n_f32(0));
  if (count == 1) x = vld1q_lane_f32(from, x, 0);
  if (count == 3) x = vld1q_lane_f32(from + 2, x, 2);
  return x;
}
inline Floats load(const int16_t* from) { return vcvtq_f32_s32(vmovl_s16(vld1_s16(from))); }
inline Floats load(const int8_t* from) {
  int32_t four;
  std::memcpy(&four, from, sizeof(four));
  const int8x8_t bytes = vreinterpret_s8_s32(vdup_n_s32(four));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
}
// from[places[0]], from[places[1]], ...
inline Floats gather(const float* from, const int32_t* places) {
  Floats x = vld1q_dup_f32(from + places[0]);
  x = vld1q_lane_f32(from + places[1], x, 1);
  x = vld1q_lane_f32(from + places[2], x, 2);
  return vld1q_lane_f32(from + places[3], x, 3);
}
inline void store(float* to, Floats x) { vst1q_f32(to, x); }
inline void store_first(float* to, Floats x, int64_t count) {
  if (count == 4) store(to, x);
  if (count == 1) vst1q_lane_f32(to, x, 0);
  if (count == 2 || count == 3) vst1_f32(to, vget_low_f32(x));
  if (count == 3) vst1q_lane_f32(to + 2, x, 2);
}
inline Floats multiply_add(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
inline Floats larger(Floats a, Floats b) { return vmaxq_f32(a, b); }
inline Floats smaller(Floats a, Floats b) { return vminq_f32(a, b); }
inline Floats magnitude(Floats x) { return vabsq_f32(x); }
inline float largest_of(Floats x) { return vmaxvq_f32(x); }
// as with wider vectors: first lanes that lie 2 apart
inline float sum_of(Floats x) {
  const float32x2_t two = vadd_f32(vget_low_f32(x), vget_high_f32(x));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline Floats rounded(Floats x) { return vrndnq_f32(x); }

// x * 2^n for whole n from -126 to 127
inline Floats times_power_of_two(Floats x, Floats n) {
  const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
  return x * vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23));
}

inline Floats quotient(Floats a, Floats b) { return a / b; }

// The lanes i and i ^ distance in each other's place, for a distance of 1 or 2.
template <int distance>
inline Floats swapped(Floats x) {
  if constexpr (distance == 1) return vrev64q_f32(x);
  if constexpr (distance == 2) return vextq_f32(x, x, 2);
}

// x where first <= place < end, else otherwise
inline Floats within(Floats first_place, Floats place, Floats end, Floats x, Floats otherwise) {
  const uint32x4_t is_seen = vandq_u32(vcgeq_f32(place, first_place), vcltq_f32(place, end));
  return vbslq_f32(is_seen, x, otherwise);
}

// to[column * stride + row] = rows[row][offset + column] * factor, 4 by 4
inline void transpose(const float* const* rows, int64_t offset, Floats factor, float* to,
                      int64_t stride) {
  Floats a[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) a[i] = load(rows[i] + offset) * factor;
  const float32x4x2_t upper = vtrnq_f32(a[0], a[1]), lower = vtrnq_f32(a[2], a[3]);
#pragma GCC unroll 4
  for (int j = 0; j < 2; ++j) {
    store(to + j * stride, vcombine_f32(vget_low_f32(upper.val[j]), vget_low_f32(lower.val[j])));
    store(to + (2 + j) * stride,
          vcombine_f32(vget_high_f32(upper.val[j]), vget_high_f32(lower.val[j])));
  }
}

// Stores clamp(round(x) + zero_point, 0, 255) - Offset of 4 floats; the offset is 0, or
// 128 for signed integers.
template <int Offset>
inline void store_integers(uint8_t* to, Floats x, int zero_point) {
  const int32x4_t integers = vqaddq_s32(vcvtnq_s32_f32(x), vdupq_n_s32(zero_point));
  const uint16x4_t words = vqmovun_s32(integers);
  uint8x8_t bytes = vqmovn_u16(vcombine_u16(words, words));
  if (Offset) bytes = veor_u8(bytes, vdup_n_u8(128));
  vst1_lane_u32(reinterpret_cast<uint32_t*>(to), vreinterpret_u32_u8(bytes), 0);
}

}  // namespace
