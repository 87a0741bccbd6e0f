// Products with matrices over pairs of positions: out = A k B^T of every two images.
#pragma once
#include <cstdint>

#include "common/parallel.h"
#include "common/program.h"

namespace fntk {

struct Isa;

// What is made of a defect before it is added up, and of the sum: kRest is 1 - |v| with its sign, v again of that.
enum MixOf { kAsIs = 0, kRest = 1, kNear = 2, kFar = 3 };  // kNear: 1 - rho, kFar: 1 + rho

template <class T>
struct Mix {
  Plane<const T> source;  // batch x (n1 before) x (n2 before)
  Plane<T> out;    // batch x (n1 behind) x (n2 behind), or where equal positions alone are wanted, behind x n1 x n2
  const T* left;   // of each image behind x before
  const T* right;  // of each image before x padded, transposed; for equal positions behind x before
  long batches, n1, n2;  // images of both sides in a batch; of images with themselves one, and a batch for each
  long before, behind, padded;
  bool full, symmetric;
  MixOf in, of_sum;
  const uint8_t* equal;  // n1 x n2: pairs that are one image, whose equal positions have the defect 0; or null
  uint8_t* close;        // n1 x n2: set where any other defect is nearer to 0 than `least`; or null
  T least;
};

constexpr long kMixLines = 64;  // of the result that a unit makes, and of the source that it reads at a time

template <class T>
struct MixUnit {
  long batch, image, first, count, line, lines;  // images first .. of the second side
  T* buffer;                                     // of mix_buffer() elements, zero at first
};

inline long round_up(long n, long to) { return (n + to - 1) / to * to; }

// Images of the second side that one unit takes, and columns of its buffers.
template <class T>
long mix_group(const Mix<T>& m) {
  return std::max(1L, std::min(m.n2, kMaxCols / std::max(1L, m.before)));
}
template <class T>
long mix_columns(const Mix<T>& m) {
  return round_up(mix_group(m) * m.before, 64);
}
template <class T>
long mix_buffer(const Mix<T>& m) {
  return kMixLines * (2 * mix_columns(m) + m.padded);
}

template <class T>
void mix(const Mix<T>& call, const Isa& isa, int threads, const Interrupt& interrupt);

}  // namespace fntk
