// Threads as fibers: each runs until it waits, then the next one does. Switching is ten instructions on x86-64;
// elsewhere, and for AddressSanitizer, which understands nothing else, it is swapcontext.
#include "kernels/cuda/emulated/simt.hpp"

#if !defined(__x86_64__) || defined(__SANITIZE_ADDRESS__)
#include <ucontext.h>
#endif

#include <algorithm>
#include <cassert>
#include <deque>
#include <exception>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace squeeze::emulated {
namespace {

constexpr size_t kStackBytes = (128 << 10) + 17 * 64;  // off a power of two: the stacks do not share cache sets
constexpr unsigned kWarp = 32;

#if !defined(__x86_64__) || defined(__SANITIZE_ADDRESS__)
using Context = ucontext_t;
void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }
void begin_context(Context& context, std::byte* stack, void (*main)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, main, 0);
}
#else
using Context = void*;  // a stack, on whose top lies where to go on
// Not a function: processors foresee returns by calls that match them.
[[gnu::always_inline]] inline void switch_context(Context& from, Context& to) {
  Context* save = &from;
  Context next = to;
  asm volatile(
      "leaq -128(%%rsp), %%rsp\n\t"  // what a function may keep below its stack
      "pushq %%rbp\n\t"
      "leaq 1f(%%rip), %%rax\n\t"
      "pushq %%rax\n\t"
      "movq %%rsp, (%0)\n\t"
      "movq %1, %%rsp\n\t"
      "popq %%rax\n\t"
      "jmpq *%%rax\n"
      "1:\n\t"
      "popq %%rbp\n\t"
      "leaq 128(%%rsp), %%rsp"
      : "+D"(save), "+S"(next)
      :
      : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2",
        "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
        "cc", "memory");
}
void begin_context(Context& context, std::byte* stack, void (*main)()) {
  const uintptr_t end = reinterpret_cast<uintptr_t>(stack + kStackBytes) / 16 * 16;
  auto* top = reinterpret_cast<void**>(end) - 2;
  top[0] = reinterpret_cast<void*>(main);
  top[1] = nullptr;  // where it would return to
  context = top;
}
#endif

struct Barrier {
  unsigned expected = 0, arrived = 0, generation = 0;
  Combine combine = nullptr;  // to be called on the slots when all have arrived
  std::byte* slots = nullptr;

  void arrive() {
    if (++arrived == expected) release();
  }
  void leave() {  // a thread has ended
    if (--expected > 0 && arrived == expected) release();
  }
  void release() {
    if (combine) std::exchange(combine, nullptr)(slots);
    arrived = 0;
    ++generation;
  }
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes, bytes_read;
  void land() const {
    std::memcpy(to, from, bytes_read);
    std::memset(static_cast<std::byte*>(to) + bytes_read, 0, bytes - bytes_read);
  }
};

struct Warp {
  Barrier barrier;
  std::byte slots[2][kWarp * 64];
};

struct Block {
  Barrier barrier;
  std::vector<Warp> warps;
  std::unique_ptr<std::byte, decltype(&std::free)> shared{nullptr, &std::free};
};

struct Fiber {
  Thread thread;
  Block* block = nullptr;
  Warp* warp = nullptr;
  Context context;
  const Barrier* waits_for = nullptr;
  unsigned generation = 0;  // of what it waits for
  bool ended = false;
  unsigned n_exchanges = 0;
  std::deque<std::vector<Copy>> groups;
  std::vector<Copy> open_group;
};

// A grid runs on the thread that launches it.
thread_local Fiber* running = nullptr;
thread_local Context scheduler;
thread_local Barrier grid_barrier;
thread_local const std::function<void()>* kernel_body = nullptr;
thread_local std::exception_ptr failure;

void wait_at(Barrier& barrier) {
  Fiber* self = running;
  self->waits_for = &barrier;
  self->generation = barrier.generation;
  barrier.arrive();
  if (barrier.generation == self->generation) switch_context(self->context, scheduler);
  self->waits_for = nullptr;
}

void fiber_main() {
  try {
    (*kernel_body)();
  } catch (...) {
    failure = std::current_exception();
  }
  Fiber* self = running;
  self->ended = true;
  self->warp->barrier.leave();
  self->block->barrier.leave();
  grid_barrier.leave();
  switch_context(self->context, scheduler);
}

bool can_run(const Fiber& fiber) {
  return !fiber.ended && (!fiber.waits_for || fiber.waits_for->generation != fiber.generation);
}

void run(Fiber& fiber) {
  running = &fiber;
  running_thread = &fiber.thread;
  switch_context(scheduler, fiber.context);
  if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
}

// Runs the lanes of one warp in turn until all of them wait for other warps; returns whether any ran.
bool run_warp(std::span<Fiber> lanes) {
  bool any = false;
  for (bool progress = true; progress;) {
    progress = false;
    for (size_t i = 0; i < lanes.size(); ++i) {
      Fiber& fiber = lanes[settings().ascending ? i : lanes.size() - 1 - i];
      if (!can_run(fiber)) continue;
      progress = any = true;
      run(fiber);
    }
  }
  return any;
}

// A warp runs ahead of the others as far as barriers let it: what a missing barrier breaks, breaks.
void run_fibers(std::vector<Fiber>& fibers) {
  std::vector<std::span<Fiber>> warps;
  for (size_t first = 0; first < fibers.size();) {
    size_t end = first + 1;
    while (end < fibers.size() && fibers[end].warp == fibers[first].warp) ++end;
    warps.push_back(std::span(fibers).subspan(first, end - first));
    first = end;
  }
  if (!settings().ascending) std::reverse(warps.begin(), warps.end());
  for (bool progress = true; progress;) {
    progress = false;
    for (const std::span<Fiber> warp : warps) progress = run_warp(warp) || progress;
  }
  for (const Fiber& fiber : fibers) {
    if (!fiber.ended) throw std::runtime_error("emulated kernel: a barrier that not all of its threads reach");
  }
}

// Kept from one launch to the next.
std::byte* stacks_for(size_t n_fibers) {
  thread_local std::unique_ptr<std::byte[]> stacks;
  thread_local size_t n_stacks = 0;
  if (n_stacks < n_fibers) {
    stacks = std::make_unique_for_overwrite<std::byte[]>(n_fibers * kStackBytes);
    n_stacks = n_fibers;
  }
  return stacks.get();
}

void fill_block(Block& block, Index at, Index grid, Index size, size_t shared_bytes, Fiber* fibers, std::byte* stacks) {
  const unsigned n_threads = size.x * size.y * size.z;
  block.barrier.expected = n_threads;
  block.warps.resize((n_threads + kWarp - 1) / kWarp);
  if (shared_bytes > 0) {
    block.shared.reset(static_cast<std::byte*>(std::aligned_alloc(128, (shared_bytes + 127) / 128 * 128)));
    std::memset(block.shared.get(), 0xff, shared_bytes);
  }
  for (unsigned i = 0; i < n_threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.thread = {{i % size.x, i / size.x % size.y, i / size.x / size.y}, at, size, grid};
    fiber.block = &block;
    fiber.warp = &block.warps[i / kWarp];
    ++fiber.warp->barrier.expected;
    fiber.ended = false;
    fiber.waits_for = nullptr;
    fiber.n_exchanges = 0;
    fiber.groups.clear();
    fiber.open_group.clear();
    begin_context(fiber.context, stacks + i * kStackBytes, fiber_main);
  }
}

}  // namespace

Settings& settings() {
  static Settings own;
  return own;
}

constinit thread_local Thread* running_thread = nullptr;
std::byte* shared_memory() { return running->block->shared.get(); }
void sync_block() { wait_at(running->block->barrier); }
void sync_grid() { wait_at(grid_barrier); }

void run_grid(Index grid, Index block, size_t shared_bytes, bool cooperative, const std::function<void()>& body) {
  const unsigned n_blocks = grid.x * grid.y * grid.z;
  const unsigned n_threads = block.x * block.y * block.z;
  if (n_blocks == 0 || n_threads == 0 || n_threads > 1024) {
    throw std::runtime_error("emulated kernel: a launch of " + std::to_string(n_blocks) + " blocks of " +
                             std::to_string(n_threads) + " threads");
  }
  kernel_body = &body;
  const unsigned together = cooperative ? n_blocks : 1;
  std::vector<Fiber> fibers(size_t{together} * n_threads);
  std::byte* stacks = stacks_for(fibers.size());
  for (unsigned first = 0; first < n_blocks; first += together) {
    std::vector<Block> blocks(together);
    grid_barrier = {together * n_threads, 0, 0};
    for (unsigned i = 0; i < together; ++i) {
      const unsigned number = settings().ascending ? first + i : n_blocks - 1 - (first + i);
      const Index at{number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
      fill_block(blocks[i], at, grid, block, shared_bytes, fibers.data() + size_t{i} * n_threads,
                 stacks + size_t{i} * n_threads * kStackBytes);
    }
    run_fibers(fibers);
  }
}

const std::byte* exchange(const void* own, size_t bytes, Combine combine) {
  assert(bytes <= 64);
  Fiber& self = *running;
  std::byte* slots = self.warp->slots[self.n_exchanges++ % 2];
  if (bytes > 0) std::memcpy(slots + (self.thread.index.x % kWarp) * 64, own, bytes);
  self.warp->barrier.combine = combine;
  self.warp->barrier.slots = slots;
  wait_at(self.warp->barrier);
  return slots;
}

void copy_async(void* to, const void* from, size_t bytes, size_t bytes_read) {
  const Copy copy{to, from, bytes, bytes_read};
  if (settings().copies_land_late) {
    running->open_group.push_back(copy);
  } else {
    copy.land();
  }
}

void copy_async_commit() { running->groups.push_back(std::exchange(running->open_group, {})); }

void copy_async_wait(int pending) {
  while (static_cast<int>(running->groups.size()) > pending) {
    for (const Copy& copy : running->groups.front()) copy.land();
    running->groups.pop_front();
  }
}

}  // namespace squeeze::emulated
