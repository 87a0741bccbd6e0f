#pragma once
#include "bind/common.h"

namespace fntk {
void bind_adjoint(py::module_& m);
}  // namespace fntk
