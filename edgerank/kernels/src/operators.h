// The operators of the domain edgerank.kernels, for an instruction set.
#pragma once

struct Kernels;
struct OrtCustomOp;

OrtCustomOp* projection_operator(const Kernels& kernels);
OrtCustomOp* linear_operator(const Kernels& kernels);
OrtCustomOp* feed_forward_operator(const Kernels& kernels);
OrtCustomOp* attention_operator(const Kernels& kernels);
OrtCustomOp* attention_mask_operator(const Kernels& kernels);
