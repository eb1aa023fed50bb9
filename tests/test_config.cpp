// config.json in the spellings of transformers 4 and 5, defaults, and what is refused.
#include "lib/model/config.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

using nlohmann::json;

json base(const std::string& architecture = "LlamaForCausalLM") {
  return {{"architectures", {architecture}},
          {"hidden_size", 64},
          {"intermediate_size", 128},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 8},
          {"num_key_value_heads", 2},
          {"vocab_size", 100}};
}

json with(json config, const json& changes) {
  config.update(changes);
  return config;
}

ModelConfig parse(const json& config) { return parse_config(config.dump(), "config.json"); }

void check_refused(const json& config, const std::string& named) {
  CAPTURE(config.dump());
  CHECK_THROWS_WITH_AS(parse(config), doctest::Contains(named.c_str()), Error);
}

}  // namespace

TEST_SUITE("config") {
  TEST_CASE("sizes and the defaults of transformers") {
    const ModelConfig config = parse(base());
    CHECK(config.architecture == "LlamaForCausalLM");
    CHECK(config.hidden_size == 64);
    CHECK(config.n_query_heads == 8);
    CHECK(config.n_kv_heads == 2);
    CHECK(config.head_dim == 8);
    CHECK(config.max_positions == 2048);
    CHECK(config.rms_norm_eps == 1e-6f);
    CHECK(config.rope.theta == 10000);
    CHECK(config.rope.scaling == RopeScaling::none);
    CHECK_FALSE((config.qkv_bias || config.o_bias || config.mlp_bias || config.qk_norm || config.tied_embeddings));
    CHECK(config.eos_tokens.empty());
    CHECK(config.softmax_scale() == doctest::Approx(1 / std::sqrt(8.0)));
    json multi_head = base();
    multi_head.erase("num_key_value_heads");
    CHECK(parse(multi_head).n_kv_heads == 8);
  }

  TEST_CASE("what the architectures differ in") {
    CHECK(parse(base("Qwen2ForCausalLM")).qkv_bias);
    CHECK_FALSE(parse(base("Qwen2ForCausalLM")).o_bias);
    CHECK(parse(base("Qwen3ForCausalLM")).qk_norm);
    CHECK(parse(base("Qwen3ForCausalLM")).head_dim == 128);
    CHECK(parse(with(base(), {{"attention_bias", true}, {"mlp_bias", true}})).o_bias);
    CHECK(parse(with(base(), {{"mlp_bias", true}})).mlp_bias);
    CHECK(parse(with(base(), {{"head_dim", 80}})).head_dim == 80);
    json by_type = base();
    by_type.erase("architectures");
    by_type["model_type"] = "qwen3";
    CHECK(parse(by_type).architecture == "Qwen3ForCausalLM");
  }

  TEST_CASE("a sliding window counts where transformers applies it") {
    const json window{{"sliding_window", 32}};
    CHECK(parse(with(base("MistralForCausalLM"), window)).sliding_window == 32);
    CHECK(parse(base("MistralForCausalLM")).sliding_window == 4096);
    CHECK(parse(with(base("MistralForCausalLM"), {{"sliding_window", nullptr}})).sliding_window == 0);
    CHECK(parse(with(base("LlamaForCausalLM"), window)).sliding_window == 0);
    CHECK(
        parse(with(base("Qwen2ForCausalLM"), {{"sliding_window", 32}, {"use_sliding_window", false}})).sliding_window ==
        0);
    const json used = with(base("Qwen2ForCausalLM"), {{"sliding_window", 32}, {"use_sliding_window", true}});
    CHECK(parse(with(used, {{"max_window_layers", 2}})).sliding_window == 0);
    CHECK(parse(with(used, {{"max_window_layers", 1}})).sliding_window == 32);
    CHECK(parse(with(used, {{"layer_types", {"full_attention", "full_attention"}}})).sliding_window == 0);
    CHECK(parse(with(used, {{"layer_types", {"full_attention", "sliding_attention"}}})).sliding_window == 32);
    check_refused(with(base(), {{"layer_types", {"full_attention", "linear_attention"}}}), "linear_attention");
  }

  TEST_CASE("RoPE in the old and the new spelling gives the same") {
    const json kinds[] = {{{"rope_type", "linear"}, {"factor", 4.0}},
                          {{"rope_type", "dynamic"}, {"factor", 2.0}},
                          {{"rope_type", "llama3"},
                           {"factor", 8},
                           {"low_freq_factor", 1},
                           {"high_freq_factor", 4},
                           {"original_max_position_embeddings", 512}},
                          {{"rope_type", "yarn"},
                           {"factor", 4.0},
                           {"original_max_position_embeddings", 512},
                           {"beta_fast", 16},
                           {"mscale", 1.0},
                           {"mscale_all_dim", 0.5},
                           {"truncate", false}},
                          {{"rope_type", "default"}}};
    for (const json& kind : kinds) {
      const json fresh = with(base(), {{"rope_parameters", with(kind, {{"rope_theta", 5e5}})}});
      const json old = with(base(), {{"rope_scaling", kind}, {"rope_theta", 5e5}});
      json older = kind;
      older["type"] = older["rope_type"];
      older.erase("rope_type");
      const std::string expected = parse(fresh).rope_json();
      CHECK(parse(old).rope_json() == expected);
      CHECK(parse(with(base(), {{"rope_scaling", older}, {"rope_theta", 5e5}})).rope_json() == expected);
      CHECK(json::parse(expected)["rope_type"] == kind["rope_type"]);
      CHECK(json::parse(expected)["rope_theta"] == 5e5);
    }
  }

  TEST_CASE("RoPE parameters that are left out") {
    const auto rope = [](const json& scaling) {
      return parse(with(base(), {{"max_position_embeddings", 4096}, {"rope_scaling", scaling}})).rope;
    };
    CHECK(rope({{"type", "dynamic"}, {"factor", 2}}).original_positions == 4096);
    const RopeConfig yarn = rope({{"type", "yarn"}, {"original_max_position_embeddings", 1024}});
    CHECK(yarn.factor == 4);
    CHECK(yarn.beta_fast == 32);
    CHECK(yarn.beta_slow == 1);
    CHECK(yarn.truncate);
    CHECK(json::parse(parse(base()).rope_json(77))["sequence_length"] == 77);
  }

  TEST_CASE("end-of-text tokens, one or several") {
    CHECK(parse(with(base(), {{"eos_token_id", 2}})).eos_tokens == std::vector<int32_t>{2});
    CHECK(parse(with(base(), {{"eos_token_id", {2, 3}}})).eos_tokens == std::vector<int32_t>{2, 3});
    CHECK(parse_generation_eos(R"({"eos_token_id": [7, 8]})", "g").size() == 2);
    CHECK(parse_generation_eos("{}", "g").empty());
    check_refused(with(base(), {{"eos_token_id", "</s>"}}), "eos_token_id");
    check_refused(with(base(), {{"eos_token_id", -1}}), "eos_token_id");
  }

  TEST_CASE("the canonical form ignores what does not change the computation") {
    const json config = base();
    CHECK(parse(config).canonical_json() == parse(with(config, {{"torch_dtype", "bfloat16"}})).canonical_json());
    CHECK(parse(config).canonical_json() != parse(with(config, {{"rope_theta", 5e5}})).canonical_json());
    CHECK(parse(config).canonical_json() != parse(with(config, {{"rms_norm_eps", 1e-5}})).canonical_json());
  }

  TEST_CASE("unsupported features are named") {
    check_refused(base("MixtralForCausalLM"), "MixtralForCausalLM");
    check_refused(base("Gemma2ForCausalLM"), "Gemma2ForCausalLM");
    check_refused(with(base(), {{"quantization_config", {{"bits", 4}}}}), "quantization_config");
    check_refused(with(base("Qwen2ForCausalLM"), {{"num_experts", 8}}), "num_experts");
    check_refused(with(base(), {{"hidden_act", "gelu"}}), "gelu");
    check_refused(with(base(), {{"partial_rotary_factor", 0.5}}), "partial_rotary_factor");
    check_refused(with(base(), {{"rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}}}),
                  "partial_rotary_factor");
    check_refused(with(base(), {{"rope_scaling", {{"type", "longrope"}, {"factor", 2}}}}), "longrope");
    check_refused(with(base(), {{"rope_parameters", {{"full_attention", {{"rope_theta", 1e4}}}}}}), "per layer type");
  }

  TEST_CASE("hostile values are errors that name the field") {
    for (const char* field :
         {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
      json missing = base();
      missing.erase(field);
      check_refused(missing, field);
      for (const json& value : {json(0), json(-1), json(1e300), json(UINT64_MAX), json("8"), json(2.5)}) {
        check_refused(with(base(), {{field, value}}), field);
      }
    }
    check_refused(with(base(), {{"num_key_value_heads", 3}}), "multiple");
    check_refused(with(base(), {{"num_key_value_heads", 16}}), "num_key_value_heads");
    check_refused(with(base(), {{"head_dim", 7}}), "even");
    check_refused(with(base(), {{"head_dim", 1024}}), "head_dim");
    check_refused(with(base(), {{"rms_norm_eps", -1}}), "rms_norm_eps");
    check_refused(with(base(), {{"rope_theta", 0}}), "rope_theta");
    check_refused(with(base(), {{"rope_theta", "big"}}), "rope_theta");
    check_refused(with(base(), {{"rope_scaling", {{"type", "linear"}}}}), "factor");
    check_refused(with(base(), {{"rope_scaling", {{"type", "linear"}, {"factor", 0}}}}), "factor");
    check_refused(with(base(), {{"rope_scaling", {{"type", "llama3"}, {"factor", 8}}}}), "low_freq_factor");
    check_refused(with(base(), {{"rope_scaling", "linear"}}), "rope_scaling");
    check_refused(with(base(), {{"architectures", "LlamaForCausalLM"}}), "architectures");
    check_refused(with(base(), {{"architectures", json::array()}}), "architectures");
    check_refused(with(base(), {{"tie_word_embeddings", 1}}), "tie_word_embeddings");
  }

  TEST_CASE("what is no JSON object is an error that names the file") {
    const std::string deep = std::string(100000, '[');
    for (const std::string& text :
         {std::string(), std::string("["), std::string("[]"), std::string("{\"a\":1,\"a\":2}"),
          std::string("{\"a\":\"\xff\"}"), "{\"a\":" + deep, base().dump() + "x"}) {
      CHECK_THROWS_WITH_AS(parse_config(text, "dir/config.json"), doctest::Contains("dir/config.json"), Error);
    }
    const std::string whole = base().dump();
    for (size_t n = 0; n < whole.size(); ++n) CHECK_THROWS_AS(parse_config(whole.substr(0, n), "c"), Error);
  }
}

}  // namespace squeeze
