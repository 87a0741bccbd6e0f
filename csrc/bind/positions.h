// Windows and products with matrices over pairs of positions as Python gives them.
#pragma once
#include "bind/common.h"
#include "common/isa.h"
#include "dense/mix.h"
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

// What stands in a matrix of flags (n1, n2), or null.
inline uint8_t* flags(const py::object& object, long n1, long n2, const char* what) {
  if (object.is_none()) return nullptr;
  auto given = py::cast<py::array>(object);
  FNTK_CHECK(given.dtype().equal(py::dtype::of<bool>()) && given.ndim() == 2 && given.shape(0) == n1 &&
                 given.shape(1) == n2 && given.flags() & py::array::c_style && given.writeable(),
             what, " must be a C-contiguous array (", n1, ", ", n2, ") of bool");
  return static_cast<uint8_t*>(given.mutable_data());
}

inline MixOf mix_of(const std::string& name) {
  if (name == "near") return kNear;
  if (name == "far") return kFar;
  FNTK_CHECK(name.empty() || name == "rest", "nothing named '", name, "' is made of a defect");
  return name.empty() ? kAsIs : kRest;
}

template <class T>
bool mix_typed(const py::array& left, const py::array& right, const py::object& source, const py::object& out, bool own,
               bool full, bool symmetric, const std::string& before, const std::string& behind, const py::object& equal,
               const py::object& close, double least, const std::string& isa, int threads) {
  if (!left.dtype().equal(py::dtype::of<T>())) return false;
  FNTK_CHECK(left.ndim() == 3 && right.ndim() == 3 && left.flags() & py::array::c_style &&
                 right.flags() & py::array::c_style && right.dtype().equal(left.dtype()),
             "matrices are 3-D, C-contiguous and of one dtype");
  Mix<T> call;
  call.batches = own ? long(left.shape(0)) : 1;
  call.n1 = own ? 1 : long(left.shape(0));
  call.n2 = own ? 1 : long(right.shape(0));
  call.behind = long(left.shape(1));
  call.before = long(left.shape(2));
  call.padded = full ? long(right.shape(2)) : 0;
  FNTK_CHECK(call.before > 0 && call.behind > 0, "matrices without positions");
  FNTK_CHECK(!own || left.shape(0) == right.shape(0), "matrices of both sides are one image's");
  FNTK_CHECK(full ? long(right.shape(1)) == call.before && call.padded % 16 == 0 && call.padded >= call.behind
                  : long(right.shape(1)) == call.behind && long(right.shape(2)) == call.before,
             "right matrices of another shape");
  FNTK_CHECK(!symmetric || (call.n1 == call.n2 && !own), "a symmetric product is of one part's pairs");
  const long images1 = own ? call.batches : call.n1, images2 = own ? 1 : call.n2;
  const View from = host_view(source, "source"), to = host_view(out, "out");
  call.source = plane<const T>(from, "source");
  check_shape(from, {call.batches, call.n1 * call.before, call.n2 * call.before}, "source");
  call.out = plane<T>(to, "out");
  check_shape(to,
              full ? std::vector<long>{call.batches, call.n1 * call.behind, call.n2 * call.behind}
                   : std::vector<long>{call.behind, images1, images2},
              "out");
  call.left = static_cast<const T*>(left.data());
  call.right = static_cast<const T*>(right.data());
  call.full = full;
  call.symmetric = symmetric;
  call.in = mix_of(before);
  call.of_sum = mix_of(behind);
  FNTK_CHECK(!own || (equal.is_none() && close.is_none()), "of pairs of images alone");
  call.equal = flags(equal, call.n1, call.n2, "equal");
  call.close = flags(close, call.n1, call.n2, "close");
  call.least = T(least);
  const Isa& table = find_isa(isa);
  released([&] { mix(call, table, threads, signalled); });
  return true;
}

inline void bind_positions(py::module_& m) {
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
  m.def(
      "mix",
      [](const py::array& left, const py::array& right, const py::object& source, const py::object& out, bool own,
         bool full, bool symmetric, const std::string& before, const std::string& behind, const py::object& equal,
         const py::object& close, double least, const std::string& isa, int threads) {
        FNTK_CHECK(mix_typed<float>(left, right, source, out, own, full, symmetric, before, behind, equal, close, least,
                                    isa, threads) ||
                       mix_typed<double>(left, right, source, out, own, full, symmetric, before, behind, equal, close,
                                         least, isa, threads),
                   "mix takes float32 or float64");
      },
      py::arg("left"), py::arg("right"), py::arg("source"), py::arg("out"), py::arg("own"), py::arg("full"),
      py::arg("symmetric"), py::arg("before"), py::arg("behind"), py::arg("equal"), py::arg("close"), py::arg("least"),
      py::arg("isa"), py::arg("threads"));
}

}  // namespace fntk
