// Nonlinearities whose parameters are counted at run time, on planes: numbers side by side for images/counted.cpp and
// one for devices (cuda/images/unit.h).
#pragma once
#include "images/program.h"
#include "math/counted/counted.h"
#include "math/counted/names.h"

namespace fntk {
namespace FNTK_ISA {

// Tables of both images from a place on. Arrays: 1 / s before, s behind, the nonlinearity's own.
template <class T>
struct PlaneRows {
  const T *a, *b;
  long lanes;
  template <class N>
  FNTK_HD N array(const T* from, int k, int i) const {
    return read<N>(from + k * lanes + i * long(sizeof(N) / sizeof(T)));
  }
  template <class N>
  FNTK_HD N one(int k, int i) const {
    return array<N>(a, k + 2, i);
  }
  template <class N>
  FNTK_HD N two(int k, int i) const {
    return array<N>(b, k + 2, i);
  }
};

template <class Phi, class N, int W, class Rows>
FNTK_ONCE void at_places(const Phi& phi, const End<N> (&x)[W], const Rows& rows, Ends<N, W>& found) {
  phi.template pairs<true>(x, rows, found);
}

// W numbers of each plane, in and out: s s' - K or K, s s' + K, NTK. As Apply of images/sinks.h.
template <class N, int W, Form form, bool cov, class Phi, class T>
FNTK_HD void counted_places(const Phi& phi, const PlaneRows<T>& rows, const T* const* in, T* const* out) {
  constexpr long lanes = long(sizeof(N) / sizeof(T));
  const N one = all_lanes<N>(T(1));
  End<N> x[W];
  Ends<N, W> found;
  for (int i = 0; i < W; ++i) {
    const N i1 = rows.template array<N>(rows.a, 0, i), i2 = rows.template array<N>(rows.b, 0, i);
    N w = read<N>(in[0] + i * lanes) * i1 * i2;
    x[i].near = !(w < w);
    if constexpr (form == Form::both_defects) {
      const N other = read<N>(in[1] + i * lanes) * i1 * i2;
      x[i].near = !(other < w);
      w = pick<N>(x[i].near, w, other);
      w = pick<N>(w > one, one, w);
    }
    x[i].w = pick<N>(i1 == N{}, one, pick<N>(i2 == N{}, one, w));
  }
  if constexpr (Phi::brief || std::is_same_v<N, T>)
    phi.template pairs<true>(x, rows, found);
  else
    at_places(phi, x, rows, found);
  for (int i = 0; i < W; ++i) {
    const N r = rows.template array<N>(rows.a, 1, i) * rows.template array<N>(rows.b, 1, i), v = found.v[i];
    const Mask<N> far = v < N{};
    write(read<N>(in[2] + i * lanes) * found.kdot[i], out[2] + i * lanes);
    if constexpr (cov) {
      write(r * (Phi::positive ? T(1) - v : pick<N>(far, T(-1) - v, T(1) - v)), out[0] + i * lanes);
    } else if constexpr (Phi::positive) {
      write(r * v, out[0] + i * lanes);
    } else {
      write(r * pick<N>(far, T(2) + v, v), out[0] + i * lanes);
      write(r * pick<N>(far, -v, T(2) - v), out[1] + i * lanes);
    }
  }
}

template <template <class> class Phi, class T, Form form, bool cov>
void counted_plane(const PlaneArgs<T>& c);

#define FNTK_ELSEWHERE_AS(Phi, T, form, cov) extern template void counted_plane<Phi, T, form, cov>(const PlaneArgs<T>&);
#define FNTK_FORMS_OF(X, Phi, T)       \
  X(Phi, T, Form::defect, false)       \
  X(Phi, T, Form::defect, true)        \
  X(Phi, T, Form::both_defects, false) \
  X(Phi, T, Form::both_defects, true)
#define FNTK_ELSEWHERE(Phi, name)              \
  FNTK_FORMS_OF(FNTK_ELSEWHERE_AS, Phi, float) \
  FNTK_FORMS_OF(FNTK_ELSEWHERE_AS, Phi, double)
#if !defined(__CUDACC__)
FNTK_COUNTED(FNTK_ELSEWHERE)
#endif
#undef FNTK_ELSEWHERE
#undef FNTK_ELSEWHERE_AS

}  // namespace FNTK_ISA
}  // namespace fntk
