// Pairs of images through one grid of an image program, element by element: host and device run this same text, so that
// machines without a GPU test it.
//
// A unit is one pair and one group of displacements along the inner axes; those along axis 0 it takes in turn, so its
// sums have one order. A team (a block, a warp, the host) shares a plane's elements and waits for all between passes.
#pragma once
#include "cuda/images/roll.h"
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

  const T *table1 = nullptr, *table2 = nullptr, *records1 = nullptr, *records2 = nullptr;
  int n_columns = 0;         // of a plane, in stretches
  Column first_column = {};  // that this thread takes
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
  // Of row y and lane x the number at(y, x).
  FNTK_HD T* plane(int slot, int p) const { return scratch + slot * c.grid.slot_size + c.grid.plane_at[p]; }
  FNTK_HD int at(int y, int x) const { return y * int(c.grid.row_size) + x * int(c.grid.lane_size); }
  FNTK_HD double* lost() const { return reinterpret_cast<double*>(scratch + (c.grid.n_slots + 1) * c.grid.slot_size); }
  FNTK_HD double* linked() const { return c.linked + pair * c.pair_doubles; }
  FNTK_HD long first() const { return c.pairs[3 * pair]; }
  FNTK_HD long second() const { return c.pairs[3 * pair + 1]; }
  FNTK_HD const T* chain1() const { return c.chains1 + first() * c.chain_size; }
  FNTK_HD const T* chain2() const { return c.chains2 + second() * c.chain_size; }
  FNTK_HD int source(const StepCode& s) const { return at<int32_t>(s.sources)[0]; }
  FNTK_HD const uint8_t* lane_flags() const { return at<uint8_t>(c.grid.flags) + group * c.grid.lanes; }

  struct Place {
    int y, x, at;    // at: of planes
    const T *a, *b;  // this step's tables: array k of both images is a[k lanes], b[k lanes]
  };
  // work(place) for each one of a plane.
  template <class Work>
  FNTK_TEAM void each_place(const StepCode& s, const Work& work) const {
    team.places(int(c.grid.rows), int(c.grid.lanes), [&](int y, int x) { work(place(s.arrays, s.stride, y, x)); });
  }
  FNTK_HD int met(int y) const { return y + shift < c.grid.rows ? y + shift : y + shift - int(c.grid.rows); }
  FNTK_HD int from(int x) const { return at<int32_t>(c.grid.from)[group * c.grid.lanes + x]; }
  FNTK_HD Place place(long arrays, long stride, int y, int x) const {
    return {y, x, at(y, x), table1 + arrays + y * stride + x, table2 + arrays + met(y) * stride + from(x)};
  }
  FNTK_HD Store<T> store_at(int slot, int at) const {
    return Store<T>(plane(slot, 0) + at, plane(slot, 1) + at, plane(slot, 2) + at);
  }
  static FNTK_HD Weights<T> weights(const StepCode& s) { return {T(s.w), T(s.b2), T(s.w), T(s.alpha), T(s.beta)}; }

  FNTK_TEAM void begin() {
    table1 = c.tables1 + first() * c.table_size + c.grid.table;
    table2 = c.tables2 + second() * c.table_size + c.grid.table;
    flags = c.pairs[3 * pair + 2];
    records1 = chain1();
    records2 = chain2();
    for (int k = 0; k < c.grid.n_steps; ++k) {
      if (step(k).kind != int(Kind::join)) continue;
      double* out = joined(link(step(k).dst));
      team.each(3 * link(step(k).dst).n_rows * c.grid.lanes, [&](int at) { out[at] = 0; });
    }
    double* none = lost();
    if (c.grid.lost >= 0) team.each(2 * c.grid.lanes, [&](int at) { none[at] = 0; });
    if (c.grid.lane_size == kPlaceSize) clear();
    set_shift(0);
  }

  // What nobody writes to but windows in one pass read: places behind each row, and the last number of each place.
  FNTK_TEAM void clear() {
    const int lanes = int(c.grid.lanes), lines = (c.grid.n_slots + 1) * int(c.grid.rows);
    T* const own = scratch;
    team.places(lines, lanes, [&](int y, int x) {
      T* const line = own + long(y) * (lanes + 1) * kPlaceSize;
      line[x * kPlaceSize + kPlaceSize - 1] = T(0);
      if (x < kPlaceSize) line[lanes * kPlaceSize + x] = T(0);
    });
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
    if constexpr (Team::rolls) {
      const int turn = int(c.grid.rows) - shift;
      n_columns = ((turn + kStretch - 1) / kStretch + (shift + kStretch - 1) / kStretch) * int(c.grid.lanes);
      if (team.first(n_columns) < n_columns) first_column = column_of(team.first(n_columns));
    }
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
    team.places(cov ? int(c.grid.rows) : 0, int(c.grid.lanes), [&](int y, int x) {
      const Place p = place(s.cov_arrays, s.cov_stride, y, x);
      T& own = plane(s.dst, 0)[p.at];
      own = p.a[0] * p.b[0] - own;
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
    each_place(s, [&](const Place& p) {
      T minus = T(0), plus = T(0);
      for (int channel = 0; channel < s.channels; ++channel)
        add_channel<T, form>(p.a[channel * lanes], p.b[channel * lanes], minus, plus);
      const long own = s.channels * lanes;
      put_input<T, form>(store_at(s.dst, p.at), 0, p.a[own] * p.b[own], minus, plus);
    });
  }

  // The sums over both stages' taps lie in planes of slot `from`, element by element.
  template <Form form>
  FNTK_TEAM void finished(const StepCode& s, int from, int to) {
    const Weights<T> w = weights(s);
    each_place(s, [&](const Place& p) {
      finish_place<form>(s, w, p.a, p.b, sums_at<form>(from, p.at), s.coords_in, to, p.at);
    });
  }
  template <Form form>
  FNTK_HD Sums<T> sums_at(int slot, int at) const {
    return {plane(slot, 0)[at], plane(slot, 2)[at], form == Form::both_defects ? plane(slot, 1)[at] : T(0)};
  }

  // Behind the sums over the taps of the last stage, which has `coords` coordinates.
  template <Form form>
  FNTK_HD void finish_place(const StepCode& s, const Weights<T>& w, const T* a, const T* b, Sums<T> found, int coords,
                            int to, int at) const {
    const long lanes = c.grid.lanes;
    if constexpr (form != Form::cov) {
      const T more = spread(coords, a, b, lanes, 0);
      add<form>(found, {more, T(0), more});
      a += stage_arrays(coords) * lanes;
      b += stage_arrays(coords) * lanes;
    }
    const Store<T> sink = store_at(to, at);
    if (s.bias)
      finish<T, form, true>(sink, w, a, b, lanes, 0, found.v, found.p, found.t);
    else
      finish<T, form, false>(sink, w, a, b, lanes, 0, found.v, found.p, found.t);
  }

  template <Form form>
  FNTK_TEAM void conv(const StepCode& s) {
    if constexpr (Team::rolls) {
      if (s.taps_in == 3) return roll<form, 3, 3>(s);
      if (s.taps_in == 5) return roll<form, 5, 5>(s);
      if (s.taps_in == 1) return roll<form, 1, 1>(s);
    }
    stages<form>(s);
  }

  template <Form form, int NI, int NO>
  FNTK_TEAM void roll(const StepCode& s) {
    if (!s.fused) return roll_then<form, NI, NO>(s, Kept());
    if constexpr (form != Form::cov) {
      const StepCode& after = (&s)[1];
      const bool cov = after.out == int(Form::cov);
      int index = -1;
#define FNTK_APPLY(Phi, name)                                                           \
  ++index;                                                                              \
  if constexpr (Phi<T>::cheap && NI == 3)                                               \
    if (after.dual == index)                                                            \
      return cov ? roll_then<form, NI, NO>(s, Bent<Phi, T, true>{Phi<T>(after.params)}) \
                 : roll_then<form, NI, NO>(s, Bent<Phi, T, false>{Phi<T>(after.params)});
      FNTK_DUALS(FNTK_APPLY)
#undef FNTK_APPLY
    }
  }

  template <Form form, int NI, int NO, class Then>
  FNTK_TEAM void roll_then(const StepCode& s, const Then& then) {
    using Pass = Roll<T, form, NI, NO, Then>;
    const int rows = int(c.grid.rows);
    const T* in = plane(source(s), 0);
    T* const out = plane(s.dst, 0);
    const int32_t *reads = at<int32_t>(s.reads) + group * NI * c.grid.lanes,
                  *row_reads = at<int32_t>(s.row_reads) + shift_at * (rows + NO - 1);
    columns([&](const Column& own) {
      const Pass pass = {then,
                         weights(s),
                         s.bias != 0,
                         s.wraps != 0,
                         rows,
                         s.low,
                         c.grid.row_size,
                         in + own.at,
                         out + own.at,
                         reads + own.x * NI,
                         row_reads + own.begin,
                         records<Pass::kQuads>(s, own)};
      pass.column(own.begin, own.count);
    });
  }
  template <int quads>
  FNTK_HD RecordWalk<T> records(const StepCode& s, const Column& own) const {
    constexpr int block = quads * kQuad * kRecordLanes;
    return {records1 + s.records + (own.block1 * block + own.within1),
            records2 + s.records + (own.block2 * block + own.within2),
            long(c.grid.lanes / kRecordLanes * block * sizeof(T))};
  }
  // work(column) for stretches of all columns of a plane; none goes on where the second image's rows begin anew.
  template <class Work>
  FNTK_TEAM void columns(const Work& work) const {
    Column own = first_column;
    team.strides(n_columns, [&](int k, bool begins) {
      if (!begins) own = column_of(k);
      work(own);
    });
  }
  FNTK_HD Column column_of(int k) const {
    const int rows = int(c.grid.rows), lanes = int(c.grid.lanes), blocks = lanes / kRecordLanes;
    const int stretch = k / lanes, x = k - stretch * lanes;
    const int turn = rows - shift, before = (turn + kStretch - 1) / kStretch;
    const int begin = stretch < before ? stretch * kStretch : turn + (stretch - before) * kStretch;
    const int last = stretch < before ? turn : rows, other = from(x);
    return {begin,
            begin + kStretch < last ? kStretch : last - begin,
            x,
            at(begin, x),
            begin * blocks + x / kRecordLanes,
            met(begin) * blocks + other / kRecordLanes,
            x % kRecordLanes * kQuad,
            other % kRecordLanes * kQuad};
  }

  // Any window: one stage, then the other.
  template <Form form>
  FNTK_TEAM void stages(const StepCode& s) {
    const GridCode& g = c.grid;
    const int lanes = int(g.lanes), slot = source(s), size = int(g.lane_size), row_size = int(g.row_size);
    const int32_t *shift_in = at<int32_t>(s.shift_in), *shift_out = at<int32_t>(s.shift_out);
    const T *mask_in = at<T>(s.mask_in) + group * s.n_in * lanes,
            *mask_out = at<T>(s.mask_out) + shift_at * s.n_out * g.rows;
    each_place(s, [&](const Place& p) {
      Sums<T> found = {T(0), T(0), T(0)};
      for (int tap = 0; tap < s.n_in; ++tap)
        add_read<form>(found, mask_in[tap * lanes + p.x], slot, p.at + shift_in[tap] * size);
      const T more = form == Form::cov ? T(0) : spread(s.coords_in, p.a, p.b, lanes, 0);
      store_at(s.spare, p.at).template put<form>(0, more + found.v, more + found.p, found.t);
    });
    const Weights<T> w = weights(s);
    const long before = form == Form::cov ? 0 : stage_arrays(s.coords_in) * lanes;  // tables of the stage that is done
    each_place(s, [&](const Place& p) {
      Sums<T> found = {T(0), T(0), T(0)};
      for (int tap = 0; tap < s.n_out; ++tap)
        add_read<form>(found, mask_out[tap * g.rows + p.y], s.spare, p.at + shift_out[tap] * row_size);
      finish_place<form>(s, w, p.a + before, p.b + before, found, s.coords_out, s.dst, p.at);
    });
  }
  template <Form form>
  FNTK_HD void add_read(Sums<T>& to, T weight, int slot, int at) const {
    if (weight == T(0)) return;
    to.v = fma(weight, plane(slot, 0)[at], to.v);
    to.t = fma(weight, plane(slot, 2)[at], to.t);
    if constexpr (form == Form::both_defects) to.p = fma(weight, plane(slot, 1)[at], to.p);
  }

  template <Form form>
  FNTK_TEAM void sum(const StepCode& s) {
    const long lanes = c.grid.lanes;
    const int32_t* slots = sources(s);
    each_place(s, [&](const Place& p) {
      Sums<T> found = {T(0), T(0), T(0)};
      for (int part = 0; part < s.n_src; ++part) add<form>(found, sums_at<form>(slots[part], p.at));
      T more = T(0);
      if constexpr (form != Form::cov) more = spread(s.n_src - 1, p.a, p.b, lanes, 0);
      store_at(s.dst, p.at).template put<form>(0, found.v + more, found.p + more, found.t);
    });
  }

  template <Form form>
  FNTK_TEAM void to_cov(const StepCode& s) {
    const int slot = source(s);
    each_place(s, [&](const Place& p) {
      store_at(s.dst, p.at).template put<Form::cov>(0, covariance<form>(p, slot), T(0), plane(slot, 2)[p.at]);
    });
  }
  template <Form form>
  FNTK_HD T covariance(const Place& p, int slot) const {
    const T r = form == Form::cov ? T(0) : p.a[0] * p.b[0];
    const Sums<T> own = sums_at<form>(slot, p.at);
    return covariance_of<T, form>(own.v, own.p, r);
  }

  FNTK_TEAM void to_both(const StepCode& s) {
    const int slot = source(s);
    each_place(s, [&](const Place& p) {
      const T v = plane(slot, 0)[p.at];
      store_at(s.dst, p.at).template put<Form::both_defects>(0, v, T(2) * p.a[0] * p.b[0] - v, plane(slot, 2)[p.at]);
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
    if constexpr (Team::rolls) {
      using Then = Bent<Phi, T, cov>;
      const T* in = plane(slot, 0);
      T* const out = plane(s.dst, 0);
      columns([&](const Column& own) {
        const Single<T, form, Then> pass = {{phi}, c.grid.row_size};
        pass.column(in + own.at, out + own.at, records<Then::kQuads>(s, own), own.count);
      });
    } else {
      const long lanes = c.grid.lanes;
      each_place(s, [&](const Place& p) {
        T* const out[3] = {plane(s.dst, 0) + p.at, plane(s.dst, 1) + p.at, plane(s.dst, 2) + p.at};
        const Sums<T> own = sums_at<form>(slot, p.at);
        Apply<Phi, T, cov, true>(phi, p.a, p.b, out, lanes).template put<form, false>(0, own.v, own.p, own.t, T(0));
      });
    }
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
    each_place(s, [&](const Place& p) {
      const T* const in[3] = {plane(slot, 0) + p.at, plane(slot, 1) + p.at, plane(slot, 2) + p.at};
      T* const out[3] = {plane(s.dst, 0) + p.at, plane(s.dst, 1) + p.at, plane(s.dst, 2) + p.at};
      counted_places<T, 1, form, cov>(phi, PlaneRows<T>{p.a, p.b, lanes}, in, out);
    });
  }

  FNTK_TEAM void load(const StepCode& s) {
    const LinkCode& l = link(source(s));
    const long lanes = c.grid.lanes;
    const double* in = linked() + l.planes + (group * l.n_rows + shift_at * c.grid.rows) * lanes;
    each_place(s, [&](const Place& p) {
      for (int q = 0; q < 3; ++q) plane(s.dst, q)[p.at] = T(in[q * l.size + p.y * lanes + p.x]);
    });
  }

  template <Form form>
  FNTK_TEAM void land_pool(const StepCode& s) {
    const long lanes = c.grid.lanes;
    const bool counts = form != Form::cov && sizeof(T) == sizeof(float);
    team.each(lanes, [&](int x) {  // a lane at a time: what is lost adds up in one order
      T some = T(0), all = T(0);
      for (int y = 0; y < c.grid.rows; ++y) {
        const Place p = place(s.arrays, s.stride, y, x);
        const Sums<T> own = sums_at<form>(s.dst, p.at);
        const Pooled<T> found = pooled<T, form>(p.a, p.b, lanes, 0, own.v, own.p);
        some += found.lost;
        all += found.all;
        store_at(s.dst, p.at).template put<form>(0, found.value, found.plus, found.weight * own.t);
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
    team.places(int(c.grid.rows), int(c.grid.lanes), [&](int y, int x) {
      if (lane_flags()[x] & kEqual) v[at(y, x)] = T(0);
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
        for (int row = item[1]; row < item[2]; ++row) sum += double(plane(slot, q)[at(from[row], x)]);
        *to = sum;
      }
    });
  }

  template <Form form>
  FNTK_TEAM void store(const StepCode& s) {
    const int lanes = int(c.grid.lanes), slot = source(s);
    const int64_t *places = at<int64_t>(s.place) + group * lanes, *opposites = at<int64_t>(s.opposite) + group * lanes;
    const double length = c.lengths[pair];
    each_place(s, [&](const Place& p) {
      const int other = met(p.y);
      if (places[p.x] < 0 || p.y >= s.extent_rows || other >= s.extent_rows) return;
      const long to = places[p.x] + p.y * s.row_stride + other * s.other_stride;
      const long mirror = opposites[p.x] + other * s.row_stride + p.y * s.other_stride;
      if ((flags & kDiagonal) && mirror < to) return;  // one of two equal numbers
      for (int q = 0; q < 2; ++q) {
        if (!c.planes[s.dst][q]) continue;
        T* out = c.planes[s.dst][q] + pair * c.sizes[s.dst];
        const T value = T(double(q == 0 ? covariance<form>(p, slot) : plane(slot, 2)[p.at]) * length);
        out[to] = value;
        if (flags & kDiagonal) out[mirror] = value;
      }
    });
  }
};

}  // namespace FNTK_ISA
}  // namespace fntk
