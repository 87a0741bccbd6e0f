// Arrays of a device, as anything with __cuda_array_interface__ shows them: pointers, never copies.
//
// The interface's own stream entry is not looked at: Python has made the call's stream wait for it. With kOnHost the
// same interface carries pointers to host memory.
#pragma once
#include "bind/common.h"
#include "cuda/run.h"

namespace fntk {

inline View device_view(const py::object& object, const char* what) {
  FNTK_CHECK(py::hasattr(object, "__cuda_array_interface__"), what,
             " must be a device array (with __cuda_array_interface__), given ",
             py::cast<std::string>(py::type::of(object).attr("__name__")));
  const py::dict interface = object.attr("__cuda_array_interface__");
  const auto has = [&](const char* key) { return interface.contains(key) && !interface[key].is_none(); };
  FNTK_CHECK(has("shape") && has("typestr") && has("data") && !has("mask"), what,
             ": __cuda_array_interface__ needs shape, typestr and data, and no mask");
  View view;
  const auto data = py::cast<std::pair<uintptr_t, bool>>(interface["data"]);
  view.data = reinterpret_cast<void*>(data.first);
  view.writable = !data.second;
  view.shape = py::cast<std::vector<long>>(interface["shape"]);
  const auto type = py::cast<std::string>(interface["typestr"]);
  FNTK_CHECK(type.size() >= 3, what, " has typestr '", type, "'");
  view.type = type[0] == '>' ? type : type.substr(1);
  if (has("strides")) {
    view.strides = py::cast<std::vector<long>>(interface["strides"]);
    FNTK_CHECK(view.strides.size() == view.shape.size(), what, ": strides and shape differ in length");
  } else {
    long step = std::stol(type.substr(2));
    view.strides.resize(view.shape.size());
    for (size_t k = view.shape.size(); k-- > 0;) {
      view.strides[k] = step;
      step *= view.shape[k];
    }
  }
  return view;
}

// A 1-D array of n entries, any stride.
template <class T>
Strided<T> strided(const py::object& object, long n, const char* what) {
  const View view = device_view(object, what);
  T* data = typed_data<T>(view, 1, what);
  check_shape(view, {n}, what);
  return {data, view.strides[0] / long(sizeof(T))};
}

// A packed array of this shape.
template <class T>
T* packed(const py::object& object, const std::vector<long>& shape, const char* what) {
  const View view = device_view(object, what);
  T* data = typed_data<T>(view, shape.size(), what);
  check_shape(view, shape, what);
  long step = sizeof(T);
  for (size_t k = shape.size(); k-- > 0;) {
    FNTK_CHECK(shape[k] <= 1 || view.strides[k] == step, what, " must be packed (C order)");
    step *= shape[k];
  }
  return data;
}

// Bytes that host code made for the device, such as Program.code(), copied there as uint8.
inline const void* bytes_of(const py::object& object, size_t size, const char* what) {
  const View view = device_view(object, what);
  FNTK_CHECK(view.type == "u1" && view.shape.size() == 1 && size_t(view.shape[0]) == size &&
                 (size <= 1 || view.strides[0] == 1),
             what, " must be ", size, " adjacent bytes (1-D, u1)");
  FNTK_CHECK(reinterpret_cast<uintptr_t>(view.data) % 8 == 0, what, " must be aligned to 8 bytes");
  return view.data;
}

inline Place make_place(int device, uintptr_t stream) {
  FNTK_CHECK(device >= kOnHost, "device ", device, " is no CUDA ordinal");
  return {device, reinterpret_cast<void*>(stream)};
}

}  // namespace fntk
