// The tables of positions that a node of attention reads.
#pragma once

#include "operator.h"

class NodeTables {
 public:
  // Reads keys and queries [heads, P, size] and the buckets of distances, all three constant;
  // leaves nothing if they are left out.
  void load(const Node& node, size_t keys, size_t queries, size_t buckets, int64_t num_heads);
  explicit operator bool() const { return buckets_ != nullptr; }
  PositionTables of_head(int64_t head) const;
  int64_t head_size() const { return size_; }
  int64_t reach() const { return reach_; }  // every distance is below it

 private:
  float* transposed(const Tensor& table, Memory& memory) const;

  Memory keys_memory_, queries_memory_, buckets_memory_;
  float* keys_ = nullptr;  // [heads, size, stride]
  float* queries_ = nullptr;
  int32_t* buckets_ = nullptr;  // of distances from 1 - reach to reach - 1
  int64_t size_ = 0, stride_ = 0, reach_ = 0;
};
