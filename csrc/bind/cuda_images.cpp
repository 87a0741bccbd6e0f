// Images on a device: thin, as bind/cuda.cpp. Python allocates, and makes the tables of images.
#include <algorithm>

#include "bind/device.h"
#include "bind/image_plan.h"
#include "cuda/images/run.h"

namespace fntk {
namespace {

template <class T>
struct Geometry {  // of a plan, whatever the numbers
  ImageProgram program;
  Layout<T> pairs, own;  // own: of an image with itself, where a variance behind a pool is needed
  bool has_own() const {
    return std::any_of(own.grids.begin(), own.grids.end(), [](const auto& grid) { return !grid.shifts.empty(); });
  }
};

template <class T>
struct Typed {
  std::shared_ptr<const Geometry<T>> geometry;
  ImageCode code;
  const ImageProgram& program;
  Typed(std::shared_ptr<const Geometry<T>> given, const std::vector<double>& numbers, bool registers, bool own)
      : geometry(std::move(given)),
        code(make_image_code<T>(geometry->program, own ? geometry->own : geometry->pairs, numbers, registers)),
        program(geometry->program) {}

  const char* copy_of(const py::object& copy) const {
    return static_cast<const char*>(bytes_of(copy, code.bytes.size(), "code"));
  }
};

long length_of(const py::object& object, const char* what) {
  const View view = device_view(object, what);
  return view.shape.empty() ? 0 : view.shape[0];
}

// A packed array of any number of lines of `size`, and how many there are.
template <class T>
T* lines_of(const py::object& object, long size, const char* what, long& n) {
  n = length_of(object, what);
  return packed<T>(object, {n, size}, what);
}

template <class T, class Call>
void set_grids(const Typed<T>& plan, const std::array<size_t, 2>& grids, Call& call) {
  FNTK_CHECK(grids[0] <= grids[1] && grids[1] <= plan.code.grids.size(), "grids ", grids[0], " to ", grids[1], " of ",
             plan.code.grids.size());
  call.first_grid = grids[0];
  call.last_grid = grids[1];
}

template <class T>
void image_chains(const Typed<T>& plan, const py::object& code, const py::object& tables, const py::object& chains,
                  const std::array<size_t, 2>& grids, int device, uintptr_t stream) {
  ChainTablesCall<T> call = {};
  call.code = plan.copy_of(code);
  call.table_size = plan.program.table_size;
  call.tables = lines_of<const T>(tables, call.table_size, "tables", call.n);
  call.chains = packed<T>(chains, {call.n, plan.code.chain_size}, "chains");
  set_grids(plan, grids, call);
  const Place place = make_place(device, stream);
  released([&] { cuda_chain_tables(plan.code, call, place); });
}

template <class T>
void image_pairs(const Typed<T>& plan, const py::object& code, const std::array<py::object, 2>& tables,
                 const std::array<py::object, 2>& chains, const py::object& pairs, const py::object& lengths,
                 const py::object& linked, const py::object& lost, const py::object& scratch,
                 const std::vector<std::array<py::object, 2>>& outputs, const std::array<size_t, 2>& grids,
                 bool backwards, int device, uintptr_t stream) {
  FNTK_CHECK(int(outputs.size()) == plan.program.n_outputs, "program has ", plan.program.n_outputs, " outputs");
  ImagePairsCall<T> call;
  long n1 = 0, n2 = 0, room = 0;
  call.code = plan.copy_of(code);
  call.table_size = plan.program.table_size;
  call.tables1 = lines_of<const T>(tables[0], call.table_size, "tables1", n1);
  call.tables2 = lines_of<const T>(tables[1], call.table_size, "tables2", n2);
  call.chains1 = packed<const T>(chains[0], {n1, plan.code.chain_size}, "chains1");
  call.chains2 = packed<const T>(chains[1], {n2, plan.code.chain_size}, "chains2");
  call.n = length_of(lengths, "lengths");
  call.lengths = packed<const double>(lengths, {call.n}, "lengths");
  call.pairs = static_cast<const int64_t*>(bytes_of(pairs, size_t(call.n) * 3 * sizeof(int64_t), "pairs"));
  call.linked = lines_of<double>(linked, plan.code.pair_doubles, "linked", room);
  FNTK_CHECK(room >= call.n, "linked holds ", room, " pairs of ", call.n);
  call.lost = packed<double>(lost, {call.n, plan.code.lost_units, 2}, "lost");
  call.scratch_size = length_of(scratch, "scratch");
  call.scratch = packed<T>(scratch, {call.scratch_size}, "scratch");
  FNTK_CHECK(call.scratch_size >= plan.code.scratch, "scratch holds ", call.scratch_size, " numbers of ",
             plan.code.scratch);
  for (size_t k = 0; k < outputs.size(); ++k) {
    std::array<T*, 2> planes = {nullptr, nullptr};
    for (size_t p = 0; p < 2; ++p)
      if (!outputs[k][p].is_none()) planes[p] = packed<T>(outputs[k][p], {call.n, plan.code.sizes[k]}, "output");
    call.planes.push_back(planes);
  }
  set_grids(plan, grids, call);
  call.backwards = backwards;
  const Place place = make_place(device, stream);
  released([&] { cuda_image_pairs(plan.code, call, place); });
}

template <class T>
void bind_typed(py::module_& m, const char* plan_name, const char* code_name) {
  py::class_<Typed<T>> typed(m, code_name, py::module_local());  // before the signature that names it
  py::class_<Geometry<T>, std::shared_ptr<Geometry<T>>>(m, plan_name, py::module_local())
      .def(py::init([](const py::object& plan, const py::object& pairs, const py::object& own,
                       const std::vector<int>& channels, int n_outputs) {
             auto made = std::make_shared<Geometry<T>>();
             made->program = program_of(plan, channels, n_outputs);
             made->pairs = layout_of<T>(pairs, made->program);
             made->own = layout_of<T>(own, made->program);
             return made;
           }),
           py::arg("plan"), py::arg("pairs"), py::arg("own"), py::arg("channels"), py::arg("n_outputs"))
      .def_property_readonly("grids", [](const Geometry<T>& self) { return self.program.grids; })
      .def_property_readonly("table_size", [](const Geometry<T>& self) { return self.program.table_size; })
      .def_property_readonly("has_own", &Geometry<T>::has_own)
      .def(
          "code",
          [](const std::shared_ptr<Geometry<T>>& self, const std::vector<double>& numbers, bool registers, bool own) {
            return std::make_unique<Typed<T>>(self, numbers, registers, own);
          },
          py::arg("numbers"), py::arg("registers"), py::arg("own"));
  typed.def("bytes", [](const Typed<T>& self) { return py::bytes(self.code.bytes.data(), self.code.bytes.size()); })
      .def_property_readonly("table_size", [](const Typed<T>& self) { return self.program.table_size; })
      .def_property_readonly("chain_size", [](const Typed<T>& self) { return self.code.chain_size; })
      .def_property_readonly("pair_doubles", [](const Typed<T>& self) { return self.code.pair_doubles; })
      .def_property_readonly("scratch", [](const Typed<T>& self) { return self.code.scratch; })
      .def_property_readonly("lost_units", [](const Typed<T>& self) { return self.code.lost_units; })
      .def_property_readonly("sizes", [](const Typed<T>& self) { return self.code.sizes; })
      // where a link's first plane begins among a pair's doubles: rows x lanes of displacement 0 come first
      .def_property_readonly("links",
                             [](const Typed<T>& self) {
                               std::vector<long> found;
                               for (const LinkCode& link : self.code.links) found.push_back(link.planes);
                               return found;
                             })
      // of each grid: groups of displacements, and layers that run in registers
      .def_property_readonly("grids", [](const Typed<T>& self) {
        std::vector<std::pair<int, int>> found;
        for (const GridCode& g : self.code.grids) {
          int layers = 0;
          for (int k = 0; k < g.n_steps; ++k)
            layers += reinterpret_cast<const StepCode*>(self.code.bytes.data() + g.steps)[k].chain;
          found.push_back({g.n_groups, layers});
        }
        return found;
      });
  m.def("image_chains", &image_chains<T>, py::arg("plan"), py::arg("code"), py::arg("tables"), py::arg("chains"),
        py::arg("grids"), py::arg("device"), py::arg("stream"));
  m.def("image_pairs", &image_pairs<T>, py::arg("plan"), py::arg("code"), py::arg("tables"), py::arg("chains"),
        py::arg("pairs"), py::arg("lengths"), py::arg("linked"), py::arg("lost"), py::arg("scratch"),
        py::arg("outputs"), py::arg("grids"), py::arg("backwards"), py::arg("device"), py::arg("stream"));
}

}  // namespace

void bind_cuda_images(py::module_& m) {
  bind_table_layout(m);
  bind_typed<float>(m, "ImagePlan32", "ImageCode32");
  bind_typed<double>(m, "ImagePlan64", "ImageCode64");
}

}  // namespace fntk
