// Inputs of a program that are windows of a value over pairs of positions: a sum of independent parts, one for each tap
// and one for the biases. Positions are lines and columns, or where equal positions alone are wanted, batches.
#pragma once
#include <cstdint>
#include <vector>

#include "common/program.h"

namespace fntk {

template <class T>
struct Window {
  static constexpr long kNoShift = INT64_MAX;

  int taps = 0;                           // 0: this input is none
  Plane<const T> defect, theta;           // of what is read; theta absent: 0
  long batches = 0, lines = 0, cols = 0;  // of these
  bool by_batch = false;                  // taps read other batches, else other lines and columns
  const int32_t *from1 = nullptr,
                *from2 = nullptr;  // by tap: what each batch or line, and each column reads; -1: nothing
  long n_from1 = 0, n_from2 = 0;   // of one tap
  long n_lines = 0, n_cols = 0;    // of the result
  std::vector<long> shift;         // by tap: how far from2 is off, where that is one number
  Plane<const double> std1, std2, inverse1, inverse2;  // deviation of each tap by what is read; 1 / that of the sum
  double bias = 0;                                     // deviation of the biases
};

// One tap of one line: shares of the deviation, over sqrt(2).
template <class T>
struct Tap {
  const T *v, *theta;  // theta null: 0
  const T* seen;       // 1 where something is read, else 0; null: everywhere
  const T* p2;
  T p1;
};

// Taps that read something, and p2 of those that do not at this line's position.
template <class T>
struct WindowLine {
  const Tap<T>* taps;
  int n_taps;
  const T* const* apart;
  int n_apart;
  T bias1;
  const T* bias2;
};

template <class T>
struct Mix;  // dense/mix.h
template <class T>
struct MixUnit;

// What one instruction set offers for one dtype.
template <class T>
struct PositionKernels {
  void (*window)(const WindowLine<T>& line, int cols, T* v, T* theta);  // theta null: not wanted
  void (*mix)(const Mix<T>& call, const MixUnit<T>& unit);
};

}  // namespace fntk
