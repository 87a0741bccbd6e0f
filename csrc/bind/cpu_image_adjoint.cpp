// The reverse pass over pairs of images: a plan and what belongs to its steps, made once; tables in, sums out.
#include "bind/cpu_image_adjoint.h"

#include "bind/image_plan.h"
#include "images/adjoint.h"

namespace fntk {
namespace {

using Matrix = py::array_t<double, py::array::c_style>;
// Arrays, accumulators of the source and of its own, where its borders begin, totals, places of an output, borders.
using PyBackStep = std::tuple<int, int, int, long, int, py::object, py::object>;
using PyBackGrid = std::tuple<int, long, std::vector<PyBackStep>>;  // accumulators, where they begin, steps

std::vector<std::vector<Borders::Row>> border_rows(const py::handle& given) {
  std::vector<std::vector<Borders::Row>> found;
  for (const auto& rows : lines_of_numbers<int64_t>(given)) {
    std::vector<Borders::Row> own;
    for (size_t k = 0; k + 2 < rows.size(); k += 3) own.push_back({long(rows[k]), long(rows[k + 1]), rows[k + 2] != 0});
    found.push_back(std::move(own));
  }
  return found;
}

std::vector<std::vector<Borders::Lane>> border_lanes(const py::handle& given) {
  std::vector<std::vector<Borders::Lane>> found;
  for (const auto& lanes : lines_of_numbers<int64_t>(given)) {
    std::vector<Borders::Lane> own;
    for (size_t k = 0; k + 1 < lanes.size(); k += 2) own.push_back({long(lanes[k]), long(lanes[k + 1])});
    found.push_back(std::move(own));
  }
  return found;
}

std::shared_ptr<Borders> borders_of(const py::object& given) {
  if (given.is_none()) return nullptr;
  auto found = std::make_shared<Borders>();
  for (int side = 0; side < 2; ++side) {
    found->rows[side] = border_rows(given.attr("rows")[py::int_(side)]);
    found->all[side] = border_lanes(given.attr("all")[py::int_(side)]);
    found->outside[side] = border_lanes(given.attr("outside")[py::int_(side)]);
  }
  return found;
}

std::unique_ptr<ImageAdjoint> make_image_adjoint(const py::object& plan, const py::object& pairs, const py::object& own,
                                                 const std::vector<int>& channels, int n_outputs,
                                                 const std::vector<PyBackGrid>& grids, long n_sums, int n_totals) {
  const ImageProgram program = program_of(plan, channels, n_outputs);
  std::vector<BackGrid> made;
  for (const auto& [accumulators, first, steps] : grids) {
    BackGrid grid;
    grid.n_accumulators = accumulators;
    grid.first = first;
    for (const auto& [arrays, of_source, of_own, border, total, place, borders] : steps) {
      BackStep step;
      step.n_arrays = arrays;
      step.of_source = of_source;
      step.of_own = of_own;
      step.border = border;
      step.total = total;
      if (!place.is_none()) step.place = numbers_of<int>(place);
      step.borders = borders_of(borders);
      grid.steps.push_back(std::move(step));
    }
    made.push_back(std::move(grid));
  }
  return std::make_unique<ImageAdjoint>(
      ImagePlan<double>(program, layout_of<double>(pairs, program), layout_of<double>(own, program)), std::move(made),
      n_sums, n_totals);
}

const double* matrix(const Matrix& x, long rows, long cols, const char* what) {
  FNTK_CHECK(x.ndim() == 2 && x.shape(0) == rows && x.shape(1) == cols, what, " must be ", rows, " x ", cols);
  return x.data();
}

BackSide side_of(const ImageAdjoint& adjoint, const std::array<Matrix, 2>& tables) {
  const long n = long(tables[0].shape(0));
  return {matrix(tables[0], n, adjoint.plan.program.table_size, "tables"),
          matrix(tables[1], n, adjoint.table_size, "tables of the reverse pass"), n};
}

// Cotangents of each output: (pairs, positions, positions) on nngp and on ntk, or None.
void run_pairs(const ImageAdjoint& adjoint, const std::vector<double>& numbers, const std::array<Matrix, 2>& tables1,
               const std::array<Matrix, 2>& tables2, const std::vector<std::array<long, 2>>& pairs,
               const std::vector<std::array<py::object, 2>>& on, const std::vector<long>& sizes, bool counts,
               Matrix sums1, Matrix sums2, Matrix totals, const std::string& isa, int threads) {
  const BackSide one = side_of(adjoint, tables1), two = side_of(adjoint, tables2);
  const long count = long(pairs.size());
  BackCall call = {pairs, {}, {}, sizes, false, counts, nullptr, nullptr, nullptr};
  FNTK_CHECK(on.size() == size_t(adjoint.plan.program.n_outputs) && sizes.size() == on.size(),
             "cotangents of each output");
  std::vector<Matrix> held;  // views of cotangents stay alive
  for (size_t output = 0; output < on.size(); ++output)
    for (size_t k = 0; k < 2; ++k) {
      const double* data = nullptr;
      if (!on[output][k].is_none()) {
        held.push_back(py::cast<Matrix>(on[output][k]));
        data = matrix(held.back(), count, sizes[output] * sizes[output], "a cotangent");
        call.ntk = call.ntk || k == 1;
      }
      (k == 0 ? call.on_k : call.on_theta).push_back(data);
    }
  matrix(sums1, one.n, adjoint.n_sums, "sums1");
  matrix(sums2, two.n, adjoint.n_sums, "sums2");
  matrix(totals, count, adjoint.n_totals, "totals");
  call.sums1 = sums1.mutable_data();
  call.sums2 = sums2.mutable_data();
  call.totals = totals.mutable_data();
  const Isa& table = find_isa(isa);
  released([&] { run_image_adjoint(adjoint, numbers, one, two, call, table, threads, signalled); });
}

}  // namespace

void bind_image_adjoint(py::module_& m) {
  py::class_<ImageAdjoint>(m, "ImageAdjoint", py::module_local())
      .def(py::init(&make_image_adjoint), py::arg("plan"), py::arg("pairs"), py::arg("own"), py::arg("channels"),
           py::arg("n_outputs"), py::arg("grids"), py::arg("n_sums"), py::arg("n_totals"))
      .def_readonly("table_size", &ImageAdjoint::table_size)
      .def_readonly("worker_bytes", &ImageAdjoint::worker_bytes)
      .def_property_readonly("tables",  // of each grid: where they begin
                             [](const ImageAdjoint& self) {
                               std::vector<long> found;
                               for (const BackGrid& grid : self.grids) found.push_back(grid.table);
                               return found;
                             })
      .def("run", &run_pairs, py::arg("numbers"), py::arg("tables1"), py::arg("tables2"), py::arg("pairs"),
           py::arg("on"), py::arg("sizes"), py::arg("counts"), py::arg("sums1").noconvert(),
           py::arg("sums2").noconvert(), py::arg("totals").noconvert(), py::arg("isa"), py::arg("threads"));
  m.def("has_image_adjoint", [](const std::string& name) { return image_adjoint_of(name) >= 0; });
}

}  // namespace fntk
