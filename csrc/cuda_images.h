// Pairs of images through one grid of an image program, element by element: host and device run this same text, so that
// machines without a GPU test it.
//
// A unit is one pair and one group of displacements along the inner axes; those along axis 0 it takes in turn, so its
// sums have one order. A team (a block, a warp, the host) shares a plane's elements and waits for all between passes.
#pragma once
#include "cuda_run.h"
#include "image_code.h"
#include "image_elements.h"

namespace fntk {

constexpr int kMaxImageOutputs = 64;

template <class T>
struct ImageLaunch {  // the kernel's argument
  const char* code;
  GridCode grid;
  long links;  // LinkCode, in code
  const T *tables1, *tables2;
  const T *chains1, *chains2;
  long table_size, chain_size;
  const int64_t* pairs;   // images of both tables; kSame, kDiagonal
  const double* lengths;  // what both images were divided by, multiplied
  long n_pairs;
  double* linked;  // pairs x pair_doubles
  long pair_doubles;
  double* lost;  // pairs x lost_units x 2
  long lost_units;
  T* scratch;
  T* planes[kMaxImageOutputs][2];  // pairs x size each, null: not wanted
  long sizes[kMaxImageOutputs];
};

// Runs a grid that has chains (cuda_chains.h); `scratch_size`: numbers at c.scratch.
template <class T>
void launch_chains(const ImageLaunch<T>& c, long scratch_size, bool backwards, const Place& place);

constexpr int64_t kSame = 1, kDiagonal = 2;  // one image twice; of a symmetric Gram's diagonal

#if defined(__CUDACC__)
#define FNTK_TEAM __host__ __device__
#else
#define FNTK_TEAM inline
#endif

namespace FNTK_ISA {

// All of a team's work on the host; backwards, to show that no element waits for another one of its pass.
struct HostTeam {
  bool backwards = false;
  template <class Work>
  FNTK_TEAM void each(long n, const Work& work) const {
    for (long k = 0; k < n; ++k) work(int(backwards ? n - 1 - k : k));
  }
};

struct BlockTeam {
  template <class Work>
  FNTK_TEAM void each(long n, const Work& work) const {
#if defined(__CUDA_ARCH__)
    for (int k = int(threadIdx.x); k < n; k += int(blockDim.x)) work(k);
    __syncthreads();
#endif
  }
};

struct WarpTeam {
  template <class Work>
  FNTK_TEAM void each(long n, const Work& work) const {
#if defined(__CUDA_ARCH__)
    for (int k = int(threadIdx.x % 32); k < n; k += 32) work(k);
    __syncwarp();
#endif
  }
};

template <class T>
FNTK_HD T spread(int n, const T* a, const T* b, long lanes, long x) {
  if (n == 0) return T(0);
  T more = T(0);
  for (int k = 0; k < n; ++k)
    more = fma(a[k * lanes + x] - b[k * lanes + x], a[k * lanes + x] - b[k * lanes + x], more);
  return (a[n * lanes + x] * b[n * lanes + x]) * more;
}

template <class T, class Team>
struct ImageUnit {
  const Team team;
  const ImageLaunch<T>& c;
  T* scratch;
  long pair, group;

  const T *table1 = nullptr, *table2 = nullptr;
  int64_t flags = 0;
  int shift = 0;               // along axis 0
  long shift_at = 0;           // its place among the grid's
  int next = 0;                // step
  int layer = 0;               // of a chain, and
  uint32_t edges[2] = {0, 0};  // which of its rows meet
  long turn = 0;               // of whoever takes unit after unit

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
    const GridCode& g = c.grid;
    const int lanes = int(g.lanes), y = k / lanes, x = k - y * lanes;
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
        int index = 0;
#define FNTK_APPLY(Phi, name) \
  if (s.dual == index++) dual<Phi>(s);
        FNTK_DUALS(FNTK_APPLY)
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
        for (int k = 0; k < 2; ++k) edges[k] = at<uint32_t>(step(next).chain_edges)[2 * shift_at + k];
        return true;
      }
      run_step(step(next++));
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
  template <Form form>
  FNTK_HD void finish_place(const StepCode& s, const Weights<T>& w, const Place& p, long lanes, T v, T plus, T theta,
                            int coords, const Store<T>& sink) const {
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

  template <Form form>
  FNTK_TEAM void conv(const StepCode& s) {
    const GridCode& g = c.grid;
    const long lanes = g.lanes;
    const int32_t *shift_in = at<int32_t>(s.shift_in), *shift_out = at<int32_t>(s.shift_out);
    const T* mask_in = at<T>(s.mask_in) + group * s.n_in * lanes;
    const T* mask_out = at<T>(s.mask_out) + shift_at * s.n_out * g.rows;
    const int slot = source(s);
    team.each(plane_size(), [&](int k) {
      const Place p = place(s, k);
      T more = T(0);
      if constexpr (form != Form::cov) more = spread(s.coords_in, p.a, p.b, lanes, p.x);
      for (int q = 0; q < 3; ++q) {
        if (q == 1 && form != Form::both_defects) continue;
        const T* in = plane(slot, q) + k;
        T sum = T(0);
        for (int tap = 0; tap < s.n_in; ++tap) {
          const T mask = mask_in[tap * lanes + p.x];
          if (mask != T(0)) sum = fma(mask, in[shift_in[tap]], sum);
        }
        sums(q)[k] = q == 2 ? sum : sum + more;
      }
    });
    const Weights<T> w = weights(s);
    team.each(plane_size(), [&](int k) {
      const Place p = place(s, k);
      T found[3] = {T(0), T(0), T(0)};
      for (int tap = 0; tap < s.n_out; ++tap) {
        const T mask = mask_out[tap * g.rows + p.y];
        if (mask == T(0)) continue;
        const long from = k + shift_out[tap] * lanes;
        for (int q = 0; q < 3; ++q)
          if (q != 1 || form == Form::both_defects) found[q] = fma(mask, sums(q)[from], found[q]);
      }
      const long before = form == Form::cov ? 0 : stage_arrays(s.coords_in) * lanes;
      finish_place<form>(s, w, {p.y, p.x, p.a + before, p.b + before}, lanes, found[0], found[1], found[2],
                         s.coords_out, store_at(s.dst, p.y));
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
        store_at(s.dst, y).template put<form>(x, found.weight * found.value, found.weight * found.plus,
                                              found.weight * plane(s.dst, 2)[k]);
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

// One number of a link's planes, p x groups x rows x lanes of the target: what all groups of the source add to it.
template <class T>
FNTK_HD void gather_link(const ImageLaunch<T>& c, const LinkCode& l, long pair, long at) {
  double* const linked = c.linked + pair * c.pair_doubles;
  const long lane = at % l.target_lanes, line = at / l.target_lanes;
  const long row = line % l.n_rows, group = line / l.n_rows % (l.size / (l.n_rows * l.target_lanes)), p = at / l.size;
  const int32_t* start = reinterpret_cast<const int32_t*>(c.code + l.column_start) + group * l.target_lanes + lane;
  const int32_t* from = reinterpret_cast<const int32_t*>(c.code + l.columns);
  const double* sums = linked + l.sums;
  double sum = 0;
  for (int k = start[0]; k < start[1]; ++k)
    sum += sums[((from[2 * k] * 3 + p) * l.n_rows + row) * l.lanes + from[2 * k + 1]];
  linked[l.planes + at] = sum;
}

}  // namespace FNTK_ISA
}  // namespace fntk
