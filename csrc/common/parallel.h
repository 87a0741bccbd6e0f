// Plain threads over an atomic counter. No pool: nothing survives a call, so fork() is safe and two callers never meet.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace fntk {

// Asked between units of work, on the calling thread: true stops the call.
using Interrupt = std::function<bool()>;

struct Interrupted {};

// Ends a call early. The caller's thread asks `interrupt` every 50 ms; the others learn of it through `stop`.
class Watch {
 public:
  Watch(std::atomic<bool>& stop, const Interrupt* interrupt) : stop_(stop), interrupt_(interrupt) {}

  // Throws Interrupted where the call is to end.
  void look() {
    if (stop_) throw Interrupted{};
    if (!interrupt_ || !*interrupt_) return;
    const auto now = std::chrono::steady_clock::now();
    if (now - asked_ < std::chrono::milliseconds(50)) return;
    asked_ = now;
    if (!(*interrupt_)()) return;
    stop_ = true;
    throw Interrupted{};
  }

  // The same from inside long work, told how many numbers have been touched since: a clock costs as much as dozens.
  void spent(long numbers) {
    if ((numbers_ += numbers) < (1 << 18)) return;
    numbers_ = 0;
    look();
  }

 private:
  std::atomic<bool>& stop_;
  const Interrupt* interrupt_;  // null: another thread asks
  std::chrono::steady_clock::time_point asked_ = std::chrono::steady_clock::now();
  long numbers_ = 0;
};

// Threads that find work among n units.
inline int workers_of(long n, int threads) { return int(std::max(1L, std::min<long>(threads, n))); }

// work(unit, worker, watch) for unit = 0 .. n - 1, worker < workers_of(n, threads); the caller is worker 0. Units that
// may take longer than a few milliseconds tell `watch` what they do.
template <class Work>
void parallel_for(long n, int threads, const Interrupt& interrupt, const Work& work) {
  std::atomic<long> next{0};
  std::atomic<bool> stop{false};
  std::exception_ptr error;
  std::mutex error_lock;
  std::atomic<bool> interrupted{false};

  const auto loop = [&](int worker) {
    Watch watch(stop, worker == 0 ? &interrupt : nullptr);
    try {
      for (long unit; !stop && (unit = next++) < n;) {
        work(unit, worker, watch);
        watch.look();
      }
    } catch (const Interrupted&) {
      interrupted = true;
    } catch (...) {
      const std::lock_guard<std::mutex> guard(error_lock);
      if (!error) error = std::current_exception();
      stop = true;
    }
  };

  std::vector<std::thread> others;
  int running = 0;
  std::mutex running_lock;
  std::condition_variable ended;
  const auto other = [&](int worker) {
    loop(worker);
    const std::lock_guard<std::mutex> guard(running_lock);
    --running;
    ended.notify_one();
  };
  const int wanted = workers_of(n, threads);
  try {
    for (int worker = 1; worker < wanted; ++worker) {
      others.emplace_back(other, worker);
      const std::lock_guard<std::mutex> guard(running_lock);
      ++running;
    }
  } catch (const std::system_error&) {
    // Out of threads: those that started, or the caller alone, do the work.
  }
  loop(0);
  {
    // Others may be in the middle of a long unit: goes on asking.
    Watch watch(stop, &interrupt);
    std::unique_lock<std::mutex> guard(running_lock);
    while (!ended.wait_for(guard, std::chrono::milliseconds(50), [&] { return running <= 0; })) {
      guard.unlock();
      try {
        watch.look();
      } catch (const Interrupted&) {
        interrupted = true;
      }
      guard.lock();
    }
  }
  for (auto& thread : others) thread.join();
  if (error) std::rethrow_exception(error);
  if (interrupted) throw Interrupted{};
}

}  // namespace fntk
