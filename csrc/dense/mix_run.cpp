#include <algorithm>
#include <memory>

#include "common/isa.h"
#include "dense/mix.h"
#include "dense/window.h"

namespace fntk {

template <class T>
void mix(const Mix<T>& call, const Isa& isa, int threads, const Interrupt& interrupt) {
  const PositionKernels<T>& kernels = isa.positions<T>();
  const long group = mix_group(call), groups = (call.n2 + group - 1) / group;
  const long parts = (call.behind + kMixLines - 1) / kMixLines, units = call.batches * call.n1 * groups * parts;
  const long entries = call.before * call.before;
  const int workers = workers_of(units, call.batches * call.n1 * call.n2 * entries < 50000 ? 1 : threads);
  std::vector<std::unique_ptr<T[]>> buffers(static_cast<size_t>(workers));
  parallel_for(units, workers, interrupt, [&](long unit, int worker, Watch& watch) {
    const long part = unit % parts, g = unit / parts % groups, image = unit / (parts * groups) % call.n1;
    const long end = std::min(call.n2, (g + 1) * group);
    const long first = call.symmetric ? std::max(g * group, image) : g * group;
    if (first >= end) return;
    std::unique_ptr<T[]>& own = buffers[static_cast<size_t>(worker)];
    if (!own) own.reset(new T[static_cast<size_t>(mix_buffer(call))]());
    const long line = part * kMixLines, lines = std::min(kMixLines, call.behind - line);
    kernels.mix(call, {unit / (parts * groups * call.n1), image, first, end - first, line, lines, own.get()});
    watch.spent((end - first) * (entries * lines + lines * call.before * (call.full ? call.padded : 1)) / 16);
  });
}

template void mix<float>(const Mix<float>&, const Isa&, int, const Interrupt&);
template void mix<double>(const Mix<double>&, const Isa&, int, const Interrupt&);

}  // namespace fntk
