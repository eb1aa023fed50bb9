// AMX without AMX: has_amx() for the kernel suites of scripts/emulate_isa.sh. The instructions that the kernels use
// raise SIGILL on a CPU that lacks them; the handler carries them out on tiles in memory, as Intel's manual defines
// them.
#include <signal.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cpu/tables.hpp"

namespace squeeze {
namespace {

struct Tile {
  int n_rows, row_bytes;
  uint8_t bytes[16][64];
};
Tile tiles[8];
bool open = false;

[[noreturn]] void refuse(const char* what, const uint8_t* code) {
  std::fprintf(stderr, "emulated_amx: %s: %02x %02x %02x %02x %02x\n", what, code[0], code[1], code[2], code[3],
               code[4]);
  std::_Exit(1);
}

// A bf16 number; subnormal ones count as zero.
float element(const Tile& t, int row, int i) {
  uint16_t half;
  std::memcpy(&half, t.bytes[row] + 2 * i, 2);
  return bf16_to_f32(half & 0x7f80 ? half : half & 0x8000);
}
float flushed(float x) { return bits_of_float(x) & 0x7f800000 ? x : float_of_bits(bits_of_float(x) & 0x80000000); }

// The sums over even and over odd elements are kept apart until the end. No product of two bf16 numbers needs rounding.
void multiply(Tile& total, const Tile& left, const Tile& right) {
  float factors[16][32];
  for (int k = 0; k < right.n_rows; ++k) {
    for (int j = 0; j < right.row_bytes / 2; ++j) factors[k][j] = element(right, k, j);
  }
  for (int i = 0; i < total.n_rows; ++i) {
    float sums[32] = {};
    for (int k = 0; k < right.n_rows; ++k) {
      const float both[2] = {element(left, i, 2 * k), element(left, i, 2 * k + 1)};
      for (int j = 0; j < right.row_bytes / 2; ++j) sums[j] = flushed(sums[j] + both[j % 2] * factors[k][j]);
    }
    for (int j = 0; j < total.row_bytes / 4; ++j) {
      float sum;
      std::memcpy(&sum, total.bytes[i] + 4 * j, 4);
      sum = flushed(flushed(sum) + flushed(sums[2 * j] + sums[2 * j + 1]));
      std::memcpy(total.bytes[i] + 4 * j, &sum, 4);
    }
  }
}

void configure(const uint8_t* config) {
  for (int t = 0; t < 8; ++t) {
    uint16_t row_bytes;
    std::memcpy(&row_bytes, config + 16 + 2 * t, 2);
    tiles[t] = {config[48 + t], row_bytes, {}};
  }
  open = true;
}

// The parts of an instruction of the form C4 RXB.m WvvvvLpp opcode modrm [sib] [displacement].
struct Decoded {
  const uint8_t* code;
  int opcode, prefix, reg, rm, vvvv;
  bool in_memory, has_index = false;
  uint64_t address = 0;  // without the index
  uint64_t index = 0;
  int64_t length = 5;
};

uint64_t register_of(const ucontext_t& context, int number) {
  constexpr int kOrder[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return static_cast<uint64_t>(context.uc_mcontext.gregs[kOrder[number]]);
}

Decoded decode(const ucontext_t& context) {
  const auto* code = reinterpret_cast<const uint8_t*>(context.uc_mcontext.gregs[REG_RIP]);
  if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84) != 0) refuse("not an AMX instruction", code);
  const int modrm = code[4], mode = modrm >> 6;
  const int x_bit = code[1] & 0x40 ? 0 : 8, b_bit = code[1] & 0x20 ? 0 : 8;
  Decoded d{.code = code,
            .opcode = code[3],
            .prefix = code[2] & 3,
            .reg = modrm >> 3 & 7,
            .rm = modrm & 7,
            .vvvv = 15 - (code[2] >> 3 & 15),
            .in_memory = mode != 3};
  if (!d.in_memory) return d;
  int base = d.rm;
  if (d.rm == 4) {
    const int sib = code[d.length++];
    base = sib & 7;
    const int index = (sib >> 3 & 7) + x_bit;
    d.has_index = index != 4;
    if (d.has_index) d.index = register_of(context, index) << (sib >> 6);
  }
  if (mode == 0 && base == 5) refuse("an address without a base", code);
  d.address = register_of(context, base + b_bit);
  if (mode == 1) {
    d.address += static_cast<uint64_t>(int64_t{static_cast<int8_t>(code[d.length])});
    d.length += 1;
  } else if (mode == 2) {
    int32_t displacement;
    std::memcpy(&displacement, code + d.length, 4);
    d.address += static_cast<uint64_t>(int64_t{displacement});
    d.length += 4;
  }
  return d;
}

void move_tile(const Decoded& d, bool load) {
  Tile& t = tiles[d.reg];
  if (load) t = {t.n_rows, t.row_bytes, {}};
  for (int i = 0; i < t.n_rows; ++i) {
    auto* row = reinterpret_cast<uint8_t*>(d.address + d.index * static_cast<uint64_t>(i));
    if (load) {
      std::memcpy(t.bytes[i], row, size_t(t.row_bytes));
    } else {
      std::memcpy(row, t.bytes[i], size_t(t.row_bytes));
    }
  }
}

void carry_out(const Decoded& d) {
  enum { kNone, k66, kF3, kF2 };
  if (d.opcode == 0x49 && d.prefix == kNone && d.in_memory) return configure(reinterpret_cast<uint8_t*>(d.address));
  if (!open) refuse("tiles that are not configured", d.code);
  if (d.opcode == 0x49 && d.prefix == kNone) {
    open = false;
  } else if (d.opcode == 0x49 && d.prefix == kF2 && !d.in_memory) {
    tiles[d.reg] = {tiles[d.reg].n_rows, tiles[d.reg].row_bytes, {}};
  } else if (d.opcode == 0x4b && (d.prefix == kF2 || d.prefix == kF3) && d.in_memory && d.rm == 4) {
    move_tile(d, d.prefix == kF2);
  } else if (d.opcode == 0x5c && d.prefix == kF3 && !d.in_memory) {
    Tile &total = tiles[d.reg], &left = tiles[d.rm], &right = tiles[d.vvvv];
    if (d.reg == d.rm || d.reg == d.vvvv || d.rm == d.vvvv) refuse("a tile given twice", d.code);
    if (left.n_rows != total.n_rows || right.row_bytes != total.row_bytes || left.row_bytes != 4 * right.n_rows) {
      refuse("tiles whose sizes do not match", d.code);
    }
    multiply(total, left, right);
  } else {
    refuse("an instruction unknown here", d.code);
  }
}

void on_illegal_instruction(int, siginfo_t*, void* context) {
  auto* place = static_cast<ucontext_t*>(context);
  const Decoded d = decode(*place);
  carry_out(d);
  place->uc_mcontext.gregs[REG_RIP] += d.length;
}

}  // namespace

bool has_amx() {
  struct sigaction action = {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &action, nullptr);
  return true;
}

}  // namespace squeeze
