// What passes over columns (cuda/images/roll.h) are told: which windows they take, where slots lie, which tables are
// read in fours.
#pragma once
#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "cuda/images/code.h"

namespace fntk {

struct OnePass {
  int low = 0, wraps = 0;
  std::vector<int32_t> reads, row_reads;  // as StepCode has them
};

// Of each lane how far what it reads lies, or the zeros behind the row. False where a read
// counts more than once, or there are more than taps.
template <class T>
bool lane_reads(const ImageGrid& g, const Reads<T>& reads, int taps, std::vector<int32_t>& found) {
  for (const auto& mask : reads.mask_in) {
    const size_t begin = found.size();
    found.resize(begin + size_t(taps * g.lanes));
    for (long x = 0; x < g.lanes; ++x) {
      int count = 0;
      const auto put = [&](long distance) {
        found[begin + size_t(x * taps + count++)] = int32_t(distance * kPlaceSize * long(sizeof(T)));
      };
      for (size_t tap = 0; tap < reads.shift_in.size(); ++tap) {
        const T weight = mask[tap * size_t(g.lanes) + size_t(x)];
        if (weight == T(0)) continue;
        if (weight != T(1) || count == taps) return false;
        put(reads.shift_in[tap]);
      }
      while (count < taps) put(g.lanes - x);
    }
  }
  return true;
}

// False where a read counts more than once, or rows do not lie next to each other from found.low before a row's own on.
template <class T>
bool row_reads(const ImageGrid& g, const Reads<T>& reads, int taps, OnePass& found) {
  found.row_reads.clear();
  if (found.wraps && g.rows < taps) return false;
  for (const auto& mask : reads.mask_out) {
    const size_t begin = found.row_reads.size();
    found.row_reads.resize(begin + size_t(g.rows + taps - 1), 0);
    for (long y = found.low; found.wraps && y < g.rows + taps - 1; y += g.rows)
      found.row_reads[begin + size_t(y)] = kTurns;
    for (size_t tap = 0; tap < reads.shift_out.size(); ++tap)
      for (long y = 0; y < g.rows; ++y) {
        const T weight = mask[tap * size_t(g.rows) + size_t(y)];
        if (weight == T(0)) continue;
        long k = reads.shift_out[tap] + found.low;
        if (found.wraps) k = (k % g.rows + g.rows) % g.rows;
        if (weight != T(1) || k < 0 || k >= taps) return false;
        int32_t& bits = found.row_reads[begin + size_t(y + k)];
        if (bits >> k & 1) return false;
        bits |= 1 << k;
      }
  }
  return true;
}

template <class T>
bool one_pass(const ImageGrid& g, const Reads<T>& reads, int taps, OnePass& found) {
  if ((taps != 1 && taps != 3 && taps != 5) || !lane_reads(g, reads, taps, found.reads)) return false;
  for (int k = 0; k < 2 * taps; ++k) {
    found.wraps = k / taps;
    found.low = k % taps;
    if (row_reads(g, reads, taps, found)) return true;
  }
  return false;
}

// Adds `count` numbers of a step to its records, in quads of their own: its arrays from `array` on, or none for the
// first `skipped`; of the row `back` rows before.
inline void add_quads(const StepCode& s, long table, int array, int count, int skipped, int back, Records& records) {
  int* arrays = records.arrays + records.quads * kQuad;
  for (int k = 0; k < quads_of(count) * kQuad; ++k) arrays[k] = k < skipped || k >= count ? -1 : array + k - skipped;
  for (int k = 0; k < quads_of(count); ++k, ++records.quads) {
    records.back[records.quads] = back;
    records.from[records.quads] = table + s.arrays;
    records.stride[records.quads] = s.stride;
  }
}

// Of a window in one pass, as Roll (cuda/images/roll.h) reads them: coordinates and factor of the stage along the inner
// axes, of that along axis 0, bias, deviation.
inline void window_quads(const StepCode& s, long table, Records& records) {
  const int inner = s.taps_in > 1 ? s.taps_in : 0, outer = s.taps_out > 1 ? s.taps_out : 0, back = s.taps_out - 1;
  records.halo = back;
  add_quads(s, table, 0, inner, 0, s.low, records);
  add_quads(s, table, inner, outer + 3, 0, back, records);
  int* own = records.arrays + quads_of(inner) * kQuad + outer;
  if (!s.bias) own[2] = own[0], own[0] = own[1] = -1;
}

// Planes one after the other, or the numbers of a place side by side and zeros behind each row.
inline void place_slots(const ImageGrid& g, bool planes, GridCode& code) {
  code.lane_size = planes ? 1 : kPlaceSize;
  code.row_size = planes ? g.lanes : (g.lanes + 1) * kPlaceSize;
  code.slot_size = (planes ? 3 : 1) * g.rows * code.row_size;
  for (int p = 0; p < 3; ++p) code.plane_at[p] = planes ? p * g.rows * g.lanes : p == 0 ? 0 : 3 - p;
}

// What a window in one pass could not write to where others still read goes to the spare slot, which the one it came
// from then is.
inline void exchange(const ImageGrid& g, char* bytes, std::vector<StepCode>& steps) {
  std::vector<int> place(size_t(g.n_slots + 1));
  std::iota(place.begin(), place.end(), 0);
  int& spare = place.back();
  for (StepCode& s : steps) {
    const Kind kind = Kind(s.kind);
    auto* sources = reinterpret_cast<int32_t*>(bytes + s.sources);
    const bool reads = kind != Kind::input && kind != Kind::land, writes = kind != Kind::store && kind != Kind::join;
    for (int k = 0; k < s.n_src && reads; ++k) sources[k] = place[size_t(sources[k])];
    if (!writes) continue;
    int& own = place[size_t(s.dst)];
    if (s.taps_in > 0 && sources[0] == own) std::swap(own, spare);
    s.dst = own;
    s.spare = spare;
  }
}

}  // namespace fntk
