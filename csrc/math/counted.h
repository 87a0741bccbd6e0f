// Every nonlinearity whose parameters are counted at run time.
#pragma once
#include "math/counted/curve.h"
#include "math/counted/hinged.h"
#include "math/counted/monomials.h"
#include "math/counted/series.h"

#define FNTK_COUNTED(X)          \
  X(Series, "series")            \
  X(Hinged, "hinged")            \
  X(HingedTwice, "hinged_twice") \
  X(Curve, "curve")              \
  X(Monomial, "monomial")        \
  X(RectifiedMonomial, "rectified_monomial")

namespace fntk {

#define FNTK_ONE_COUNTED(Phi, name) +1
constexpr int kCounted = FNTK_COUNTED(FNTK_ONE_COUNTED);
#undef FNTK_ONE_COUNTED

}  // namespace fntk
