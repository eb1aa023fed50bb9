// The small operations of a forward pass against double precision.
#include "kernels/cuda/forward_ops.hpp"

#include <algorithm>

#include "tests/cuda/cases.hpp"

namespace squeeze::cuda_tests {
namespace {

using cuda::DeviceArray;

std::vector<float> widened(const std::vector<uint16_t>& bits) {
  std::vector<float> out;
  for (const uint16_t x : bits) out.push_back(bf16_to_f32(x));
  return out;
}

// bf16 results: half a unit in the last place, relative.
void expect_bf16(const std::string& what, const std::vector<float>& found, const std::vector<double>& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    expect_close(what, {&found[i], 1}, {&expected[i], 1}, std::abs(expected[i]) / 255 + 1e-6);
  }
}

void check_embed() {
  Random random(1);
  constexpr int kVocab = 9, kSize = 130;
  const std::vector<float> table = random.normals(kVocab * kSize);
  const std::vector<int32_t> tokens{8, 0, 3, 3};
  const DeviceArray<int32_t> device_tokens(tokens);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    std::vector<char> stored(table.size() * size_of(dtype));
    for (size_t i = 0; i < table.size(); ++i) store_element(stored.data(), dtype, int64_t(i), table[i]);
    const DeviceArray<char> device_table(stored);
    const DeviceArray<float> out(tokens.size() * kSize);
    cuda::embed(device_table.data(), dtype, device_tokens.data(), std::ssize(tokens), kSize, out.data(), nullptr);
    const std::vector<float> found = out.host();
    for (size_t i = 0; i < found.size(); ++i) {
      expect(found[i] == load_element(stored.data(), dtype, tokens[i / kSize] * kSize + int64_t(i % kSize)),
             "embedding");
    }
  }
}

void check_rms_norm() {
  Random random(2);
  for (const int size : {1, 31, 256, 1000}) {
    const std::vector<float> x = random.normals(size_t(3 * size)), weight = random.normals(size_t(size));
    const DeviceArray<float> device_x(x), device_weight(weight);
    const DeviceArray<uint16_t> out(x.size());
    cuda::rms_norm(device_x.data(), device_weight.data(), 3, size, 1e-5f, out.data(), nullptr);
    std::vector<double> expected;
    for (int row = 0; row < 3; ++row) {
      double squares = 0;
      for (int c = 0; c < size; ++c) squares += double{x[size_t(row * size + c)]} * double{x[size_t(row * size + c)]};
      for (int c = 0; c < size; ++c) {
        expected.push_back(double{x[size_t(row * size + c)]} / std::sqrt(squares / size + 1e-5) *
                           double{weight[size_t(c)]});
      }
    }
    expect_bf16("rms_norm", widened(out.host()), expected);
  }
}

void check_rotate(bool normed) {
  Random random(3);
  constexpr int kTokens = 5, kHeads = 3, kDim = 96, kStride = kHeads * kDim + 7;
  const std::vector<float> rows = random.normals(kTokens * kStride), norm = random.normals(kDim);
  std::vector<float> cosines, sines;
  for (int i = 0; i < kTokens * kDim / 2; ++i) {
    cosines.push_back(std::cos(0.1f * float(i)));
    sines.push_back(std::sin(0.1f * float(i)));
  }
  const DeviceArray<float> heads(rows), device_norm(norm), device_cosines(cosines), device_sines(sines);
  cuda::rotate_heads({.heads = heads.data(),
                      .stride = kStride,
                      .n = kTokens,
                      .n_heads = kHeads,
                      .dim = kDim,
                      .norm = normed ? device_norm.data() : nullptr,
                      .eps = 1e-5f,
                      .cosines = device_cosines.data(),
                      .sines = device_sines.data()},
                     nullptr);
  std::vector<double> expected(rows.begin(), rows.end());
  for (int token = 0; token < kTokens; ++token) {
    for (int head = 0; head < kHeads; ++head) {
      double* x = expected.data() + token * kStride + head * kDim;
      if (normed) {
        double squares = 0;
        for (int c = 0; c < kDim; ++c) squares += x[c] * x[c];
        for (int c = 0; c < kDim; ++c) x[c] *= double{norm[size_t(c)]} / std::sqrt(squares / kDim + 1e-5);
      }
      for (int c = 0; c < kDim / 2; ++c) {
        const size_t angle = size_t(token * kDim / 2 + c);
        const double low = x[c], high = x[c + kDim / 2];
        x[c] = low * double{cosines[angle]} - high * double{sines[angle]};
        x[c + kDim / 2] = high * double{cosines[angle]} + low * double{sines[angle]};
      }
    }
  }
  expect_close("rotated heads", heads.host(), expected, 1e-5);
}

void check_append() {
  Random random(4);
  constexpr int kTokens = 3, kHeads = 2, kDim = 64, kCapacity = 10, kFirst = 4, kStride = kHeads * kDim + 5;
  const std::vector<float> rows = random.normals(kTokens * kStride);
  const DeviceArray<float> device_rows(rows);
  const DeviceArray<int32_t> first(std::vector<int32_t>{kFirst});
  for (const DType dtype : {DType::f16, DType::bf16}) {
    const DeviceArray<uint16_t> cache(std::vector<uint16_t>(kHeads * kCapacity * kDim, 77));
    cuda::AppendArgs args{.rows = device_rows.data(),
                          .stride = kStride,
                          .n = kTokens,
                          .n_heads = kHeads,
                          .dim = kDim,
                          .cache = cache.data(),
                          .dtype = dtype,
                          .capacity = kCapacity,
                          .first = first.data()};
    cuda::append_rows(args, nullptr);
    std::vector<uint16_t> expected(kHeads * kCapacity * kDim, 77);
    for (int token = 0; token < kTokens; ++token) {
      for (int i = 0; i < kHeads * kDim; ++i) {
        const int64_t to = int64_t{i / kDim * kCapacity + kFirst + token} * kDim + i % kDim;
        store_element(expected.data(), dtype, to, rows[size_t(token * kStride + i)]);
      }
    }
    expect(cache.host() == expected, "rows of the cache");
    const DeviceArray<uint16_t> again(std::vector<uint16_t>(kHeads * kCapacity * kDim, 77));
    args.cache = again.data();
    args.first = nullptr;
    args.first_row = kFirst;
    cuda::append_rows(args, nullptr);
    expect(again.host() == expected, "rows of the cache, their place known on the host");
  }
}

void check_swiglu_and_add() {
  Random random(5);
  constexpr int kRows = 7, kSize = 300;
  const std::vector<float> gate = random.normals(kRows * kSize, 4), up = random.normals(kRows * kSize),
                           bias = random.normals(kSize);
  const DeviceArray<float> device_gate(gate), device_up(up), device_bias(bias);
  const DeviceArray<uint16_t> out(gate.size());
  cuda::swiglu(device_gate.data(), device_up.data(), std::ssize(gate), out.data(), nullptr);
  std::vector<double> expected, sums, biased;
  for (size_t i = 0; i < gate.size(); ++i) {
    const double g = double{gate[i]}, u = double{up[i]};
    expected.push_back(g / (1 + std::exp(-g)) * u);
    sums.push_back(g + u);
    biased.push_back(g + 2 * u + double{bias[i % kSize]});
  }
  expect_bf16("swiglu", widened(out.host()), expected);
  cuda::add(device_up.data(), nullptr, std::ssize(gate), kSize, device_gate.data(), nullptr);
  expect_close("add", device_gate.host(), sums, 1e-5);
  cuda::add(device_up.data(), device_bias.data(), std::ssize(gate), kSize, device_gate.data(), nullptr);
  expect_close("add with a bias", device_gate.host(), biased, 1e-5);
}

void check_round() {
  Random random(8);
  const std::vector<float> x = random.normals(1000);
  const DeviceArray<float> device_x(x);
  const DeviceArray<uint16_t> out(x.size());
  cuda::round_rows(device_x.data(), std::ssize(x), out.data(), nullptr);
  expect(out.host() == rounded(x, DType::bf16), "rounded rows");
}

void check_regroup() {
  constexpr int kTokens = 6, kBlock = 3, kHeads = 2, kGroup = 4, kDim = 5;
  Random random(9);
  const std::vector<float> x = random.normals(kTokens * kHeads * kGroup * kDim);
  const DeviceArray<float> in(x), blocks(x.size()), back(x.size());
  cuda::RegroupArgs args{.in = in.data(),
                         .out = blocks.data(),
                         .n_tokens = kTokens,
                         .block_tokens = kBlock,
                         .n_kv_heads = kHeads,
                         .group = kGroup,
                         .dim = kDim};
  cuda::group_blocks(args, nullptr);
  std::vector<float> expected;
  for (int block = 0; block < kTokens / kBlock; ++block) {
    for (int head = 0; head < kHeads; ++head) {
      for (int token = 0; token < kBlock; ++token) {
        const auto first = x.begin() + ((block * kBlock + token) * kHeads + head) * kGroup * kDim;
        expected.insert(expected.end(), first, first + kGroup * kDim);
      }
    }
  }
  expect(blocks.host() == expected, "blocks of tokens");
  args.in = blocks.data();
  args.out = back.data();
  cuda::ungroup_blocks(args, nullptr);
  expect(back.host() == x, "tokens out of blocks");
}

void check_counts() {
  constexpr int kN = 700, kRequests = 3;
  Random random(10);
  std::vector<int32_t> first(kN * kRequests), second(kN * kRequests);
  std::vector<std::vector<int64_t>> expected(kRequests, {5, 7, 1});  // what is there before
  for (int i = 0; i < kN * kRequests; ++i) {
    first[size_t(i)] = 2'000'000'000 + random.below(1000);
    second[size_t(i)] = -random.below(1000);
    expected[size_t(i / kN)][2] += first[size_t(i)];
    expected[size_t(i / kN)][0] += second[size_t(i)];
  }
  const DeviceArray<int32_t> device_first(first), device_second(second);
  std::vector<DeviceArray<int64_t>> totals;
  std::vector<int64_t*> totals_of;
  for (int r = 0; r < kRequests; ++r) {
    totals.emplace_back(std::vector<int64_t>{5, 7, 1});
    totals_of.push_back(totals.back().data());
  }
  const DeviceArray<int64_t*> device_totals(totals_of);
  cuda::add_counts({.counts = {device_first.data(), device_second.data()},
                    .slots = {2, 0},
                    .n_counts = 2,
                    .n = kN,
                    .n_requests = kRequests,
                    .totals_of = device_totals.data()},
                   nullptr);
  for (size_t r = 0; r < kRequests; ++r) expect(totals[r].host() == expected[r], "sums of counts");
}

// Against append_rows of each, which has its own test.
void check_append_each() {
  constexpr int kN = 3, kHeads = 2, kDim = 64, kRows = 5;
  Random random(11);
  const DeviceArray<float> keys(random.normals(kN * kHeads * kDim)), values(random.normals(kN * kHeads * kDim));
  for (const DType dtype : {DType::bf16, DType::f16}) {
    std::vector<DeviceArray<uint16_t>> expected, found;  // keys, then values, of each
    std::vector<void*> key_caches, value_caches;
    std::vector<int32_t> lengths;
    for (int i = 0; i < 2 * kN; ++i) {
      expected.emplace_back(std::vector<uint16_t>(kHeads * kRows * kDim, 7));
      found.emplace_back(std::vector<uint16_t>(kHeads * kRows * kDim, 7));
    }
    for (int i = 0; i < kN; ++i) {
      for (int part = 0; part < 2; ++part) {
        const float* rows = (part ? values : keys).data() + i * kHeads * kDim;
        cuda::append_rows({.rows = rows,
                           .stride = kHeads * kDim,
                           .n = 1,
                           .n_heads = kHeads,
                           .dim = kDim,
                           .cache = expected[size_t(part * kN + i)].data(),
                           .dtype = dtype,
                           .capacity = kRows,
                           .first_row = 2 * i},
                          nullptr);
      }
      for (int h = 0; h < kHeads; ++h) {
        key_caches.push_back(found[size_t(i)].data() + h * kRows * kDim);
        value_caches.push_back(found[size_t(kN + i)].data() + h * kRows * kDim);
        lengths.push_back(2 * i + 1);
      }
    }
    const DeviceArray<void*> device_keys(key_caches), device_values(value_caches);
    const DeviceArray<int32_t> device_lengths(lengths);
    cuda::append_each({.keys = keys.data(),
                       .values = values.data(),
                       .n = kN,
                       .n_heads = kHeads,
                       .dim = kDim,
                       .key_caches = device_keys.data(),
                       .value_caches = device_values.data(),
                       .dtype = dtype,
                       .lengths = device_lengths.data()},
                      nullptr);
    for (size_t i = 0; i < found.size(); ++i) expect(found[i].host() == expected[i].host(), "a row of its own");
  }
}

void check_greedy() {
  Random random(6);
  constexpr int kSize = 3000, kRows = 8;
  std::vector<float> x = random.normals(kRows * kSize);
  const auto row = [&](int i) { return x.begin() + i * kSize; };
  row(0)[2700] = row(0)[1030] = row(0)[1031] = 50;  // equals: the lowest
  row(1)[2999] = NAN;                               // refused, wherever it is
  row(2)[0] = NAN;
  row(3)[1700] = INFINITY;
  std::fill(row(4), row(5), -INFINITY);      // nothing to choose
  std::fill(row(5), row(6) - 1, -INFINITY);  // one
  row(6)[5] = -INFINITY;
  const DeviceArray<float> device_x(x);
  const DeviceArray<int32_t> out(std::vector<int32_t>(kRows, kUnwritten));
  cuda::greedy(device_x.data(), kRows, kSize, out.data(), nullptr);
  const auto largest = [&](int i) { return int32_t(std::max_element(row(i), row(i + 1)) - row(i)); };
  expect(out.host() == std::vector<int32_t>{1030, -1, -1, -1, -1, kSize - 1, largest(6), largest(7)}, "greedy");
}

}  // namespace

std::vector<Case> forward_ops_cases() {
  return {
      {"forward_ops: embed", check_embed},
      {"forward_ops: rms_norm", check_rms_norm},
      {"forward_ops: rotate_heads", [] { check_rotate(false); }},
      {"forward_ops: rotate_heads with norms", [] { check_rotate(true); }},
      {"forward_ops: append_rows", check_append},
      {"forward_ops: swiglu, add", check_swiglu_and_add},
      {"forward_ops: round_rows", check_round},
      {"forward_ops: group_blocks, ungroup_blocks", check_regroup},
      {"forward_ops: add_counts", check_counts},
      {"forward_ops: append_each", check_append_each},
      {"forward_ops: greedy", check_greedy},
  };
}

}  // namespace squeeze::cuda_tests
