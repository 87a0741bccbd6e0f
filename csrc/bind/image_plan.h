// From fastntk.plan.Plan to the structs of images/program.h, for both bindings.
#pragma once
#include "bind/common.h"
#include "images/program.h"

namespace fntk {

inline Form form_of(const std::string& name) {
  if (name == "cov") return Form::cov;
  if (name == "defect") return Form::defect;
  FNTK_CHECK(name == "signed", "no form named '", name, "'");
  return Form::both_defects;
}

inline Window window_of(const py::handle& given) {
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
inline ImageProgram program_of(const py::handle& plan, const std::vector<int>& channels, int n_outputs) {
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
      step.name = from.attr("name").cast<std::string>();
      step.dst = from.attr("dst").cast<int>();
      step.src = from.attr("src").cast<std::vector<int>>();
      step.in = form_of(from.attr("form_in").cast<std::string>());
      step.out = form_of(from.attr("form_out").cast<std::string>());
      step.extent = from.attr("extent").cast<std::vector<int>>();
      step.shift = kind_of(from.attr("kind").cast<std::string>());
      step.first_number = from.attr("numbers").attr("start").cast<int>();
      step.n_numbers = from.attr("numbers").attr("stop").cast<int>() - step.first_number;
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

// Where a plan's tables hold what: of each grid, and of each of its steps, as images/program.h has them.
inline void bind_table_layout(py::module_& m) {
  py::class_<ImageStep>(m, "ImageStep", py::module_local())
      .def_readonly("first", &ImageStep::first)
      .def_readonly("n_arrays", &ImageStep::n_arrays);
  py::class_<ImageGrid>(m, "ImageGrid", py::module_local())
      .def_readonly("lanes", &ImageGrid::lanes)
      .def_readonly("packed", &ImageGrid::packed)
      .def_readonly("table", &ImageGrid::table)
      .def_readonly("steps", &ImageGrid::steps);
}

}  // namespace fntk
