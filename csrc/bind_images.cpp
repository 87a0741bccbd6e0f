// Kernels of inputs with spatial axes: plan, tables and pairs as Python objects.
#include "bind_images.h"

#include "bind_common.h"
#include "image_run.h"

namespace fntk {
namespace {

Form form_of(const std::string& name) {
  if (name == "cov") return Form::cov;
  if (name == "defect") return Form::defect;
  FNTK_CHECK(name == "signed", "no form named '", name, "'");
  return Form::both_defects;
}

Window window_of(const py::handle& given) {
  Window w;
  const auto get = [&](const char* name) { return given.attr(name).cast<std::vector<int>>(); };
  w.size_in = get("size_in");
  w.size_out = get("size_out");
  w.shape = get("shape");
  w.strides = get("strides");
  w.dilation = get("dilation");
  w.low = get("low");
  w.circular = given.attr("circular").cast<bool>();
  w.edges = given.attr("normalize_edges").cast<bool>();
  const size_t axes = w.shape.size();
  FNTK_CHECK(axes > 0 && w.size_in.size() == axes && w.size_out.size() == axes && w.strides.size() == axes &&
                 w.dilation.size() == axes && w.low.size() == axes,
             "a window's entries go together");
  return w;
}

// From fastntk.plan.Plan.
ImageProgram program_of(const py::handle& plan, const std::vector<int>& channels, int n_outputs) {
  ImageProgram program;
  program.channels = channels;
  program.n_outputs = n_outputs;
  for (const py::handle given : plan.attr("grids")) {
    ImageGrid grid;
    grid.sizes = given.attr("sizes").cast<std::vector<int>>();
    grid.need = given.attr("need").cast<std::vector<std::vector<int>>>();
    grid.self_need = given.attr("self_need").cast<std::vector<std::vector<int>>>();
    grid.n_slots = given.attr("n_slots").cast<int>();
    for (const py::handle from : given.attr("steps")) {
      ImageStep step;
      step.name = from.attr("kind").cast<std::string>();
      step.dst = from.attr("dst").cast<int>();
      step.src = from.attr("src").cast<std::vector<int>>();
      step.in = form_of(from.attr("form_in").cast<std::string>());
      step.out = form_of(from.attr("form_out").cast<std::string>());
      step.extent = from.attr("extent").cast<std::vector<int>>();
      step.params = from.attr("params").cast<std::vector<double>>();
      if (!from.attr("window").is_none()) step.window = window_of(from.attr("window"));
      step.fused = from.attr("fused").cast<bool>();
      grid.steps.push_back(step);
    }
    program.grids.push_back(grid);
  }
  for (const py::handle given : plan.attr("links")) {
    ImageLink link;
    link.source = given.attr("source").cast<int>();
    link.target = given.attr("target").cast<int>();
    link.window = window_of(given.attr("window"));
    link.pool = given.attr("pool").cast<bool>();
    link.form = form_of(given.attr("form").cast<std::string>());
    program.links.push_back(link);
  }
  return program;
}

template <class T>
struct Typed {
  ImagePlan<T> plan;
  Typed(ImageProgram program) : plan(std::move(program)) {}

  ImageTables<T> tables(const std::vector<py::array>& x, const std::string& isa, int threads) const {
    FNTK_CHECK(x.size() == plan.program.channels.size(), "one array for each input");
    std::vector<const T*> data;
    for (size_t k = 0; k < x.size(); ++k) {
      FNTK_CHECK(x[k].dtype().equal(py::dtype::of<T>()) && x[k].ndim() == 3 && x[k].flags() & py::array::c_style &&
                     x[k].shape(0) == x[0].shape(0) && x[k].shape(2) == plan.program.channels[k],
                 "inputs must be images x positions x channels, C-contiguous, of the plan's dtype");
      for (const ImageGrid& g : plan.program.grids)
        for (const ImageStep& step : g.steps)
          if (step.kind == Kind::input && step.src[0] == int(k))
            FNTK_CHECK(x[k].shape(1) == g.rows * g.inner, "inputs have ", x[k].shape(1), " positions");
      data.push_back(static_cast<const T*>(x[k].data()));
    }
    const long n = long(x[0].shape(0));
    const Isa& table = find_isa(isa);
    return released([&] { return make_image_tables<T>(plan, data, n, table, threads, signalled); });
  }

  auto run(const ImageTables<T>& one, const ImageTables<T>& two, const std::array<long, 6>& place,
           const std::vector<std::array<py::object, 2>>& given, bool symmetric,
           const std::vector<std::array<long, 2>>& listed, const std::string& isa, int threads) const {
    const ImagePairs pairs = {place[0], place[1], place[2], place[3], place[4], place[5], symmetric, listed};
    for (long value : place) FNTK_CHECK(value >= 0, "negative place");
    const long rows = listed.empty() ? pairs.out1 + pairs.count1 : long(listed.size());
    const long cols = listed.empty() ? pairs.out2 + pairs.count2 : 1;
    std::vector<ImageOutput<T>> outputs;
    for (const auto& planes : given) {
      ImageOutput<T> output;
      for (int p = 0; p < 2; ++p) {
        if (planes[size_t(p)].is_none()) continue;
        auto array = py::cast<py::array>(planes[size_t(p)]);
        FNTK_CHECK(array.dtype().equal(py::dtype::of<T>()) && array.ndim() >= 2 && array.ndim() % 2 == 0 &&
                       array.shape(0) >= rows && array.shape(1) >= cols &&
                       (!symmetric || array.shape(0) == array.shape(1)),
                   "outputs must be of the plan's dtype and hold all pairs");
        output.planes[p] = static_cast<T*>(array.mutable_data());
        for (py::ssize_t k = 0; k < array.ndim(); ++k) {
          FNTK_CHECK(array.strides(k) % py::ssize_t(sizeof(T)) == 0, "strides must be whole elements");
          output.strides[p].push_back(array.strides(k) / py::ssize_t(sizeof(T)));
        }
      }
      outputs.push_back(output);
    }
    const Isa& table = find_isa(isa);
    return released([&] { return run_images<T>(plan, one, two, pairs, outputs, table, threads, signalled); });
  }
};

template <class T>
void bind_typed(py::module_& m, const char* plan_name, const char* tables_name) {
  py::class_<ImageTables<T>>(m, tables_name, py::module_local());
  py::class_<Typed<T>>(m, plan_name, py::module_local())
      .def(py::init([](const py::object& plan, const std::vector<int>& channels, int n_outputs) {
             return std::make_unique<Typed<T>>(program_of(plan, channels, n_outputs));
           }),
           py::arg("plan"), py::arg("channels"), py::arg("n_outputs"))
      .def_property_readonly("table_bytes",
                             [](const Typed<T>& self) { return self.plan.program.table_size * long(sizeof(T)); })
      .def_property_readonly("worker_bytes", [](const Typed<T>& self) { return self.plan.worker_bytes; })
      .def("tables", &Typed<T>::tables, py::arg("x"), py::arg("isa"), py::arg("threads"))
      .def("run", &Typed<T>::run, py::arg("tables1"), py::arg("tables2"), py::arg("place"), py::arg("outputs"),
           py::arg("symmetric"), py::arg("listed"), py::arg("isa"), py::arg("threads"));
}

}  // namespace

void bind_images(py::module_& m) {
  bind_typed<float>(m, "ImagePlan32", "ImageTables32");
  bind_typed<double>(m, "ImagePlan64", "ImageTables64");
}

}  // namespace fntk
