// Which nonlinearities there are whose parameters are counted at run time, for those who need no more of them.
#pragma once
#include "math/vmath.h"

#define FNTK_COUNTED(X)                      \
  X(Series, "series")                        \
  X(Hinged, "hinged")                        \
  X(HingedTwice, "hinged_twice")             \
  X(Curve, "curve")                          \
  X(Monomial, "monomial")                    \
  X(RectifiedMonomial, "rectified_monomial") \
  X(Straight, "straight")

namespace fntk {
namespace FNTK_ISA {

template <class T>
struct Series;
template <class T, int orders>
struct OfHinges;
template <class T>
using Hinged = OfHinges<T, 1>;
template <class T>
using HingedTwice = OfHinges<T, 2>;
template <class T>
struct Curve;
template <class T>
struct Monomial;
template <class T>
struct RectifiedMonomial;
template <class T>
struct Straight;

}  // namespace FNTK_ISA

#define FNTK_ONE_COUNTED(Phi, name) +1
constexpr int kCounted = FNTK_COUNTED(FNTK_ONE_COUNTED);
#undef FNTK_ONE_COUNTED

}  // namespace fntk
