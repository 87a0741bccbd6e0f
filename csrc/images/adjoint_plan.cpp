// What a reverse pass over pairs of images needs of a plan, checked (images/adjoint.h).
#include <algorithm>

#include "common/check.h"
#include "images/adjoint.h"
#include "math/differentiable.h"

namespace fntk {

int image_adjoint_of(const std::string& name) {
#define FNTK_NAME(Phi, text) text,
  static const std::vector<std::string> names = {FNTK_DIFFERENTIABLE(FNTK_NAME)};
#undef FNTK_NAME
  const auto found = std::find(names.begin(), names.end(), name);
  return found == names.end() ? -1 : int(found - names.begin());
}

namespace {

void check_borders(const ImageAdjoint& adjoint, const ImageGrid& grid, const GridLayout<double>& where,
                   const BackStep& step, long positions, long inner) {
  if (!step.borders) return;
  FNTK_CHECK(step.border >= 0 && step.border + positions <= adjoint.n_sums, "borders beyond an image's numbers");
  const auto check_lanes = [&](const std::vector<std::vector<Borders::Lane>>& lanes) {
    FNTK_CHECK(lanes.size() == where.groups.size(), "borders of other groups");
    for (const auto& group : lanes)
      for (const auto& [from, to] : group)
        FNTK_CHECK(from >= 0 && from < grid.lanes && to >= 0 && to < inner, "a border's lane");
  };
  for (int side = 0; side < 2; ++side) {
    FNTK_CHECK(step.borders->rows[side].size() == where.shifts.size(), "borders of other displacements");
    for (const auto& rows : step.borders->rows[side])
      for (const auto& row : rows)
        FNTK_CHECK(row.from >= 0 && row.from < grid.rows && row.to >= 0 && row.to < positions / inner,
                   "a border's row");
    check_lanes(step.borders->all[side]);
    check_lanes(step.borders->outside[side]);
  }
}

}  // namespace

ImageAdjoint::ImageAdjoint(ImagePlan<double> given, std::vector<BackGrid> of_grids, long sums, int totals)
    : plan(std::move(given)), grids(std::move(of_grids)), n_sums(sums), n_totals(totals) {
  const ImageProgram& program = plan.program;
  FNTK_CHECK(grids.size() == program.grids.size(), "grids of another plan");
  output_sizes.assign(size_t(program.n_outputs), 0);
  long planes = 0, linked = 0;
  for (size_t index = 0; index < grids.size(); ++index) {
    const ImageGrid& grid = program.grids[index];
    const GridLayout<double>& where = plan.pairs.grids[index];
    BackGrid& back = grids[index];
    const long positions = grid.rows * grid.inner;
    FNTK_CHECK(back.steps.size() == grid.steps.size(), "steps of another plan");
    FNTK_CHECK(back.first >= 0 && back.first + back.n_accumulators * positions <= n_sums, "sums beyond an image's");
    back.table = table_size;
    for (size_t group = 0; group < where.groups.size(); ++group)
      for (long lane = 0; lane < long(where.groups[group].size()) * grid.inner; ++lane)
        FNTK_CHECK(where.lanes_from[group][size_t(lane)] < grid.inner, "a lane beyond the positions");
    std::vector<int> written(size_t(grid.n_slots), 0);
    for (size_t k = 0; k < back.steps.size(); ++k) {
      const ImageStep& step = grid.steps[k];
      BackStep& own = back.steps[k];
      FNTK_CHECK(!step.fused, "steps of a reverse pass are not fused");
      if (step.kind != Kind::store && step.kind != Kind::join)
        FNTK_CHECK(!written[size_t(step.dst)]++, "a slot is written twice");
      const int channels = step.kind == Kind::input ? program.channels[size_t(step.src[0])] : 1;
      FNTK_CHECK(own.of_source + channels <= back.n_accumulators && own.of_own < back.n_accumulators,
                 "accumulators beyond the grid's");
      FNTK_CHECK(own.total < 0 || own.total + kTotals <= n_totals, "totals beyond the plan's");
      own.table = back.n_arrays;
      back.n_arrays += own.n_arrays;
      const bool cov = step.in == Form::cov, bends = step.kind == Kind::input || step.kind == Kind::dual;
      if (bends || !cov) bent = index;
      int needed = 0;
      if (step.kind == Kind::dual) {
        own.dual = image_adjoint_of(step.name);
        FNTK_CHECK(own.dual >= 0, "no derivatives are compiled of '", step.name, "'");
        needed = 4 + 2 * (step.n_arrays - 2);
        FNTK_CHECK(own.of_source >= 0 && (step.out != Form::cov || own.of_own >= 0), step.name, " adds up nowhere");
      } else if (step.kind == Kind::input) {
        needed = channels;
        FNTK_CHECK(own.of_source >= 0 && (!cov || own.of_own >= 0), "an input adds up nowhere");
      } else if (step.kind == Kind::land) {
        needed = program.links[size_t(step.src[0])].pool ? 1 : 0;
      } else if (step.kind == Kind::conv || step.kind == Kind::dense) {
        needed = cov ? 0 : 1;
      } else if (step.kind == Kind::join) {
        needed = cov || program.links[size_t(step.dst)].pool ? 0 : 1;
      } else if (step.kind == Kind::store) {
        FNTK_CHECK(long(own.place.size()) == positions, "places of another output");
        long& most = output_sizes[size_t(step.dst)];
        for (int place : own.place) most = std::max(most, place + 1L);
      }
      FNTK_CHECK(own.n_arrays == needed, step.name, " has ", own.n_arrays, " arrays of ", needed);
      const bool reads = step.kind == Kind::conv || step.kind == Kind::dense || step.kind == Kind::store ||
                         step.kind == Kind::join || step.kind == Kind::convert;
      FNTK_CHECK(!reads || cov || own.of_source >= 0, step.name, " adds up nowhere");
      if (step.kind == Kind::conv) {
        check_borders(*this, grid, where, own, positions, grid.inner);
        const Reads<double>& window = *where.reads[k];
        for (const auto& mask : window.mask_in) {
          std::vector<double> turned(mask.size(), 0);
          for (size_t read = 0; read < window.shift_in.size(); ++read)
            for (long x = 0; x < grid.lanes; ++x) {
              const long from = x - window.shift_in[read];
              if (from >= 0 && from < grid.lanes)
                turned[read * size_t(grid.lanes) + size_t(x)] = mask[read * size_t(grid.lanes) + size_t(from)];
            }
          own.mask_in.push_back(std::move(turned));
        }
      } else if (step.kind == Kind::land) {
        const ImageGrid& source = program.grids[size_t(program.links[size_t(step.src[0])].source)];
        check_borders(*this, grid, where, own, source.rows * source.inner, source.inner);
      }
    }
    table_size += back.n_arrays * grid.rows * grid.lanes;
    planes = std::max(planes, (2L * grid.n_slots + 2L * back.n_accumulators + 2) * grid.rows * grid.lanes +
                                  back.n_arrays * grid.rows * grid.lanes);
  }
  for (const LinkLayout& link : plan.pairs.links) linked += 4 * link.size;
  worker_bytes = plan.worker_bytes + (planes + linked + 2 * n_sums) * long(sizeof(double));
}

}  // namespace fntk
