// Decoding: one token's attention over one layer, dense and sparse, lookup and selection included.
#include <fmt/format.h>

#include "lib/core/parallel.hpp"
#include "tests/bench/attend_call.hpp"

namespace squeeze {
namespace {

constexpr int64_t kLongTokens = 1 << 19;
constexpr int64_t kRotatedBytes = int64_t{768} << 20;  // layers are attended in turn, so that none is cached

struct DecodeSetting {
  const char* name;
  double keys, bytes;  // the share that is read; the other is 0, both for dense
};

constexpr DecodeSetting kSettings[] = {{"dense", 0, 0},           {"sparsity 70 %", 0.3, 0},  {"sparsity 80 %", 0.2, 0},
                                       {"sparsity 90 %", 0.1, 0}, {"sparsity 95 %", 0.05, 0}, {"budget 5 %", 0, 0.05}};

Policy policy_of(const MadeContext& context, const DecodeSetting& setting) {
  if (setting.keys > 0) return keys_policy(context, setting.keys);
  return setting.bytes > 0 ? bytes_policy(context, setting.bytes) : dense_policy();
}

std::string row_name(const ContextShape& shape, const DecodeSetting& setting) {
  return fmt::format("decode {} {}", shape.str(), setting.name);
}

void add_rows(Bench& bench, const MadeContext& context, int threads) {
  double dense_ms = 0;
  for (const DecodeSetting& setting : kSettings) {
    const std::string name = row_name(context.shape(), setting);
    const bool is_dense = setting.keys + setting.bytes == 0;
    if (!bench.wants(name) && !is_dense) continue;
    const Rest rest = setting.bytes > 0 ? Rest::mean : Rest::drop;
    AttendCall call(context, policy_of(context, setting), rest, 1, 0);
    const double scalar_ms = checked_against_scalar(name, call, is_dense ? 1e-4 : 2e-2);
    call.reset_share();
    const double ms = bench.time([&] { call(); });
    if (is_dense) dense_ms = ms;
    BenchRow row{name, ms, static_cast<double>(call.usage().bytes_read), threads, {}, scalar_ms / ms, {}};
    if (!is_dense) {
      row.vs_dense = dense_ms / ms;
      row.note = fmt::format("lookup {:.0f} % of the time, budget {:.2f} %", 100 * call.lookup_share(),
                             100 * call.usage().budget());
    }
    if (bench.wants(name)) bench.add(std::move(row));
  }
}

// What a made context takes: its layers with their indexes, and what one head is clustered in.
int64_t bytes_of(const ContextShape& shape) {
  const int64_t head_bytes = shape.layer_bytes() / shape.n_kv_heads;
  return shape.n_layers * shape.layer_bytes() * 5 / 4 + 8 * head_bytes;
}

void add_shape(Bench& bench, ContextShape shape) {
  std::vector<std::string> names;
  for (const DecodeSetting& setting : kSettings) names.push_back(row_name(shape, setting));
  if (!bench.wants_any(names)) return;
  shape.n_layers = static_cast<int>((kRotatedBytes + shape.layer_bytes() - 1) / shape.layer_bytes());
  const int64_t available = available_bytes();
  if (available > 0 && bytes_of(shape) > available) {
    return bench.skip(fmt::format("decode {}", shape.str()),
                      fmt::format("{:.1f} GB of memory are needed, {:.1f} GB available",
                                  static_cast<double>(bytes_of(shape)) / 1e9, static_cast<double>(available) / 1e9));
  }
  const MadeContext context(shape);
  for (const int threads : bench.options().threads) {
    set_threads(threads);
    add_rows(bench, context, threads);
  }
}

}  // namespace

void attention_rows(Bench& bench) {
  const int64_t max_tokens = bench.options().max_tokens;
  const int64_t longest = bench.options().long_rows ? std::max(max_tokens, kLongTokens) : max_tokens;
  for (const auto& [n_query_heads, n_kv_heads] : {std::pair{32, 8}, {32, 32}, {28, 4}}) {
    for (int64_t n_tokens = 1 << 14; n_tokens <= longest; n_tokens *= n_tokens == 1 << 14 ? 4 : 2) {
      if (n_tokens == 1 << 18) continue;
      add_shape(bench, {.n_tokens = n_tokens, .n_query_heads = n_query_heads, .n_kv_heads = n_kv_heads});
    }
  }
  add_shape(bench, {.n_tokens = max_tokens, .int8 = true});
  add_shape(bench, {.n_tokens = max_tokens, .sketch_group = 8});
}

}  // namespace squeeze
