// Block loops of nonlinearities whose parameters are counted at run time: dense/counted.cpp, an object of its own.
#pragma once
#include "common/program.h"
#include "math/counted/names.h"

namespace fntk {
namespace FNTK_ISA {

template <template <class> class Phi, class T>
void counted(const OpView<T>& op, const Block<T>& b);

#define FNTK_ELSEWHERE(Phi, name)                                                      \
  extern template void counted<Phi, float>(const OpView<float>&, const Block<float>&); \
  extern template void counted<Phi, double>(const OpView<double>&, const Block<double>&);
FNTK_COUNTED(FNTK_ELSEWHERE)
#undef FNTK_ELSEWHERE

}  // namespace FNTK_ISA
}  // namespace fntk
