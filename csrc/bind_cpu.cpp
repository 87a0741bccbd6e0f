// Thin: views in, GIL released, one call of cpu_run.h, results in arrays that Python allocated.
#include "bind_common.h"
#include "cpu_run.h"

namespace py = pybind11;
using namespace fntk;

namespace {

void run_tile(const Program& program, const PyRows& rows1, const PyRows& rows2, const py::dtype& dtype,
              const std::array<long, 8>& place, long n1, long n2, const std::vector<PyInput>& inputs,
              const std::vector<std::array<py::object, 3>>& outputs, bool symmetric, bool diagonal,
              const std::string& isa, int threads) {
  const Isa& table = find_isa(isa);
  with_tile(program, rows1, rows2, dtype, place, n1, n2, inputs, outputs, symmetric, diagonal,
            [&](const auto& table1, const auto& table2, const Tile& tile, const auto& in, const auto& out) {
              for (const auto& input : in)
                FNTK_CHECK(input.product || !input.unit1 || (input.d <= kInsideFeatures && !diagonal),
                           "a product of more than ", kInsideFeatures, " features must be given");
              released([&] { run(program, table1, table2, tile, in, out, table, threads, signalled); });
            });
}

template <class T>
bool normalise_typed(const py::array& x, py::array& unit, py::array_t<double>& norms, const std::string& isa,
                     int threads) {
  if (!x.dtype().equal(py::dtype::of<T>())) return false;
  FNTK_CHECK(x.ndim() == 2 && unit.ndim() == 2 && unit.shape(0) == x.shape(0) && unit.shape(1) == x.shape(1) &&
                 unit.dtype().equal(x.dtype()) && norms.ndim() == 1 && norms.shape(0) == x.shape(0),
             "unit must have x's shape and dtype, norms one entry a row");
  FNTK_CHECK(x.flags() & py::array::c_style && unit.flags() & py::array::c_style, "x and unit must be C-contiguous");
  const long n = long(x.shape(0)), d = long(x.shape(1));
  const T* in = static_cast<const T*>(x.data());
  T* out = static_cast<T*>(unit.mutable_data());
  double* lengths = norms.mutable_data();
  const Isa& table = find_isa(isa);
  released([&] { normalise<T>(in, n, d, out, lengths, table, threads, signalled); });
  return true;
}

template <class T>
bool dual_typed(const std::string& name, const std::vector<double>& params, const py::array& q11, const py::array& q12,
                const py::array& q22, double scale, py::array& k, py::array& kdot, const std::string& isa,
                int threads) {
  if (!q11.dtype().equal(py::dtype::of<T>())) return false;
  const py::array* all[] = {&q11, &q12, &q22, &k, &kdot};
  for (const py::array* array : all)
    FNTK_CHECK(array->ndim() == 1 && array->size() == q11.size() && array->dtype().equal(q11.dtype()) &&
                   array->flags() & py::array::c_style,
               "dual maps take contiguous 1-D arrays of one length and dtype");
  const auto in = [](const py::array& array) { return static_cast<const T*>(array.data()); };
  T *k_out = static_cast<T*>(k.mutable_data()), *kdot_out = static_cast<T*>(kdot.mutable_data());
  const Isa& table = find_isa(isa);
  const long n = long(q11.size());
  released([&] {
    dual_map<T>(name, params, n, in(q11), in(q12), in(q22), T(scale), k_out, kdot_out, table, threads, signalled);
  });
  return true;
}

}  // namespace

PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
  m.doc() = "fastntk's compiled CPU backend: private, reached through fastntk.backends.";

  bind_programs(m);
  m.attr("INSIDE_FEATURES") = kInsideFeatures;
  m.def("isas", [] {
    std::vector<std::pair<std::string, bool>> all;
    for (const Isa& isa : isas()) all.emplace_back(isa.name, isa.available);
    return all;
  });
  m.def("run", &run_tile, py::arg("program"), py::arg("rows1"), py::arg("rows2"), py::arg("dtype"), py::arg("place"),
        py::arg("n1"), py::arg("n2"), py::arg("inputs"), py::arg("outputs"), py::arg("symmetric"), py::arg("diagonal"),
        py::arg("isa"), py::arg("threads"));
  m.def(
      "normalise",
      [](const py::array& x, py::array unit, py::array_t<double> norms, const std::string& isa, int threads) {
        FNTK_CHECK(normalise_typed<float>(x, unit, norms, isa, threads) ||
                       normalise_typed<double>(x, unit, norms, isa, threads),
                   "normalise takes float32 or float64");
      },
      py::arg("x"), py::arg("unit"), py::arg("norms"), py::arg("isa"), py::arg("threads"));
  m.def(
      "dual",
      [](const std::string& name, const std::vector<double>& params, const py::array& q11, const py::array& q12,
         const py::array& q22, double scale, py::array k, py::array kdot, const std::string& isa, int threads) {
        FNTK_CHECK(dual_typed<float>(name, params, q11, q12, q22, scale, k, kdot, isa, threads) ||
                       dual_typed<double>(name, params, q11, q12, q22, scale, k, kdot, isa, threads),
                   "dual maps take float32 or float64");
      },
      py::arg("name"), py::arg("params"), py::arg("q11"), py::arg("q12"), py::arg("q22"), py::arg("scale"),
      py::arg("k"), py::arg("kdot"), py::arg("isa"), py::arg("threads"));
}
