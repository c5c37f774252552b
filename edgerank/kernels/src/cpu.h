// Which instruction sets this CPU and its operating system offer.
#pragma once

struct CpuFeatures {
  bool avx2 = false;         // with FMA
  bool avx_vnni = false;     // vpdpbusd on 256 bits
  bool avx512 = false;       // F, BW, DQ and VL
  bool avx512_vnni = false;  // vpdpbusd on 512 bits
  bool avx512_bf16 = false;  // vdpbf16ps on 512 bits, beside avx512_vnni
  bool amx = false;          // tdpbusd, beside avx512_vnni, if Linux lets this process use it
  bool dotprod = false;      // Arm: sdot
  bool i8mm = false;         // Arm: smmla
};

CpuFeatures detect_cpu();
