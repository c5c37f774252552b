// Where there is no memory left, kernels say so, and nothing is computed; later there may be some.
#include <cstring>
#include <thread>

#include "check.h"

namespace {

constexpr int64_t ROWS = 9, WIDTH = 70, INNER = 130;

// Runs in a thread of its own, which has kept no memory yet.
template <typename Compute>
void test_one(const char* what, Guarded& output, const Compute& compute) {
  std::thread([&] {
    has_memory = false;
    expect(!compute(), "%s: it did not notice that there is no memory", what);
    has_memory = true;
    for (int64_t i = 0; i < output.size(); ++i) {
      expect(output[i] == -1, "%s: it wrote without memory", what);
    }
    expect(compute(), "%s: it failed where there is memory", what);
    expect(output[0] != -1 && output[output.size() - 1] != -1, "%s: nothing was computed", what);
  }).join();
}

}  // namespace

void test_memory(const Kernels& kernels) {
  Random random(6);
  const RowRange range;
  Weights up(random, WIDTH, INNER, true), down(random, INNER, WIDTH, true);
  const Guarded x = random.normals(ROWS * WIDTH);
  Guarded y(ROWS * INNER, -1);

  Linear linear;
  linear.matrix = up.view(range);
  const int64_t numbers[] = {0, 8};
  const RefinedRows refined{numbers, 2, 0};
  test_one("linear", y,
           [&] { return kernels.linear(linear, x.data(), ROWS, refined, nullptr, y.data()); });

  Projection projection;
  projection.width = WIDTH;
  projection.num_parts = 1;
  projection.parts[0] = linear.matrix;
  Guarded projected(ROWS * INNER, -1);
  float* const outputs[2] = {projected.data(), nullptr};
  test_one("projection", projected, [&] {
    return kernels.project(projection, x.data(), ROWS, nullptr, nullptr, refined, outputs, nullptr);
  });

  FeedForward feed_forward;
  feed_forward.up = linear.matrix;
  feed_forward.down = down.view(range);
  Guarded z(ROWS * WIDTH, -1);
  test_one("feed-forward", z, [&] {
    return kernels.feed_forward(feed_forward, x.data(), ROWS, refined, nullptr, z.data());
  });

  const Guarded keys = random.normals(ROWS * 2 * WIDTH);
  const int32_t first_seen[ROWS] = {};
  int32_t end_seen[ROWS];
  for (int32_t& end : end_seen) end = ROWS;
  AttentionTask task;
  task.query = x.data();
  task.query_stride = task.output_stride = task.head_size = task.value_offset = WIDTH;
  task.num_queries = ROWS;
  task.num_heads = 1;
  task.runs[0] = {keys.data(), ROWS};
  task.key_stride = 2 * WIDTH;
  task.first_seen = first_seen;
  task.end_seen = end_seen;
  Guarded attended(ROWS * WIDTH, -1);
  task.output = attended.data();
  test_one("attention", attended, [&] { return kernels.attend(task); });

  const int8_t vectors[WIDTH] = {1, 2, 3};
  const int64_t start = 0, end = 1;
  const float one = 1;
  Guarded found(1, -1);
  NearestTask nearest;
  nearest.vectors = vectors;
  nearest.scales = nearest.shares = &one;
  nearest.starts = &start;
  nearest.ends = &end;
  nearest.query = x.data();
  nearest.width = WIDTH;
  nearest.num_query = 1;
  nearest.nearest = found.data();
  test_one("nearest", found, [&] { return kernels.nearest(nearest, 0, 1); });
}
