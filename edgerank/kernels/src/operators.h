// The operators of the domain edgerank.kernels, for an instruction set and a number of threads;
// null if there is no memory left.
#pragma once

struct Kernels;
struct OrtCustomOp;

OrtCustomOp* projection_operator(const Kernels& kernels, int threads);
OrtCustomOp* linear_operator(const Kernels& kernels, int threads);
OrtCustomOp* feed_forward_operator(const Kernels& kernels, int threads);
OrtCustomOp* attention_operator(const Kernels& kernels, int threads);
OrtCustomOp* attention_mask_operator(const Kernels& kernels, int threads);
OrtCustomOp* position_buckets_operator(const Kernels& kernels, int threads);
