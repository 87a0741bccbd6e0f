// Pairs of images through one grid of an image program, element by element: host and device run this same text, so that
// machines without a GPU test it.
//
// A unit is one pair and one group of displacements along the inner axes; those along axis 0 it takes in turn, so its
// sums have one order. A team (a block, a warp, the host) shares a plane's elements and waits for all between passes.
#pragma once
#include "cuda/images/call.h"
#include "images/counted.h"
#include "math/counted.h"

namespace fntk {
namespace FNTK_ISA {

// Every: all nonlinearities, not the cheap ones alone, whose kernels the text of all would take registers from.
template <class T, class Team, bool Every = false>
struct ImageUnit {
  const Team team;
  const ImageLaunch<T>& c;
  T* scratch;
  long pair, group;

  const T *table1 = nullptr, *table2 = nullptr;
  int64_t flags = 0;
  int shift = 0;                        // along axis 0
  long shift_at = 0;                    // its place among the grid's
  int next = 0;                         // step
  uint32_t edges[2] = {0, 0};           // which rows of a chain meet
  const T* numbers = nullptr;           // of its next layer
  T first_numbers[kChainNumbers] = {};  // of one that begins behind an input
  int shown = 0;                        // where tiles show the next layer to each other
  long turn = 0;                        // of whoever takes unit after unit

  template <class E>
  FNTK_HD const E* at(long offset) const {
    return reinterpret_cast<const E*>(c.code + offset);
  }
  FNTK_HD const StepCode& step(int k) const { return at<StepCode>(c.grid.steps)[k]; }
  FNTK_HD const LinkCode& link(int k) const { return at<LinkCode>(c.links)[k]; }
  FNTK_HD long plane_size() const { return c.grid.rows * c.grid.lanes; }
  FNTK_HD T* plane(int slot, int p) const { return scratch + (3 * slot + p) * plane_size(); }
  FNTK_HD T* sums(int p) const { return plane(c.grid.n_slots, p); }
  FNTK_HD double* lost() const { return reinterpret_cast<double*>(plane(c.grid.n_slots + 1, 0)); }
  FNTK_HD double* linked() const { return c.linked + pair * c.pair_doubles; }
  FNTK_HD long first() const { return c.pairs[3 * pair]; }
  FNTK_HD long second() const { return c.pairs[3 * pair + 1]; }
  FNTK_HD const T* chain1() const { return c.chains1 + first() * c.chain_size; }
  FNTK_HD const T* chain2() const { return c.chains2 + second() * c.chain_size; }
  FNTK_HD int source(const StepCode& s) const { return at<int32_t>(s.sources)[0]; }
  FNTK_HD const uint8_t* lane_flags() const { return at<uint8_t>(c.grid.flags) + group * c.grid.lanes; }

  struct Place {
    int y, x;
    const T *a, *b;  // this step's tables: array k of both images is a[k lanes + x], b[k lanes + x]
  };
  FNTK_HD Place place(const StepCode& s, int k) const { return place(s.arrays, s.stride, k); }
  FNTK_HD Place place(long arrays, long stride, int k) const {
    const int lanes = int(c.grid.lanes), y = k / lanes;
    return place_at(arrays, stride, y, k - y * lanes);
  }
  FNTK_HD Place place_at(long arrays, long stride, int y, int x) const {
    const GridCode& g = c.grid;
    const int lanes = int(g.lanes);
    const int other = y + shift < g.rows ? y + shift : y + shift - int(g.rows);
    const int from = at<int32_t>(g.from)[group * lanes + x];
    return {y, x, table1 + arrays + y * stride, table2 + arrays + other * stride + (from - x)};
  }
  FNTK_HD Store<T> store_at(int slot, int y) const {
    const long row = y * c.grid.lanes;
    return Store<T>(plane(slot, 0) + row, plane(slot, 1) + row, plane(slot, 2) + row);
  }
  static FNTK_HD Weights<T> weights(const StepCode& s) { return {T(s.w), T(s.b2), T(s.w), T(s.alpha), T(s.beta)}; }

  FNTK_TEAM void begin() {
    table1 = c.tables1 + first() * c.table_size + c.grid.table;
    table2 = c.tables2 + second() * c.table_size + c.grid.table;
    flags = c.pairs[3 * pair + 2];
    for (int k = 0; k < c.grid.n_steps; ++k) {
      if (step(k).kind != int(Kind::join)) continue;
      double* out = joined(link(step(k).dst));
      team.each(3 * link(step(k).dst).n_rows * c.grid.lanes, [&](int at) { out[at] = 0; });
    }
    double* none = lost();
    if (c.grid.lost >= 0) team.each(2 * c.grid.lanes, [&](int at) { none[at] = 0; });
    set_shift(0);
  }

  FNTK_TEAM void end() {
    if (c.grid.lost < 0) return;
    const double* own = lost();
    double* out = c.lost + 2 * (pair * c.lost_units + c.grid.lost + group);
    const long lanes = c.grid.lanes;
    team.each(2, [&](int which) {
      double sum = 0;
      for (long x = 0; x < lanes; ++x) sum += own[which * lanes + x];
      out[which] = sum;
    });
  }

  FNTK_TEAM void set_shift(long k) {
    shift_at = k;
    shift = at<int32_t>(c.grid.shifts)[k];
  }

  FNTK_TEAM void run_step(const StepCode& s) {
    switch (Kind(s.kind)) {
      case Kind::input:
        return by_form(s.out, [&](auto form) { input<decltype(form)::value>(s); });
      case Kind::land:
        load(s);
        if (s.pool)
          by_form(s.in, [&](auto form) { land_pool<decltype(form)::value>(s); });
        else
          by_form(s.in, [&](auto form) { finished<decltype(form)::value>(s, s.dst, s.dst); });
        if ((flags & kSame) && s.in != int(Form::cov)) equal_positions(plane(s.dst, 0));
        return;
      case Kind::dense:
        return by_form(s.in, [&](auto form) { finished<decltype(form)::value>(s, source(s), s.dst); });
      case Kind::conv:
        return by_form(s.in, [&](auto form) { conv<decltype(form)::value>(s); });
      case Kind::sum:
        return by_form(s.in, [&](auto form) { sum<decltype(form)::value>(s); });
      case Kind::convert:
        if (s.out == int(Form::cov)) return by_form(s.in, [&](auto form) { to_cov<decltype(form)::value>(s); });
        return to_both(s);
      case Kind::store:
        return by_form(s.in, [&](auto form) { store<decltype(form)::value>(s); });
      case Kind::join:
        return join(s);
      default: {
        int index = -1;
#define FNTK_APPLY(Phi, name)           \
  ++index;                              \
  if constexpr (Every || Phi<T>::cheap) \
    if (s.dual == index) dual<Phi>(s);
        FNTK_DUALS(FNTK_APPLY)
#undef FNTK_APPLY
#define FNTK_APPLY(Phi, name) \
  if (s.dual == ++index) counted<Phi>(s);
        if constexpr (Every) {
          FNTK_COUNTED(FNTK_APPLY)
        }
#undef FNTK_APPLY
      }
    }
  }

  // The steps of all displacements along axis 0, up to the next chain, which is another's work; false: there is none.
  FNTK_TEAM bool to_chain() {
    for (;;) {
      if (next == c.grid.n_steps) {
        next = 0;
        if (shift_at + 1 == c.grid.n_shifts) {
          end();
          return false;
        }
        set_shift(shift_at + 1);
      }
      if (step(next).chain) {
        if (c.grid.tile_rows * c.grid.tile_columns == 1)
          for (int k = 0; k < 2; ++k) edges[k] = at<uint32_t>(step(next).chain_edges)[2 * shift_at + k];
        return true;
      }
      const StepCode& s = step(next);
      next += Team::rolls && s.fused ? 2 : 1;
      run_step(s);
    }
  }

  // Behind a chain; where it ends in covariances, registers have left s s' - K.
  FNTK_TEAM void end_chain() {
    const StepCode& s = step(next);
    next += 2 * s.chain;
    const bool cov = s.cov_arrays >= 0;
    team.each(cov ? plane_size() : 0, [&](int k) {
      const Place p = place(s.cov_arrays, s.cov_stride, k);
      plane(s.dst, 0)[k] = p.a[p.x] * p.b[p.x] - plane(s.dst, 0)[k];
    });
  }

 private:
  template <Form form>
  struct Is {
    static constexpr Form value = form;
  };
  template <class Work>
  FNTK_TEAM void by_form(int form, const Work& work) const {
    if (form == int(Form::cov))
      work(Is<Form::cov>());
    else if (form == int(Form::defect))
      work(Is<Form::defect>());
    else
      work(Is<Form::both_defects>());
  }
  FNTK_HD const int32_t* sources(const StepCode& s) const { return at<int32_t>(s.sources); }
  FNTK_HD double* joined(const LinkCode& l) const { return linked() + l.sums + group * 3 * l.n_rows * l.lanes; }

  template <Form form>
  FNTK_TEAM void input(const StepCode& s) {
    const long lanes = c.grid.lanes;
    team.each(plane_size(), [&](int k) {
      const Place p = place(s, k);
      T minus = T(0), plus = T(0);
      for (int channel = 0; channel < s.channels; ++channel)
        add_channel<T, form>(p.a[channel * lanes + p.x], p.b[channel * lanes + p.x], minus, plus);
      const long own = s.channels * lanes + p.x;
      put_input<T, form>(store_at(s.dst, p.y), p.x, p.a[own] * p.b[own], minus, plus);
    });
  }

  // The sums over both stages' taps lie in planes of slot `from`, element by element.
  template <Form form>
  FNTK_TEAM void finished(const StepCode& s, int from, int to) {
    const long lanes = c.grid.lanes;
    const Weights<T> w = weights(s);
    team.each(plane_size(), [&](int k) {
      const Place p = place(s, k);
      finish_place<form>(s, w, p, lanes, plane(from, 0)[k], form == Form::both_defects ? plane(from, 1)[k] : T(0),
                         plane(from, 2)[k], s.coords_in, store_at(to, p.y));
    });
  }

  // Behind the sums over the taps of the last stage, which has `coords` coordinates.
  template <Form form, class Sink>
  FNTK_HD void finish_place(const StepCode& s, const Weights<T>& w, const Place& p, long lanes, T v, T plus, T theta,
                            int coords, const Sink& sink) const {
    const T *a = p.a, *b = p.b;
    if constexpr (form != Form::cov) {
      const T more = spread(coords, a, b, lanes, p.x);
      v += more;
      if constexpr (form == Form::both_defects) plus += more;
      a += stage_arrays(coords) * lanes;
      b += stage_arrays(coords) * lanes;
    }
    if (s.bias)
      finish<T, form, true>(sink, w, a, b, lanes, p.x, v, plus, theta);
    else
      finish<T, form, false>(sink, w, a, b, lanes, p.x, v, plus, theta);
  }

  struct Sums {
    T of[3];
  };
  // Along the inner axes, at one place.
  template <Form form>
  FNTK_HD Sums inner_sums(const StepCode& s, const Place& p) const {
    const long lanes = c.grid.lanes;
    const int32_t* shift = at<int32_t>(s.shift_in);
    const T* mask = at<T>(s.mask_in) + group * s.n_in * lanes + p.x;
    const T more = form == Form::cov ? T(0) : spread(s.coords_in, p.a, p.b, lanes, p.x);
    Sums found = {{more, more, T(0)}};
    for (int q = 0; q < 3; ++q) {
      if (q == 1 && form != Form::both_defects) continue;
      const T* in = plane(source(s), q) + p.y * lanes + p.x;
      T sum = T(0);
      for (int tap = 0; tap < s.n_in; ++tap)
        if (mask[tap * lanes] != T(0)) sum = fma(mask[tap * lanes], in[shift[tap]], sum);
      found.of[q] += sum;
    }
    return found;
  }
  // Tables behind those of the stage along the inner axes.
  template <Form form>
  FNTK_HD Place outer_place(const StepCode& s, const Place& p) const {
    const long before = form == Form::cov ? 0 : stage_arrays(s.coords_in) * c.grid.lanes;
    return {p.y, p.x, p.a + before, p.b + before};
  }

  template <Form form>
  FNTK_TEAM void conv(const StepCode& s) {
    if constexpr (Team::rolls)
      if (s.rolls >= 0) return in_one_pass<form>(s);
    stages<form>(s);
  }

  template <Form form>
  FNTK_TEAM void in_one_pass(const StepCode& s) {
    const int slot = source(s) == s.dst ? c.grid.n_slots : s.dst;  // not where others still read
    const StepCode* after = s.fused ? &s + 1 : nullptr;
    roll<form>(s, slot, after);
    const int out = after ? after->out : s.out;
    team.each(slot == s.dst ? 0 : plane_size(), [&](int k) {
      for (int q = 0; q < 3; ++q)
        if (q != 1 || out == int(Form::both_defects)) plane(s.dst, q)[k] = plane(slot, q)[k];
    });
  }

  // Windows of three rows in one pass: a column at a time, stretches of its rows, whose sums along the inner axes roll.
  template <Form form>
  FNTK_TEAM void roll(const StepCode& s, int slot, const StepCode* after) {
    const int rows = int(c.grid.rows), lanes = int(c.grid.lanes), stretches = (rows + kStretch - 1) / kStretch;
    const int low = s.rolls == kValidRows ? 0 : 1;
    const bool wraps = s.rolls == kCircularRows;
    const T* mask = at<T>(s.mask_out) + shift_at * s.n_out * rows;
    const Weights<T> w = weights(s);
    team.each(long(stretches) * lanes, [&](int k) {
      const int x = k % lanes, begin = k / lanes * kStretch, end = begin + kStretch < rows ? begin + kStretch : rows;
      const auto row = [&](int y) -> Sums {
        if (wraps) y = y < 0 ? y + rows : y < rows ? y : (y - rows) % rows;
        if (y < 0 || y >= rows) return {{T(0), T(0), T(0)}};
        return inner_sums<form>(s, place_at(s.arrays, s.stride, y, x));
      };
      Sums read[3] = {{}, row(begin - low), row(begin - low + 1)};
      FNTK_ROLLED
      for (int y = begin; y < end; ++y) {
        read[0] = read[1];
        read[1] = read[2];
        read[2] = row(y - low + 2);
        T found[3] = {T(0), T(0), T(0)};
        for (int from = 0; from < 3; ++from) {
          const int tap = s.row_taps[from];
          const T weight = wraps ? T(1) : tap < 0 ? T(0) : mask[tap * rows + y];
          if (weight == T(0)) continue;
          for (int q = 0; q < 3; ++q)
            if (q != 1 || form == Form::both_defects) found[q] = fma(weight, read[from].of[q], found[q]);
        }
        const Place p = outer_place<form>(s, place_at(s.arrays, s.stride, y, x));
        const Place own = place_at(after ? after->arrays : 0, after ? after->stride : 0, y, x);
        const Behind<T> sink = {after, store_at(slot, y), own.a, own.b, lanes};
        finish_place<form>(s, w, p, lanes, found[0], found[1], found[2], s.coords_out, sink);
      }
    });
  }

  // Any window: one stage, then the other.
  template <Form form>
  FNTK_TEAM void stages(const StepCode& s) {
    const GridCode& g = c.grid;
    const long lanes = g.lanes;
    const int32_t* shift_out = at<int32_t>(s.shift_out);
    const T* mask_out = at<T>(s.mask_out) + shift_at * s.n_out * g.rows;
    team.each(plane_size(), [&](int k) {
      const Sums found = inner_sums<form>(s, place(s, k));
      for (int q = 0; q < 3; ++q)
        if (q != 1 || form == Form::both_defects) sums(q)[k] = found.of[q];
    });
    const Weights<T> w = weights(s);
    team.each(plane_size(), [&](int k) {
      const Place p = outer_place<form>(s, place(s, k));
      T found[3] = {T(0), T(0), T(0)};
      for (int tap = 0; tap < s.n_out; ++tap) {
        const T mask = mask_out[tap * g.rows + p.y];
        if (mask == T(0)) continue;
        const long from = k + shift_out[tap] * lanes;
        for (int q = 0; q < 3; ++q)
          if (q != 1 || form == Form::both_defects) found[q] = fma(mask, sums(q)[from], found[q]);
      }
      finish_place<form>(s, w, p, lanes, found[0], found[1], found[2], s.coords_out, store_at(s.dst, p.y));
    });
  }

  template <Form form>
  FNTK_TEAM void sum(const StepCode& s) {
    const long lanes = c.grid.lanes;
    const int32_t* from = sources(s);
    team.each(plane_size(), [&](int k) {
      const Place p = place(s, k);
      T found[3] = {T(0), T(0), T(0)};
      for (int part = 0; part < s.n_src; ++part)
        for (int q = 0; q < 3; ++q)
          if (q != 1 || form == Form::both_defects) found[q] += plane(from[part], q)[k];
      T more = T(0);
      if constexpr (form != Form::cov) more = spread(s.n_src - 1, p.a, p.b, lanes, p.x);
      store_at(s.dst, p.y).template put<form>(p.x, found[0] + more, found[1] + more, found[2]);
    });
  }

  template <Form form>
  FNTK_TEAM void to_cov(const StepCode& s) {
    const int slot = source(s);
    team.each(plane_size(), [&](int k) {
      const Place p = place(s, k);
      store_at(s.dst, p.y).template put<Form::cov>(p.x, covariance<form>(p, slot, k), T(0), plane(slot, 2)[k]);
    });
  }
  template <Form form>
  FNTK_HD T covariance(const Place& p, int slot, int k) const {
    const T r = form == Form::cov ? T(0) : p.a[p.x] * p.b[p.x];
    return covariance_of<T, form>(plane(slot, 0)[k], form == Form::both_defects ? plane(slot, 1)[k] : T(0), r);
  }

  FNTK_TEAM void to_both(const StepCode& s) {
    const int slot = source(s);
    team.each(plane_size(), [&](int k) {
      const Place p = place(s, k);
      const T v = plane(slot, 0)[k];
      store_at(s.dst, p.y).template put<Form::both_defects>(p.x, v, T(2) * p.a[p.x] * p.b[p.x] - v, plane(slot, 2)[k]);
    });
  }

  template <template <class> class Phi>
  FNTK_TEAM void dual(const StepCode& s) {
    const bool both = s.in == int(Form::both_defects), cov = s.out == int(Form::cov);
    if (both && cov)
      apply<Phi, Form::both_defects, true>(s);
    else if (both)
      apply<Phi, Form::both_defects, false>(s);
    else if (cov)
      apply<Phi, Form::defect, true>(s);
    else
      apply<Phi, Form::defect, false>(s);
  }
  template <template <class> class Phi, Form form, bool cov>
  FNTK_TEAM void apply(const StepCode& s) {
    const Phi<T> phi(s.params);
    const int slot = source(s);
    const long lanes = c.grid.lanes;
    team.each(plane_size(), [&](int k) {
      const Place p = place(s, k);
      const long row = p.y * lanes;
      T* const out[3] = {plane(s.dst, 0) + row, plane(s.dst, 1) + row, plane(s.dst, 2) + row};
      const Apply<Phi, T, cov, true> sink(phi, p.a, p.b, out, lanes);
      sink.template put<form, false>(p.x, plane(slot, 0)[k], form == Form::both_defects ? plane(slot, 1)[k] : T(0),
                                     plane(slot, 2)[k], T(0));
    });
  }

  template <template <class> class Phi>
  FNTK_TEAM void counted(const StepCode& s) {
    const bool both = s.in == int(Form::both_defects), cov = s.out == int(Form::cov);
    if (both && cov)
      count<Phi, Form::both_defects, true>(s);
    else if (both)
      count<Phi, Form::both_defects, false>(s);
    else if (cov)
      count<Phi, Form::defect, true>(s);
    else
      count<Phi, Form::defect, false>(s);
  }
  template <template <class> class Phi, Form form, bool cov>
  FNTK_TEAM void count(const StepCode& s) {
    const Phi<T> phi(at<T>(s.constants), s.n_params);
    const int slot = source(s);
    const long lanes = c.grid.lanes;
    team.each(plane_size(), [&](int k) {
      const Place p = place(s, k);
      const T* const in[3] = {plane(slot, 0) + k, plane(slot, 1) + k, plane(slot, 2) + k};
      T* const out[3] = {plane(s.dst, 0) + k, plane(s.dst, 1) + k, plane(s.dst, 2) + k};
      counted_places<T, 1, form, cov>(phi, PlaneRows<T>{p.a + p.x, p.b + p.x, lanes}, in, out);
    });
  }

  FNTK_TEAM void load(const StepCode& s) {
    const LinkCode& l = link(source(s));
    const double* in = linked() + l.planes + (group * l.n_rows + shift_at * c.grid.rows) * c.grid.lanes;
    team.each(plane_size(), [&](int k) {
      for (int q = 0; q < 3; ++q) plane(s.dst, q)[k] = T(in[q * l.size + k]);
    });
  }

  template <Form form>
  FNTK_TEAM void land_pool(const StepCode& s) {
    const long lanes = c.grid.lanes;
    const bool counts = form != Form::cov && sizeof(T) == sizeof(float);
    team.each(lanes, [&](int x) {  // a lane at a time: what is lost adds up in one order
      T some = T(0), all = T(0);
      for (int y = 0; y < c.grid.rows; ++y) {
        const int k = int(y * lanes) + x;
        const Place p = place(s, k);
        const Pooled<T> found = pooled<T, form>(p.a, p.b, lanes, x, plane(s.dst, 0)[k], plane(s.dst, 1)[k]);
        some += found.lost;
        all += found.all;
        store_at(s.dst, y).template put<form>(x, found.value, found.plus, found.weight * plane(s.dst, 2)[k]);
      }
      const uint8_t own = lane_flags()[x];
      if (!counts || !(own & kLive)) return;
      // an image with itself loses nothing at equal positions
      if (!((flags & kSame) && shift == 0 && (own & kEqual))) lost()[x] += double(some);
      lost()[lanes + x] += double(all);
    });
  }

  // An image with itself at equal positions: K = s s, whatever was rounded on the way.
  FNTK_TEAM void equal_positions(T* v) {
    if (shift != 0) return;
    const int lanes = int(c.grid.lanes);
    team.each(plane_size(), [&](int k) {
      if (lane_flags()[k % lanes] & kEqual) v[k] = T(0);
    });
  }

  FNTK_TEAM void join(const StepCode& s) {
    const LinkCode& l = link(s.dst);
    const int lanes = int(c.grid.lanes), slot = source(s);
    const int32_t* start = at<int32_t>(l.join_start) + shift_at;
    const int32_t *items = at<int32_t>(l.joins) + 3 * start[0], *from = at<int32_t>(l.join_from);
    double* out = joined(l);
    team.each(long(start[1] - start[0]) * lanes, [&](int k) {
      const int32_t* item = items + 3 * (k / lanes);
      const int x = k % lanes;
      for (int q = 0; q < 3; ++q) {
        if (q == 1 && s.in != int(Form::both_defects)) continue;
        double* to = out + (q * l.n_rows + item[0]) * lanes + x;
        double sum = *to;
        for (int row = item[1]; row < item[2]; ++row) sum += double(plane(slot, q)[from[row] * lanes + x]);
        *to = sum;
      }
    });
  }

  template <Form form>
  FNTK_TEAM void store(const StepCode& s) {
    const int lanes = int(c.grid.lanes), slot = source(s);
    const int64_t *places = at<int64_t>(s.place) + group * lanes, *opposites = at<int64_t>(s.opposite) + group * lanes;
    const double length = c.lengths[pair];
    team.each(plane_size(), [&](int k) {
      const Place p = place(s, k);
      const int other = p.y + shift < c.grid.rows ? p.y + shift : p.y + shift - int(c.grid.rows);
      if (places[p.x] < 0 || p.y >= s.extent_rows || other >= s.extent_rows) return;
      const long to = places[p.x] + p.y * s.row_stride + other * s.other_stride;
      const long mirror = opposites[p.x] + other * s.row_stride + p.y * s.other_stride;
      if ((flags & kDiagonal) && mirror < to) return;  // one of two equal numbers
      for (int q = 0; q < 2; ++q) {
        if (!c.planes[s.dst][q]) continue;
        T* out = c.planes[s.dst][q] + pair * c.sizes[s.dst];
        const T value = T(double(q == 0 ? covariance<form>(p, slot, k) : plane(slot, 2)[k]) * length);
        out[to] = value;
        if (flags & kDiagonal) out[mirror] = value;
      }
    });
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
