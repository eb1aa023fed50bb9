// RoPE parameters in the spellings of transformers 4 and 5.
#include "lib/model/rope_config.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

using nlohmann::json;

struct Kind {
  const char* name;
  RopeScaling scaling;
};
constexpr Kind kKinds[] = {{"default", RopeScaling::none},
                           {"linear", RopeScaling::linear},
                           {"dynamic", RopeScaling::dynamic},
                           {"llama3", RopeScaling::llama3},
                           {"yarn", RopeScaling::yarn}};

RopeScaling parse_kind(const JsonFields& rope) {
  const std::string name = rope.text_or("rope_type", rope.text_or("type", "default"));
  for (const Kind& kind : kKinds) {
    if (name == kind.name) return kind.scaling;
  }
  fail("{}: RoPE scaling '{}' is not supported; default, linear, dynamic, llama3 and yarn are", rope.source(), name);
}

void refuse_partial_rotary(const JsonFields& fields) {
  const double share = fields.number_or("partial_rotary_factor", 1);
  if (share != 1) fail("{}: partial_rotary_factor {} is not supported, only 1 is", fields.source(), share);
}

double positive(const JsonFields& rope, const char* name, double fallback) {
  const double value = rope.number_or(name, fallback);
  if (!(value > 0)) fail("{}: '{}' must be set and positive", rope.source(), name);
  return value;
}

// transformers lets a zero stand for the default here.
double number_or_default(const JsonFields& rope, const char* name, double fallback) {
  const double value = rope.number_or(name, fallback);
  return value == 0 ? fallback : value;
}

void parse_llama3(const JsonFields& rope, RopeConfig& out) {
  out.low_freq_factor = positive(rope, "low_freq_factor", 0);
  out.high_freq_factor = positive(rope, "high_freq_factor", 0);
  if (out.high_freq_factor == out.low_freq_factor) {
    fail("{}: high_freq_factor must differ from low_freq_factor, both are {}", rope.source(), out.low_freq_factor);
  }
}

void parse_yarn(const JsonFields& rope, RopeConfig& out) {
  out.beta_fast = number_or_default(rope, "beta_fast", 32);
  out.beta_slow = number_or_default(rope, "beta_slow", 1);
  out.mscale = rope.number_or("mscale", 0);
  out.mscale_all_dim = rope.number_or("mscale_all_dim", 0);
  out.attention_factor = rope.number_or("attention_factor", 0);
  out.truncate = rope.flag_or("truncate", true);
  if (!(out.beta_fast > 0 && out.beta_slow > 0)) fail("{}: beta_fast and beta_slow must be positive", rope.source());
  if (out.attention_factor < 0) fail("{}: attention_factor must be positive", rope.source());
}

// `rope` is the object with the scaling parameters, `config` the whole file.
RopeConfig parse_scaling(const JsonFields& config, const JsonFields& rope, int64_t max_positions) {
  RopeConfig out;
  out.scaling = parse_kind(rope);
  out.theta = rope.number_or("rope_theta", config.number_or("rope_theta", 10000));
  if (!(out.theta > 1)) fail("{}: rope_theta must be greater than 1, found {}", config.source(), out.theta);
  out.original_positions = max_positions;
  if (out.scaling == RopeScaling::none) return out;
  if (out.scaling == RopeScaling::llama3 || out.scaling == RopeScaling::yarn) {
    const int64_t inner = rope.integer_or("original_max_position_embeddings", max_positions, 1, INT64_MAX);
    out.original_positions = config.integer_or("original_max_position_embeddings", inner, 1, INT64_MAX);
  }
  const double ratio = static_cast<double>(max_positions) / static_cast<double>(out.original_positions);
  out.factor = positive(rope, "factor", out.scaling == RopeScaling::yarn ? ratio : 0);
  if (out.scaling == RopeScaling::dynamic && out.factor < 1) fail("{}: 'factor' must be at least 1", rope.source());
  if (out.scaling == RopeScaling::llama3) parse_llama3(rope, out);
  if (out.scaling == RopeScaling::yarn) parse_yarn(rope, out);
  return out;
}

}  // namespace

RopeConfig parse_rope(const JsonFields& config, int64_t max_positions, int head_dim) {
  refuse_partial_rotary(config);
  const char* name = config.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  const bool has_parameters = config.has(name);
  const JsonFields rope = has_parameters ? config.object(name) : config;
  if (rope.has("full_attention") || rope.has("sliding_attention")) {
    fail("{}: RoPE parameters per layer type are not supported", rope.source());
  }
  refuse_partial_rotary(rope);
  if (!has_parameters) return parse_scaling(config, JsonFields(json::object(), config.source()), max_positions);
  const RopeConfig parsed = parse_scaling(config, rope, max_positions);
  if (parsed.scaling == RopeScaling::dynamic && head_dim < 4) {
    fail("{}: RoPE scaling 'dynamic' needs a head dimension of at least 4, found {}", rope.source(), head_dim);
  }
  return parsed;
}

json rope_fields(const RopeConfig& rope) {
  json fields = {{"rope_theta", rope.theta}};
  for (const Kind& kind : kKinds) {
    if (kind.scaling == rope.scaling) fields["rope_type"] = kind.name;
  }
  if (rope.scaling == RopeScaling::none) return fields;
  fields["factor"] = rope.factor;
  if (rope.scaling != RopeScaling::linear) fields["original_max_position_embeddings"] = rope.original_positions;
  if (rope.scaling == RopeScaling::llama3) {
    fields["low_freq_factor"] = rope.low_freq_factor;
    fields["high_freq_factor"] = rope.high_freq_factor;
  }
  if (rope.scaling == RopeScaling::yarn) {
    fields.update({{"beta_fast", rope.beta_fast},
                   {"beta_slow", rope.beta_slow},
                   {"mscale", rope.mscale},
                   {"mscale_all_dim", rope.mscale_all_dim},
                   {"attention_factor", rope.attention_factor},
                   {"truncate", rope.truncate}});
  }
  return fields;
}

}  // namespace squeeze
