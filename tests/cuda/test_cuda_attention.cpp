// Tests of attention over an indexed context on a CUDA device, with emulated kernels, against the CPU's.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <set>

#include "lib/attention/budget.hpp"
#include "lib/attention/cuda_attention.hpp"
#include "lib/attention/cuda_context.hpp"
#include "lib/core/error.hpp"
#include "lib/model/cuda_operations.hpp"
#include "tests/cuda/indexed_context.hpp"

using namespace squeeze;

namespace {

constexpr int64_t kTokens = Indexed::kNewTokens, kPrompt = 9;  // a prompt at once, then token by token
constexpr float kScale = MadeModel::kScale;

struct Run {
  std::vector<float> out;
  Usage usage;
};

// A prompt and some tokens through both layers.
template <class Give>
Run run(const Indexed& context, TailAttention& attention, const Give& give) {
  Run result;
  attention.clear_tail();
  for (int64_t begin = 0; begin < kTokens;) {
    const int64_t end = begin == 0 ? kPrompt : begin + 1;
    for (int layer = 0; layer < 2; ++layer) {
      AttentionInput input = context.tokens->input(context.n_tokens, begin, end);
      input.layer = layer;
      give(input, attention, result.out);
    }
    begin = end;
  }
  result.usage = attention.usage();
  return result;
}

Run run_cpu(const Indexed& context, const Policy& policy, Rest rest, int64_t query_block) {
  ContextAttention attention(context.view, policy, rest, query_block);
  return run(context, attention, [](const AttentionInput& input, TailAttention& a, std::vector<float>& out) {
    const TensorView part = a.attend(input);
    out.insert(out.end(), part.f32(), part.f32() + part.n_elements());
  });
}

struct Device {
  explicit Device(const Indexed& c) : context(c), uploaded(upload_context(*operations, c.view)) {}

  Run run(TailAttention& attention) {
    return ::run(context, attention, [&](AttentionInput input, TailAttention& a, std::vector<float>& out) {
      const Tensor queries = operations->upload(input.queries.clone()), keys = operations->upload(input.keys.clone()),
                   values = operations->upload(input.values.clone());
      input.queries = queries;
      input.keys = keys;
      input.values = values;
      const TensorView part = operations->download(a.attend(input));
      out.insert(out.end(), part.f32(), part.f32() + part.n_elements());
    });
  }
  std::unique_ptr<TailAttention> attention(const Rules& rules, Rest rest, int64_t query_block) {
    return std::move(cuda_attentions(*operations, uploaded, rules, rest, query_block, 1)[0]);
  }
  Run run(const Rules& rules, Rest rest, int64_t query_block) {
    const auto made = attention(rules, rest, query_block);
    return run(*made);
  }

  const Indexed& context;
  std::unique_ptr<Operations> operations = cuda_operations();
  std::shared_ptr<const CudaContext> uploaded;
};

double distance(const Run& x, const Run& y) {
  REQUIRE(x.out.size() == y.out.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < x.out.size(); ++i) {
    difference += std::pow(double{x.out[i]} - double{y.out[i]}, 2);
    size += std::pow(double{x.out[i]}, 2);
  }
  return std::sqrt(difference / size);
}

// Weights (and queries, in a block of more than 8 rows) are rounded to bf16, by 2^-9 each: of logits up to about 8 the
// latter moves weights by 2^-6; roundings of single keys are independent and average out.
constexpr double kBound = 0x1p-6;

}  // namespace

TEST_SUITE("cuda_attention") {
  TEST_CASE("dense: the CPU's output, and as many bytes") {
    for (const int group : {1, 2, 8}) {
      const Indexed context({.group = group});
      Device device(context);
      const Run expected = run_cpu(context, dense_policy(), Rest::drop, 0);
      const Run found = device.run(dense_rules(), Rest::drop, 0);
      CHECK(distance(expected, found) < kBound);
      check_same_bytes_read(found.usage, expected.usage);
      CHECK(found.usage.budget() == 1);
    }
  }

  TEST_CASE("leaves by thresholds and by number, flat and below a level, dropped ones counted or not") {
    for (const bool hierarchical : {false, true}) {
      // Value means are widened to bf16 on the device: bytes agree where they are bf16 in the index.
      IndexedOptions options{.bits = 0, .quantise = false};
      if (!hierarchical) options.levels = {{.count = 40}};
      const Indexed context(options);
      Device device(context);
      for (const Rest rest : {Rest::drop, Rest::mean}) {
        for (const auto& [name, value] : {std::pair{"sparsity", 0.7}, {"sparsity", 0.9}, {"threshold", 0.002}}) {
          for (const int64_t block : {1, 4}) {
            CAPTURE(name);
            CAPTURE(block);
            const Run expected = run_cpu(context, context.policy(name, value), rest, block);
            const Run found = device.run(context.rules(name, value), rest, block);
            CHECK(found.usage.kept() < 0.6);
            CHECK(found.usage.kept() > 0.01);
            CHECK(distance(expected, found) < kBound);
            check_same_bytes_read(found.usage, expected.usage);
          }
        }
        // After the first leaf that is too large the device tries no smaller ones.
        const Run expected = run_cpu(context, context.policy("top-k", 200), rest, 2);
        const Run found = device.run(context.rules("top-k", 200), rest, 2);
        CHECK(found.usage.keys_selected <= expected.usage.keys_selected);
        CHECK(found.usage.keys_selected > expected.usage.keys_selected * 7 / 10);
        CHECK(found.usage.n_lookups == expected.usage.n_lookups);
      }
    }
  }

  TEST_CASE("keys by their sketches: as near to dense attention as the CPU's choice") {
    const Indexed context;
    Device device(context);
    const Run dense = run_cpu(context, dense_policy(), Rest::drop, 0);
    for (const auto& [name, value] : {std::pair{"sparsity", 0.8},
                                      {"sparsity", 0.95},
                                      {"top-k", 60.0},
                                      {"budget", 0.35},
                                      {"budget", 0.5},
                                      {"flat", 0.8}}) {
      CAPTURE(name);
      CAPTURE(value);
      const Run cpu = run_cpu(context, context.policy(name, value), Rest::mean, 4);
      const Run found = device.run(context.rules(name, value), Rest::mean, 4);
      CHECK(found.usage.n_lookups == cpu.usage.n_lookups);
      CHECK(found.usage.kept() == doctest::Approx(cpu.usage.kept()).epsilon(0.15));
      CHECK(distance(dense, found) < 1.15 * distance(dense, cpu) + kBound);
      if (std::strcmp(name, "budget") == 0) CHECK(found.usage.budget() == doctest::Approx(value).epsilon(0.06));
    }
  }

  TEST_CASE(
      "groups that select by the largest score of a head, or each head for itself: the CPU's choice, not the mean's") {
    for (const int bits : {0, 1}) {
      Indexed context({.bits = bits, .quantise = false, .group = 4});
      Device device(context);
      const Run mean = run_cpu(context, context.policy("sparsity", 0.8), Rest::drop, 2);
      for (const GqaSelect select : {GqaSelect::group_max, GqaSelect::per_head}) {
        CalibrationOptions by_head;
        by_head.gqa = select;
        context.calibration = context.made.calibrated(by_head);
        for (const int64_t block : {1, 2}) {
          const Run cpu = run_cpu(context, context.policy("sparsity", 0.8), Rest::drop, block);
          const Run found = device.run(context.rules("sparsity", 0.8), Rest::drop, block);
          CHECK(found.usage.kept() == doctest::Approx(cpu.usage.kept()).epsilon(0.02));
          CHECK(distance(cpu, found) < (bits == 0 ? kBound : 4 * kBound));  // by sketches nearly equal keys may change
          CHECK(distance(mean, found) > 4 * kBound);
        }
      }
    }
  }

  TEST_CASE("a full budget is dense attention; dense layers read everything") {
    const Indexed context;
    Device device(context);
    const Run dense = device.run(dense_rules(), Rest::drop, 4);
    for (const auto& [name, value] : {std::pair{"budget", 1.0}, {"sparsity", 0.0}}) {
      const Run full = device.run(context.rules(name, value), Rest::mean, 4);
      CHECK(full.out == dense.out);
      check_same_bytes_read(full.usage, dense.usage);
    }
    const Run both = device.run(with_dense_layers(context.rules("sparsity", 0.9), {0, 1}), Rest::mean, 4);
    CHECK(both.out == dense.out);
    const Run one = device.run(with_dense_layers(context.rules("sparsity", 0.9), {1}), Rest::mean, 4);
    CHECK(one.usage.kept() > 0.5);
    CHECK(one.usage.kept() < 0.7);
  }

  TEST_CASE("the next request gets the same bits, and so does another attention over the same context") {
    const Indexed context({.quantise = false});
    Device device(context);
    const auto attention = device.attention(context.rules("budget", 0.4), Rest::mean, 4);
    const Run first = device.run(*attention);
    const Run second = device.run(*attention);
    CHECK(first.out == second.out);
    CHECK(first.usage.bytes_read == second.usage.bytes_read);
    CHECK(device.run(context.rules("budget", 0.4), Rest::mean, 4).out == first.out);
  }

  TEST_CASE("tokens of several requests together: what each gets alone, and as many bytes for each") {
    const Indexed context({.group = 4});
    Device device(context);
    Operations& ops = *device.operations;
    const std::vector<int64_t> lengths = {3, 8, 5};  // of what they hold before
    for (const Rules& rules : {dense_rules(), context.rules("sparsity", 0.8), context.rules("budget", 0.4)}) {
      for (const Rest rest : {Rest::drop, Rest::mean}) {
        auto together = cuda_attentions(ops, device.uploaded, rules, rest, 4, 3);
        auto alone = cuda_attentions(ops, device.uploaded, rules, rest, 4, 3);
        const auto input_of = [&](int64_t begin, int64_t end, int layer) {
          AttentionInput input = context.tokens->input(context.n_tokens, begin, end);
          input.layer = layer;
          return input;
        };
        const auto attend = [&](TailAttention& attention, AttentionInput input) {
          const Tensor queries = ops.upload(input.queries.clone()), keys = ops.upload(input.keys.clone()),
                       values = ops.upload(input.values.clone());
          input.queries = queries;
          input.keys = keys;
          input.values = values;
          return ops.download(attention.attend(input)).clone();
        };
        for (size_t i = 0; i < 3; ++i) {
          for (int layer = 0; layer < 2; ++layer) {
            (void)attend(*together[i], input_of(0, lengths[i], layer));
            (void)attend(*alone[i], input_of(0, lengths[i], layer));
          }
        }
        for (int64_t step = 0; step < 2; ++step) {
          std::vector<Attention*> attentions;
          std::vector<int64_t> positions;
          for (size_t i = 0; i < 3; ++i) {
            attentions.push_back(together[i].get());
            positions.push_back(context.n_tokens + lengths[i] + step);
          }
          CHECK_THROWS_AS((void)together[1]->begin_step(attentions, std::vector<int64_t>(3, positions[0])), Error);
          REQUIRE(together[1]->begin_step(attentions, positions));
          for (int layer = 0; layer < 2; ++layer) {
            const int64_t n_query_heads = 8, n_kv_heads = 2, dim = 64;
            Tensor queries(DType::f32, {3, n_query_heads, dim}), keys(DType::f32, {3, n_kv_heads, dim}),
                values(DType::f32, {3, n_kv_heads, dim});
            std::vector<Tensor> expected;
            for (size_t i = 0; i < 3; ++i) {
              const AttentionInput own = input_of(lengths[i] + step, lengths[i] + step + 1, layer);
              std::memcpy(queries.at(int64_t(i) * n_query_heads * dim), own.queries.data(), own.queries.n_bytes());
              std::memcpy(keys.at(int64_t(i) * n_kv_heads * dim), own.keys.data(), own.keys.n_bytes());
              std::memcpy(values.at(int64_t(i) * n_kv_heads * dim), own.values.data(), own.values.n_bytes());
              expected.push_back(attend(*alone[i], own));
            }
            queries = ops.upload(std::move(queries));
            keys = ops.upload(std::move(keys));
            values = ops.upload(std::move(values));
            Tensor out(ops.memory());
            together[1]->attend_step({layer, queries, keys, values}, out);
            const TensorView found = ops.download(out);
            for (int64_t i = 0; i < 3; ++i) {
              const TensorView own = expected[size_t(i)];
              double difference = 0, size = 0;
              for (int64_t c = 0; c < own.n_elements(); ++c) {
                difference += std::pow(double{found[i].f32()[c]} - double{own.f32()[c]}, 2);
                size += std::pow(double{own.f32()[c]}, 2);
              }
              // The work is split otherwise, so that sums round otherwise.
              CHECK(std::sqrt(difference) <= 1e-5 * std::sqrt(size));
            }
          }
        }
        for (size_t i = 0; i < 3; ++i) check_same_bytes_read(together[i]->usage(), alone[i]->usage());
      }
    }
  }

  TEST_CASE("keys and values that do not fit stay with the host, what was read lately on the device: the same bits") {
    for (const bool bytes : {false, true}) {
      const Indexed context({.bytes = bytes});
      Device all(context);
      CHECK(n_layers_on_host(*all.uploaded) == 0);
      CHECK_THROWS_WITH_AS(upload_context(*all.operations, context.view, 1000),
                           doctest::Contains("MiB of device memory more than --device-memory allows"), Error);
      std::set<std::pair<int64_t, int>> seen;  // layers on the host, quarters of them that are cached
      double last = 0;
      for (int64_t limit = 2000; limit < int64_t{1} << 30; limit += limit / 12) {
        Device device(context);
        try {
          device.uploaded = upload_context(*device.operations, context.view, limit);
        } catch (const Error&) {
          CHECK(seen.empty());
          continue;
        }
        const int64_t n_on_host = n_layers_on_host(*device.uploaded);
        const double cached = cached_share(*device.uploaded);
        const double on_device = 1 - double(n_on_host) / 2 * (1 - cached);
        CHECK(on_device >= last - 0.1);  // a whole layer more costs the other one's cache its tables
        last = on_device;
        if (!seen.insert({n_on_host, int(4 * cached)}).second) continue;
        for (const Rules& rules : {dense_rules(), context.rules("sparsity", 0.8), context.rules("budget", 0.5)}) {
          const auto attention = device.attention(rules, Rest::mean, 4);
          const Run expected = all.run(rules, Rest::mean, 4), found = device.run(*attention),
                    again = device.run(*attention);
          CHECK(found.out == expected.out);
          CHECK(again.out == expected.out);
          check_same_bytes_read(found.usage, expected.usage);
          CHECK(expected.usage.bytes_from_host + expected.usage.bytes_cached == 0);
          const int64_t on_host = found.usage.bytes_from_host + found.usage.bytes_cached;
          CHECK(again.usage.bytes_from_host + again.usage.bytes_cached == on_host);
          CHECK(on_host <= found.usage.bytes_read);
          CHECK((on_host > 0) == (n_on_host > 0));
          CHECK((found.usage.bytes_cached > 0) == (n_on_host > 0 && cached > 0));
          if (cached == 1) CHECK(again.usage.bytes_from_host <= found.usage.bytes_from_host);
        }
      }
      CHECK(seen.contains({2, 0}));
      CHECK(seen.contains({2, 1}));
      CHECK(seen.contains({1, 2}));
      CHECK(*seen.begin() == std::pair<int64_t, int>{0, 0});
    }
  }

  TEST_CASE("a cache with room for what is chosen again and again is read instead of the bus") {
    const Indexed context;
    Device device(context);
    int64_t last = -1;
    for (const double share : {0.1, 0.3, 0.6}) {
      device.uploaded = upload_share(*device.operations, context, share);
      const auto attention = device.attention(context.rules("sparsity", 0.8), Rest::mean, 4);
      (void)device.run(*attention);
      const Usage usage = device.run(*attention).usage;
      const double on_bus = double(usage.bytes_from_host) / double(usage.bytes_read);
      if (last >= 0) CHECK(usage.bytes_from_host < last);
      if (share == 0.6) CHECK(on_bus < 0.3);
      last = usage.bytes_from_host;
    }
  }

  TEST_CASE("attentions that share nothing make no step together") {
    const Indexed context;
    Device device(context);
    const auto one = device.attention(dense_rules(), Rest::drop, 1),
               other = device.attention(dense_rules(), Rest::drop, 1);
    const std::vector<int64_t> positions(2, context.n_tokens);
    CHECK_FALSE(one->begin_step(std::vector<Attention*>{one.get(), other.get()}, positions));
    CHECK(one->begin_step(std::vector<Attention*>{one.get()}, std::span(positions).first(1)));
  }

  TEST_CASE("keys and values of other types become bf16") {
    Indexed context({.bits = 0, .quantise = false});
    const Run expected = run_cpu(context, context.policy("sparsity", 0.8), Rest::mean, 1);
    std::vector<Tensor> owned;
    for (std::vector<HeadView>& heads : context.view.layers) {
      for (HeadView& head : heads) {
        owned.push_back(convert(head.keys, DType::f32));
        head.keys = owned.back();
        owned.push_back(convert(head.values, DType::f32));
        head.values = owned.back();
      }
    }
    const Run found = Device(context).run(context.rules("sparsity", 0.8), Rest::mean, 1);
    CHECK(found.usage.bytes_read == expected.usage.bytes_read);
    CHECK(distance(expected, found) < kBound);
  }

  TEST_CASE("keys and values in 8 bits stay so, and their scales are read") {
    for (const DType tail : {DType::bf16, DType::f16}) {
      Indexed context({.bits = 0, .quantise = false, .bytes = true});
      context.view.float_type = tail;
      Device device(context);
      CHECK(device.uploaded->layers[0].kv_dtype == DType::i8);
      CHECK(device.uploaded->dtype == tail);
      const Run dense = run_cpu(context, dense_policy(), Rest::drop, 0);
      const Run found = device.run(dense_rules(), Rest::drop, 0);
      CHECK(distance(dense, found) < kBound);
      check_same_bytes_read(found.usage, dense.usage);
      for (const Rest rest : {Rest::drop, Rest::mean}) {
        for (const int64_t block : {1, 4}) {
          const Run expected = run_cpu(context, context.policy("sparsity", 0.8, rest), rest, block);
          const Run sparse = device.run(context.rules("sparsity", 0.8, rest), rest, block);
          CHECK(distance(expected, sparse) < kBound);
          check_same_bytes_read(sparse.usage, expected.usage);
        }
      }
    }
  }

  TEST_CASE("a budget of bytes buys keys in 8 bits") {
    const Indexed context({.bytes = true});
    Device device(context);
    const Run dense = run_cpu(context, dense_policy(), Rest::drop, 0);
    const Run cpu = run_cpu(context, context.policy("budget", 0.5), Rest::mean, 4);
    const Run found = device.run(context.rules("budget", 0.5), Rest::mean, 4);
    CHECK(found.usage.kept() == doctest::Approx(cpu.usage.kept()).epsilon(0.15));
    CHECK(found.usage.budget() == doctest::Approx(0.5).epsilon(0.06));
    CHECK(distance(dense, found) < 1.15 * distance(dense, cpu) + kBound);
  }

  TEST_CASE("what the device cannot do is an error") {
    const Indexed context;
    Device device(context);
    CHECK_THROWS_WITH_AS(device.run(context.rules("top-p", 0.5), Rest::mean, 1),
                         "top-p selects on the CPU only (--device cpu)", Error);
    CHECK_THROWS_AS((void)context.rules("quest", 0.5), Error);
    Indexed other;
    other.calibration.gqa = GqaSelect::per_head;
    CHECK_THROWS_WITH_AS(device.run(other.rules("budget", 0.5), Rest::mean, 1), doctest::Contains("--gqa-select"),
                         Error);
    const auto attention = device.attention(dense_rules(), Rest::drop, 1);
    AttentionInput input = context.tokens->input(context.n_tokens + 1, 0, 1);
    CHECK_THROWS_AS(attention->attend(input), Error);  // a gap behind the context
    const Indexed small({.dim = 8});
    CHECK_THROWS_WITH_AS(Device{small},
                         "attention on a CUDA device takes heads of 64, 96, 128 or 256 dimensions, found 8", Error);
  }
}
