#pragma once
#include <pybind11/pybind11.h>

namespace fntk {
void bind_image_adjoint(pybind11::module_& m);
}
