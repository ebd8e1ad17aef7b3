// Runs a kernel's entry point, one block after the other. Compiled once for each variant, with its
// file as CUPYNA_SOURCE and the type of its one argument as CUPYNA_PARAMS.
#include <block.hpp>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
alignas(128) unsigned char memory[kMostShared];
std::vector<Fiber> fibers;
int current;
Meeting of_block, of_warp[32];
std::size_t shared_bytes;
long progress;
static ucontext_t scheduler;

static char failure[200];

void fail(const char* reason) {
  std::snprintf(failure, sizeof failure, "thread %d of block (%u, %u, %u): %s", current, blockIdx.x,
                blockIdx.y, blockIdx.z, reason);
  for (;;) let_others_run();
}

void let_others_run() { swapcontext(&fibers[current].context, &scheduler); }
}  // namespace emulation

#include CUPYNA_SOURCE

namespace {

constexpr std::size_t kStackBytes = 1 << 17;
const CUPYNA_PARAMS* params;

void run_thread() {
  CUPYNA_SYMBOL(*params);
  emulation::fibers[emulation::current].has_ended = true;
  ++emulation::progress;
  emulation::let_others_run();
}

void run_block(int threads) {
  using namespace emulation;
  std::memset(memory, 0xff, shared_bytes);
  for (Fiber& fiber : fibers) {
    fiber.has_ended = false;
    fiber.open.clear();
    fiber.groups.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    makecontext(&fiber.context, run_thread, 0);
  }
  // What one thread leaves for another without a barrier between them is missed in one order.
  bool is_reversed = false;
  for (bool has_run = true; has_run;) {
    has_run = false;
    const long before = progress;
    is_reversed = !is_reversed;
    for (int i = 0; i < threads; ++i) {
      current = is_reversed ? threads - 1 - i : i;
      if (fibers[current].has_ended) continue;
      has_run = true;
      threadIdx = dim3{static_cast<unsigned>(current), 0, 0};
      swapcontext(&scheduler, &fibers[current].context);
      if (failure[0] != 0) return;
    }
    if (has_run && progress == before) {
      std::strcpy(failure, "threads wait for one that ended");
      return;
    }
  }
}

}  // namespace

// Null, or why the launch ended early.
extern "C" const char* run(const void* given, const int* grid, int threads, int smem_bytes) {
  using namespace emulation;
  shared_bytes = smem_bytes;
  failure[0] = 0;
  of_block = {};
  for (Meeting& meeting : of_warp) meeting = {};
  params = static_cast<const CUPYNA_PARAMS*>(given);
  fibers = std::vector<Fiber>(threads);
  for (Fiber& fiber : fibers) fiber.stack.resize(kStackBytes);
  gridDim = dim3{unsigned(grid[0]), unsigned(grid[1]), unsigned(grid[2])};
  blockDim = dim3{static_cast<unsigned>(threads), 1, 1};
  for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
        run_block(threads);
        if (failure[0] != 0) return failure;
      }
    }
  }
  return nullptr;
}
