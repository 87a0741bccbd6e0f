// Every nonlinearity, family by family.
#pragma once
#include "math/duals/erf.h"
#include "math/duals/exponential.h"
#include "math/duals/gaussian.h"
#include "math/duals/gelu.h"
#include "math/duals/periodic.h"
#include "math/duals/rectifiers.h"
#include "math/duals/sign.h"

#define FNTK_DUALS(X) \
  FNTK_RECTIFIERS(X) FNTK_ERF(X) FNTK_EXPONENTIALS(X) FNTK_GAUSSIANS(X) FNTK_GELU(X) FNTK_PERIODIC(X) FNTK_SIGN(X)

namespace fntk {

#define FNTK_ONE_DUAL(Phi, name) +1
constexpr int kDuals = FNTK_DUALS(FNTK_ONE_DUAL);
#undef FNTK_ONE_DUAL

}  // namespace fntk
