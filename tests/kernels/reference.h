// The operators again, in plain loops and double precision.
//
// A number carries how far float32 arithmetic may be off it. That matters where numbers become
// integers: one that is close to a tie may fall to either side.
#pragma once

#include <vector>

#include "check.h"

struct Number {
  double value = 0;
  double error = 0;
};
using Row = std::vector<Number>;

// Integers, less their zero point, and how far each may be off.
struct Doubtful {
  std::vector<int> integers, slack;
};

// A row as integers.
struct IntegerRow {
  bool is_known = true;  // false: nothing is known but the range of the integers
  Doubtful terms;        // a row's only term, or both in one
  Doubtful firsts;       // the first of two terms alone
  int units = 1;         // of both terms, in a step of the first
  Number step;           // of both
};

// A range for rows of a width: symmetric, one-sided, or with channels mixed where that is possible.
RowRange random_range(Random& random, int64_t width);

Row exact(const float* x, int64_t width);
Row normalize(const Norm& norm, const Row& x);
// Refined rows have both terms in their integers, which then count units of the second.
IntegerRow round_row(const RowRange& range, const Row& source, bool is_refined = false);
// Products of the row, times the scales of the columns and `step`, that of both terms.
Row multiply(const IntegerRow& row, const Number& step, const Weights& weights);
Row activate(Activation activation, const Row& x);
Number product(const Number& a, const Number& b);
// Adds factors[i] * terms[i]; nothing for null terms, and factors of one for null factors.
void add(Row& row, const Row* terms, const float* factors);
void add(Row& row, const float* terms, const float* factors = nullptr);
// Normalises and rotates the heads at the beginning of a row.
void place(const Heads& heads, Row& row, const float* cosines, const float* sines);

// Compares computed rows with the reference. At its end it checks that this proved something: that
// in most rows the reference was certain, but for `doubt` of the numbers' size.
class Comparison {
 public:
  Comparison(const char* what, double doubt) : what_(what), doubt_(doubt) {}
  ~Comparison();
  void rows(const float* computed, const std::vector<Row>& rows);

 private:
  const char* what_;
  double doubt_;
  int64_t certain_ = 0, all_ = 0;
};
