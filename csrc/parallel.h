// Plain threads over an atomic counter. No pool: nothing survives a call, so fork() is safe and two callers never meet.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "rows.h"

namespace fntk {

// work(unit, worker) for unit = 0 .. n - 1; the caller is worker 0 and polls `interrupt` every 50 ms.
template <class Work>
void parallel_for(long n, int threads, const Interrupt& interrupt, const Work& work) {
  std::atomic<long> next{0};
  std::atomic<bool> stop{false};
  std::exception_ptr error;
  std::mutex error_lock;
  bool interrupted = false;

  const auto loop = [&](int worker) {
    auto asked = std::chrono::steady_clock::now();
    try {
      for (long unit; !stop && (unit = next++) < n;) {
        work(unit, worker);
        if (worker != 0) continue;
        const auto now = std::chrono::steady_clock::now();
        if (now - asked < std::chrono::milliseconds(50)) continue;
        asked = now;
        if (interrupt && interrupt()) stop = interrupted = true;
      }
    } catch (...) {
      const std::lock_guard<std::mutex> guard(error_lock);
      if (!error) error = std::current_exception();
      stop = true;
    }
  };

  std::vector<std::thread> others;
  const int wanted = int(std::min<long>(threads, n));
  try {
    for (int worker = 1; worker < wanted; ++worker) others.emplace_back(loop, worker);
  } catch (const std::system_error&) {
    // Out of threads: those that started, or the caller alone, do the work.
  }
  loop(0);
  for (auto& thread : others) thread.join();
  if (error) std::rethrow_exception(error);
  if (interrupted) throw Interrupted{};
}

}  // namespace fntk
