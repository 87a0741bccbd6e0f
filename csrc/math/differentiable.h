// Nonlinearities that are compiled with derivatives: all closed forms but for steps, whose kdot says a part of their
// slope alone.
#pragma once
#include "math/duals.h"

#define FNTK_DIFFERENTIABLE(X) \
  FNTK_RECTIFIERS(X) FNTK_ERF(X) FNTK_EXPONENTIALS(X) FNTK_GAUSSIANS(X) FNTK_GELU(X) FNTK_PERIODIC(X)

namespace fntk {

#define FNTK_ONE_DUAL(Phi, name) +1
constexpr int kDifferentiable = FNTK_DIFFERENTIABLE(FNTK_ONE_DUAL);
#undef FNTK_ONE_DUAL

}  // namespace fntk
