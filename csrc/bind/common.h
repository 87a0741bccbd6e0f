// What both bindings share: programs, views of arrays, tiles, and calls with the GIL released.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "common/check.h"
#include "common/ops.h"
#include "common/parallel.h"

namespace fntk {
namespace py = pybind11;
using namespace pybind11::literals;

// Polled with the GIL released; a pending signal has set the Python error when this returns true.
inline bool signalled() {
  const py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

template <class Work>
auto released(const Work& work) {
  try {
    const py::gil_scoped_release nogil;
    return work();
  } catch (const Interrupted&) {
    throw py::error_already_set();
  }
}

// An array as a binding sees it, of the host or of a device; strides in bytes.
struct View {
  void* data = nullptr;
  bool writable = false;
  std::string type;  // "f4", "f8", ...; byte-swapped ones are none of these
  std::vector<long> shape, strides;
};
using Viewer = View (*)(const py::object&, const char* what);

inline View host_view(const py::object& object, const char*) {
  const auto array = py::cast<py::array>(object);
  const py::dtype dtype = array.dtype();
  const bool native = dtype.byteorder() == '=' || dtype.byteorder() == '|';
  View view = {const_cast<void*>(array.data()), array.writeable(), "of another byte order", {}, {}};
  if (native) view.type = dtype.kind() + std::to_string(dtype.itemsize());  // a stream takes as long as a small tile
  view.shape.assign(array.shape(), array.shape() + array.ndim());
  view.strides.assign(array.strides(), array.strides() + array.ndim());
  return view;
}

template <class T>
constexpr const char* type_name() {
  using Value = std::remove_const_t<T>;
  static_assert(std::is_same_v<Value, float> || std::is_same_v<Value, double>);
  return std::is_same_v<Value, float> ? "f4" : "f8";
}

// The view's data as T, of so many axes and of strides in whole elements.
template <class T>
T* typed_data(const View& view, size_t ndim, const char* what) {
  FNTK_CHECK(view.type == type_name<T>() && view.shape.size() == ndim, what, " must be a ", ndim, "-D array of type ",
             type_name<T>(), ", given ", view.shape.size(), "-D ", view.type);
  FNTK_CHECK(std::is_const_v<T> || view.writable, what, " is read-only");
  FNTK_CHECK(reinterpret_cast<uintptr_t>(view.data) % alignof(T) == 0, what, " is not aligned to its type");
  for (size_t k = 0; k < ndim; ++k)
    FNTK_CHECK(view.strides[k] % long(sizeof(T)) == 0 || view.shape[k] <= 1, what, ": strides must be whole elements");
  return static_cast<T*>(view.data);
}

template <class T>
Plane<T> plane(const View& view, const char* what) {
  Plane<T> result;
  result.data = typed_data<T>(view, 3, what);
  FNTK_CHECK(view.shape[2] <= 1 || view.strides[2] == long(sizeof(T)), what, ": columns must be adjacent");
  result.batch_stride = view.strides[0] / long(sizeof(T));
  result.stride = view.strides[1] / long(sizeof(T));
  return result;
}

inline void check_shape(const View& view, const std::vector<long>& shape, const char* what) {
  if (view.shape == shape) return;
  std::string wanted, given;
  for (long n : shape) wanted += text(n, " ");
  for (long n : view.shape) given += text(n, " ");
  FNTK_CHECK(view.shape == shape, what, " has shape ( ", given, "), expected ( ", wanted, ")");
}

// None is an absent plane.
template <class T>
Plane<T> optional_plane(const py::object& object, const std::vector<long>& shape, const char* what, Viewer viewer) {
  if (object.is_none()) return {};
  const View view = viewer(object, what);
  const Plane<T> result = plane<T>(view, what);
  check_shape(view, shape, what);
  return result;
}

// The kind of a dense, a conv or a sum, by its name in Python.
inline int kind_of(const std::string& name) {
  if (name.empty()) return kNoDense;
  if (name == "plain") return kPlain;
  if (name == "guard") return kGuard;
  if (name == "means") return kMeans;
  if (name == "fine") return kFine;
  FNTK_CHECK(name == "bias", "no kind named '", name, "'");
  return kBias;
}

// Name, destination, sources, kind, where the parameters stand among those of a call (first and one past the last), and
// the places of row arrays in a table, by name.
using PyOp =
    std::tuple<std::string, int, std::vector<int>, std::string, std::pair<int, int>, std::map<std::string, int>>;

inline Program make_program(const std::vector<PyOp>& ops, int n_inputs, int n_slots, int n_outputs) {
  Program program;
  for (const auto& [name, dst, src, kind, numbers, rows] : ops) {
    Op op;
    op.name = name;
    op.dst = dst;
    op.src = src;
    op.kind = kind_of(kind);
    op.first_number = numbers.first;
    op.n_numbers = numbers.second - numbers.first;
    op.rows = rows;
    program.ops.push_back(op);
  }
  program.n_inputs = n_inputs;
  program.n_slots = n_slots;
  program.n_outputs = n_outputs;
  prepare(program);
  return program;
}

struct PyInput {
  py::object product = py::none(), defect = py::none(), theta = py::none(), panels1 = py::none(), panels2 = py::none(),
             raw1 = py::none(), raw2 = py::none(), norms1 = py::none(), norms2 = py::none();
  double close = 0;
};

template <class T>
std::vector<PairInput<T>> make_inputs(const std::vector<PyInput>& inputs, const Tile& tile, Viewer viewer) {
  std::vector<PairInput<T>> all;
  for (const PyInput& input : inputs) {
    PairInput<T> own;
    const std::vector<long> pairs = {tile.batches, tile.lines, tile.cols};
    own.product = optional_plane<const T>(input.product, pairs, "product", viewer);
    own.defect = optional_plane<const T>(input.defect, pairs, "defect", viewer);
    own.theta = optional_plane<const T>(input.theta, pairs, "theta", viewer);
    FNTK_CHECK(input.raw1.is_none() == input.raw2.is_none() && input.raw1.is_none() == input.norms1.is_none() &&
                   input.raw1.is_none() == input.norms2.is_none(),
               "raw rows of both sides and their norms go together");
    if (!input.raw1.is_none()) {
      const View raw = viewer(input.raw1, "raw1");
      own.d = raw.shape.empty() ? 0 : raw.shape.back();
      own.raw1 = optional_plane<const T>(input.raw1, {tile.batches, tile.lines, own.d}, "raw1", viewer);
      own.raw2 = optional_plane<const T>(input.raw2, {tile.batches, tile.cols, own.d}, "raw2", viewer);
      own.norms1 = optional_plane<const double>(input.norms1, {tile.batches, 1, tile.lines}, "norms1", viewer);
      own.norms2 = optional_plane<const double>(input.norms2, {tile.batches, 1, tile.cols}, "norms2", viewer);
    }
    FNTK_CHECK(input.panels1.is_none() == input.panels2.is_none(), "panels of both sides go together");
    if (!input.panels1.is_none()) {
      const auto panels = [](long rows) { return (rows + kPanel - 1) / kPanel; };
      const View first = viewer(input.panels1, "panels1");
      const long width = first.shape.empty() ? 0 : first.shape.back();
      own.d = width / kPanel;
      own.panels1 =
          optional_plane<const T>(input.panels1, {tile.batches, panels(tile.lines), own.d * kPanel}, "panels1", viewer);
      own.panels2 =
          optional_plane<const T>(input.panels2, {tile.batches, panels(tile.cols), own.d * kPanel}, "panels2", viewer);
    }
    own.close = T(input.close);
    all.push_back(own);
  }
  return all;
}

template <class T>
std::vector<PairOutput<T>> make_outputs(const std::vector<std::array<py::object, 3>>& outputs, const Tile& tile,
                                        Viewer viewer) {
  static const char* const names[] = {"nngp", "ntk", "defect"};
  std::vector<PairOutput<T>> all;
  for (const auto& planes : outputs) {
    PairOutput<T> own;
    for (size_t k = 0; k < 3; ++k) {
      if (planes[k].is_none()) continue;
      const View view = viewer(planes[k], names[k]);
      own.planes[k] = plane<T>(view, names[k]);
      FNTK_CHECK(view.shape[0] >= tile.batch0 + tile.batches && view.shape[1] >= tile.i0 + tile.lines &&
                     view.shape[2] >= (tile.diagonal ? 1 : tile.j0 + tile.cols),
                 names[k], " is smaller than the tile's place in it");
      FNTK_CHECK(!tile.symmetric || view.shape[1] == view.shape[2], names[k], ": a symmetric output must be square");
    }
    all.push_back(own);
  }
  return all;
}

// place: batch0, batches, i0, lines, j0, cols, row1, row2; rows1, rows2: of the row tables.
inline Tile make_tile(const Program& program, const std::array<long, 8>& place, long n1, long n2, long rows1,
                      long rows2, size_t n_inputs, size_t n_outputs, bool symmetric, bool diagonal) {
  const auto [batch0, batches, i0, lines, j0, cols, row1, row2] = place;
  for (long value : place) FNTK_CHECK(value >= 0, "negative tile");
  FNTK_CHECK(!diagonal || (batches == 1 && cols == 1 && j0 == 0 && row1 == row2 && !symmetric),
             "a diagonal tile is one column");
  FNTK_CHECK(
      row1 + (batches - 1) * n1 + lines <= rows1 && row2 + (batches - 1) * n2 + (diagonal ? lines : cols) <= rows2,
      "tile outside the row tables");
  FNTK_CHECK(n_inputs == size_t(program.n_inputs) && n_outputs == size_t(program.n_outputs), "program has ",
             program.n_inputs, " inputs and ", program.n_outputs, " outputs");
  return {batch0, batches, i0, lines, j0, cols, row1, row2, n1, n2, symmetric, diagonal};
}

// work(float()) or work(double()).
template <class Work>
void with_dtype(const py::dtype& dtype, const Work& work) {
  if (dtype.equal(py::dtype::of<float>())) return work(float());
  FNTK_CHECK(dtype.equal(py::dtype::of<double>()), "dtype must be float32 or float64");
  work(double());
}

inline void bind_inputs(py::module_& m) {
  py::class_<PyInput>(m, "Input", py::module_local())
      .def(py::init<>())
      .def_readwrite("product", &PyInput::product)
      .def_readwrite("defect", &PyInput::defect)
      .def_readwrite("theta", &PyInput::theta)
      .def_readwrite("panels1", &PyInput::panels1)
      .def_readwrite("panels2", &PyInput::panels2)
      .def_readwrite("raw1", &PyInput::raw1)
      .def_readwrite("raw2", &PyInput::raw2)
      .def_readwrite("norms1", &PyInput::norms1)
      .def_readwrite("norms2", &PyInput::norms2)
      .def_readwrite("close", &PyInput::close);
  m.def(
      "ops",
      [] {
        std::vector<py::dict> all;
        for (const OpInfo& info : ops())
          all.push_back(py::dict("name"_a = info.name, "n_params"_a = info.n_params, "positive"_a = info.positive,
                                 "homogeneous"_a = info.homogeneous, "cheap"_a = info.cheap));
        return all;
      },
      "Every op: its name, how many parameters it takes (-1: any number), and its traits.");
  m.def(
      "row_names",
      [](const std::string& name, const std::string& kind, int n_params, int n_sources) {
        Op op;
        op.kind = kind_of(kind);
        op.n_numbers = n_params;
        op.src.resize(size_t(n_sources));
        return ops()[size_t(code_of(name))].row_names(op);
      },
      py::arg("name"), py::arg("kind"), py::arg("n_params"), py::arg("n_sources"),
      "What such an op reads of one input, in its order.");
}

}  // namespace fntk
