// What a plane of a pair of images carries, and the numbers of a linear step.
#pragma once

namespace fntk {

// cov: K; defect: s s' - K, for K >= 0; both_defects: s s' - K and s s' + K (Python: "signed").
enum class Form { cov, defect, both_defects };

template <class T>
struct Weights {
  T w, b2, wt, alpha, beta;  // K' = w sum + b2, NTK' = wt sum + alpha K' + beta
};

}  // namespace fntk
