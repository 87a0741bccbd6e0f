// What the lines of a unit have in common where an input is a window, and one line of it.
#pragma once
#include <algorithm>
#include <cmath>

#include "dense/window.h"

namespace fntk {

template <class T>
class WindowUnit {
 public:
  // Shares of columns j .. j + cols, and where they read; 0 up to whole vectors.
  void begin(const Window<T>& w, long batch, long j, long cols) {
    const long whole = (cols + kLanes - 1) / kLanes * kLanes;
    if (taps_.size() != size_t(w.taps)) reserve(w);
    batch_ = batch;
    j_ = j;
    for (int t = 0; t < w.taps; ++t) {
      T* share = shares(t);
      T* seen = share + kMaxCols;
      const long from_batch = w.by_batch ? w.from1[t * w.n_from1 + batch] : batch;
      for (long c = cols; c < whole; ++c) share[c] = seen[c] = T(0);
      if (from_batch < 0) continue;
      const double *std = w.std2.at(from_batch, 0, 0), *inverse = w.inverse2.at(batch, 0, j);
      if (w.by_batch) {
        for (long c = 0; c < cols; ++c) share[c] = share_of(std[j + c], inverse[c]);
        continue;
      }
      const int32_t* from = w.from2 + t * w.n_from2 + batch * w.n_cols + j;
      for (long c = 0; c < cols; ++c) {
        seen[c] = from[c] < 0 ? T(0) : T(1);
        share[c] = from[c] < 0 ? T(0) : share_of(std[from[c]], inverse[c]);
      }
    }
    const double* inverse = w.inverse2.at(batch, 0, j);
    T* own = shares(w.taps);
    for (long c = 0; c < cols; ++c) own[c] = share_of(w.bias, inverse[c]);
    for (long c = cols; c < whole; ++c) own[c] = T(0);
  }

  // Line i of the unit's batch, columns from j on, up to `whole` of them without meaning; `loop` is that of an
  // instruction set.
  template <class Loop>
  void line(const Window<T>& w, Loop loop, long i, long j, int cols, int whole, T* v, T* theta) {
    WindowLine<T> found = {taps_.data(), 0, apart_.data(), 0, T(0), shares(w.taps) + (j - j_)};
    const double inverse = *w.inverse1.at(batch_, 0, i);
    found.bias1 = share_of(w.bias, inverse);
    for (int t = 0; t < w.taps; ++t) {
      const long from = w.from1[t * w.n_from1 + (w.by_batch ? batch_ : batch_ * w.n_lines + i)];
      if (from < 0) {
        if (!w.by_batch) apart_[size_t(found.n_apart++)] = shares(t) + (j - j_);
        continue;
      }
      const long batch = w.by_batch ? from : batch_, line = w.by_batch ? i : from;
      Tap<T>& tap = taps_[size_t(found.n_taps++)];
      tap.p1 = share_of(*w.std1.at(batch, 0, line), inverse);
      tap.p2 = shares(t) + (j - j_);
      tap.seen = w.by_batch ? nullptr : tap.p2 + kMaxCols;
      tap.v = read(w, w.defect, t, batch, line, j, cols, whole, 0);
      tap.theta = theta && w.theta ? read(w, w.theta, t, batch, line, j, cols, whole, 1) : nullptr;
    }
    loop(found, whole, v, theta);
  }

 private:
  static constexpr long kLanes = 16;  // columns of the widest vector

  static T share_of(double std, double inverse) { return T(std * inverse * std::sqrt(0.5)); }
  T* shares(int tap) { return shares_.data() + 2 * tap * kMaxCols; }

  void reserve(const Window<T>& w) {
    taps_.resize(size_t(w.taps));
    apart_.resize(size_t(w.taps));
    shares_.assign(size_t(2 * (w.taps + 1) * kMaxCols), T(0));
    copies_.assign(size_t(2 * w.taps * kMaxCols), T(0));
  }

  // What a tap reads: where it lies, if columns are as far from each other there; else a copy of it.
  const T* read(const Window<T>& w, const Plane<const T>& plane, int tap, long batch, long line, long j, int cols,
                int whole, int which) {
    const long shift = w.by_batch ? 0 : w.shift[size_t(tap)];
    if (shift != Window<T>::kNoShift) {
      const bool packed = plane.stride == w.cols && plane.batch_stride == w.lines * w.cols;
      const long first = packed ? (batch * w.lines + line) * w.cols + j + shift : j + shift;
      if (first >= 0 && first + whole <= (packed ? w.batches * w.lines * w.cols : w.cols))
        return plane.at(batch, line, j + shift);
    }
    T* copy = copies_.data() + (2 * tap + which) * kMaxCols;
    const T* in = plane.at(batch, line, 0);
    if (w.by_batch) {
      std::copy_n(in + j, cols, copy);
      return copy;
    }
    const int32_t* from = w.from2 + tap * w.n_from2 + batch * w.n_cols + j;
    for (int c = 0; c < cols; ++c)
      if (from[c] >= 0) copy[c] = in[from[c]];
    return copy;
  }

  long batch_ = 0, j_ = 0;
  std::vector<Tap<T>> taps_;
  std::vector<const T*> apart_;
  std::vector<T> shares_, copies_;
};

}  // namespace fntk
