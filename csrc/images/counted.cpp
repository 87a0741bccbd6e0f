// Compiled once per instruction set, into its own namespace: vectors are the formulas' numbers (math/wide.h), so
// nothing is left to the vectoriser.
#include "images/counted.h"

#include "images/sinks.h"
#include "math/counted.h"

namespace fntk {
namespace FNTK_ISA {

template <template <class> class Phi, class T, Form form, bool cov>
void counted_plane(const PlaneArgs<T>& args) {
  using N = Many<T>;
  constexpr long step = long(sizeof(N) / sizeof(T));
  const PlaneArgs<T> c = args;
  const long lanes = lane_count<0>(c.lanes);  // whole vectors
  T own[kMaxConstants];
  Phi<T>::constants(c.params, c.n_params, own);
  const Phi<T> phi(own, c.n_params);
  for (long y = 0; y < c.rows; ++y) {
    const TableRows<T> rows(c.after_a, c.after_b, c.stride_after, c, y);
    for (long x = 0; x < lanes;) {
      const long at = y * lanes + x;
      const T* const in[3] = {c.src[0] + at, c.src[1] + at, c.src[2] + at};
      T* const out[3] = {c.dst[0] + at, c.dst[1] + at, c.dst[2] + at};
      const PlaneRows<T> here = {rows.a + x, rows.b + x, lanes};
      if (lanes - x >= 2 * step) {
        counted_places<N, 2, form, cov>(phi, here, in, out);
        x += 2 * step;
      } else {
        counted_places<N, 1, form, cov>(phi, here, in, out);
        x += step;
      }
    }
  }
}

#define FNTK_INSTANTIATE_AS(Phi, T, form, cov) template void counted_plane<Phi, T, form, cov>(const PlaneArgs<T>&);
#define FNTK_INSTANTIATE(Phi, name)              \
  FNTK_FORMS_OF(FNTK_INSTANTIATE_AS, Phi, float) \
  FNTK_FORMS_OF(FNTK_INSTANTIATE_AS, Phi, double)
FNTK_COUNTED(FNTK_INSTANTIATE)

}  // namespace FNTK_ISA
}  // namespace fntk
