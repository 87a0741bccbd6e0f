// Windows over pairs of positions as Python gives them.
#pragma once
#include "bind/common.h"
#include "dense/window.h"

namespace fntk {

using PyIndex = py::array_t<int32_t, py::array::c_style>;

// `from2` None: taps read other batches, by from1. Deviations are batch x 1 x rows, of float64.
struct PyWindow {
  py::object defect = py::none(), theta = py::none(), from1 = py::none(), from2 = py::none(), std1 = py::none(),
             std2 = py::none(), inverse1 = py::none(), inverse2 = py::none();
  double bias = 0;
};

// As it is: a copy would not outlive this call.
inline PyIndex index_array(const py::object& given, const char* what) {
  FNTK_CHECK(PyIndex::check_(given) && given.cast<py::array>().ndim() == 2, what,
             " must be a 2-D C-contiguous array of int32");
  return py::reinterpret_borrow<PyIndex>(given);
}

// Checked once: no index reaches beyond the source.
inline const int32_t* indices(const PyIndex& given, long rows, long cols, long most, const char* what) {
  FNTK_CHECK(given.ndim() == 2 && given.shape(0) == rows && given.shape(1) == cols, what, " must be ", rows, " x ",
             cols);
  const int32_t* data = given.data();
  for (long k = 0; k < rows * cols; ++k) FNTK_CHECK(data[k] < most, what, " reads beyond the source");
  return data;
}

// How far a tap is off, where that is one number for all columns.
inline long shift_of(const int32_t* from, long batches, long cols) {
  long shift = 0;
  bool known = false;
  for (long k = 0; k < batches * cols; ++k) {
    if (from[k] < 0) continue;
    if (known && from[k] - k % cols != shift) return Window<float>::kNoShift;
    shift = from[k] - k % cols;
    known = true;
  }
  return shift;
}

template <class T>
Window<T> make_window(const PyWindow& given, const Tile& tile) {
  Window<T> own;
  if (given.defect.is_none()) return own;
  FNTK_CHECK(!tile.diagonal, "a diagonal tile has no windows");
  const View view = host_view(given.defect, "defect");
  own.defect = plane<const T>(view, "defect");
  own.batches = view.shape[0];
  own.lines = view.shape[1];
  own.cols = view.shape[2];
  own.theta = optional_plane<const T>(given.theta, view.shape, "theta", host_view);
  own.by_batch = given.from2.is_none();
  const PyIndex from1 = index_array(given.from1, "from1");
  own.taps = int(from1.shape(0));
  own.n_lines = tile.lines;
  own.n_cols = tile.cols;
  own.n_from1 = tile.batches * (own.by_batch ? 1 : tile.lines);
  own.from1 = indices(from1, own.taps, own.n_from1, own.by_batch ? own.batches : own.lines, "from1");
  if (own.by_batch) {
    FNTK_CHECK(own.lines == tile.lines && own.cols == tile.cols, "batches of another shape");
  } else {
    const PyIndex from2 = index_array(given.from2, "from2");
    own.n_from2 = tile.batches * tile.cols;
    own.from2 = indices(from2, own.taps, own.n_from2, own.cols, "from2");
    for (int t = 0; t < own.taps; ++t)
      own.shift.push_back(shift_of(own.from2 + t * own.n_from2, tile.batches, tile.cols));
    FNTK_CHECK(own.batches == tile.batches, "another number of batches");
  }
  own.std1 = optional_plane<const double>(given.std1, {own.batches, 1, own.lines}, "std1", host_view);
  own.std2 = optional_plane<const double>(given.std2, {own.batches, 1, own.cols}, "std2", host_view);
  own.inverse1 = optional_plane<const double>(given.inverse1, {tile.batches, 1, tile.lines}, "inverse1", host_view);
  own.inverse2 = optional_plane<const double>(given.inverse2, {tile.batches, 1, tile.cols}, "inverse2", host_view);
  FNTK_CHECK(own.std1 && own.std2 && own.inverse1 && own.inverse2, "a window needs deviations of both sides");
  own.bias = given.bias;
  return own;
}

template <class T>
std::vector<Window<T>> make_windows(const std::vector<PyWindow>& windows, size_t n_inputs, const Tile& tile) {
  FNTK_CHECK(windows.empty() || windows.size() == n_inputs, "a window, or none, for each input");
  std::vector<Window<T>> all;
  for (const PyWindow& window : windows) all.push_back(make_window<T>(window, tile));
  return all;
}

inline void bind_windows(py::module_& m) {
  py::class_<PyWindow>(m, "Window", py::module_local())
      .def(py::init<>())
      .def_readwrite("defect", &PyWindow::defect)
      .def_readwrite("theta", &PyWindow::theta)
      .def_readwrite("from1", &PyWindow::from1)
      .def_readwrite("from2", &PyWindow::from2)
      .def_readwrite("std1", &PyWindow::std1)
      .def_readwrite("std2", &PyWindow::std2)
      .def_readwrite("inverse1", &PyWindow::inverse1)
      .def_readwrite("inverse2", &PyWindow::inverse2)
      .def_readwrite("bias", &PyWindow::bias);
}

}  // namespace fntk
