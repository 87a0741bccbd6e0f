#include <cmath>

#include "common/check.h"
#include "dense/adjoint.h"
#include "math/differentiable.h"

namespace fntk {

#define FNTK_DECLARE(isa)                                                                                        \
  namespace isa {                                                                                                \
  void adjoint_lines(const std::vector<AdjointOp>& ops, const AdjointTile& tile, const double* roots2, double*); \
  }
FNTK_DECLARE(baseline)
#if defined(FNTK_X86_ISAS)
FNTK_DECLARE(avx2)
FNTK_DECLARE(avx512)
#endif

int adjoint_of(const std::string& name) {
#define FNTK_NAME(Phi, text) text,
  static const std::vector<std::string> names = {FNTK_DIFFERENTIABLE(FNTK_NAME)};
#undef FNTK_NAME
  for (size_t k = 0; k < names.size(); ++k)
    if (names[k] == name) return int(k);
  return -1;
}

void run_adjoint(const std::vector<AdjointOp>& ops, const AdjointTile& tile, const Isa& isa) {
  std::vector<double> roots2(size_t(tile.n_values) * size_t(tile.cols));
  for (size_t k = 0; k < roots2.size(); ++k) roots2[k] = std::sqrt(tile.q2[k]);
  const size_t planes = size_t(kAdjointPlanes + (tile.entries ? kAdjointSides : 0)) * size_t(tile.n_values);
  std::vector<double> scratch((planes + kAdjointExtra) * kAdjointCols);
  const std::string name = isa.name;
#if defined(FNTK_X86_ISAS)
  if (name == "avx512") return avx512::adjoint_lines(ops, tile, roots2.data(), scratch.data());
  if (name == "avx2") return avx2::adjoint_lines(ops, tile, roots2.data(), scratch.data());
#endif
  baseline::adjoint_lines(ops, tile, roots2.data(), scratch.data());
}

}  // namespace fntk
