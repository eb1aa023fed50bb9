// Model directories: what is read, and what every kind of damage is answered with.
#include "formats/hf_model.hpp"

#include <functional>

#include "golden_models.hpp"
#include "lib/core/error.hpp"
#include "temporary_folder.hpp"

namespace squeeze {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// A copy of a golden model, to be damaged.
struct Copy {
  explicit Copy(const std::string& name) {
    fs::copy(golden::kFolder + "/" + name, folder.path(), fs::copy_options::recursive);
  }

  void edit(const std::string& file, const std::function<void(json&)>& change) const {
    json content = json::parse(std::ifstream(folder.path(file)));
    change(content);
    folder.write(file, content.dump());
  }
  // Rewrites the header of a safetensors file, padded to the old length.
  void edit_header(const std::string& from, const std::string& to,
                   const std::string& file = "model.safetensors") const {
    std::string bytes = read_bytes(folder.path(file));
    const size_t at = bytes.find(from);
    REQUIRE(at != std::string::npos);
    REQUIRE(from.size() == to.size());
    folder.write(file, bytes.replace(at, from.size(), to));
  }
  HfModel load() const { return HfModel(folder.path()); }
  std::string fingerprint() const { return load().info().model_fingerprint; }
  void check_refused(const std::string& named) const {
    CHECK_THROWS_WITH_AS(load(), doctest::Contains(named.c_str()), Error);
  }

  TemporaryFolder folder;
};

}  // namespace

TEST_SUITE("hf_model") {
  TEST_CASE("info names the directory, the shapes and the rope") {
    const HfModel model(golden::kFolder + "/rope_yarn/");
    const ModelInfo info = model.info();
    CHECK(info.n_layers == 1);
    CHECK(info.n_query_heads == 2);
    CHECK(info.n_kv_heads == 1);
    CHECK(info.head_dim == 16);
    CHECK(info.softmax_scale == 0.25f);
    CHECK(json::parse(info.rope)["rope_type"] == "yarn");
    CHECK(info.model_fingerprint.size() == 64);
    CHECK(HfModel(golden::kFolder + "/rope_yarn").info().model_name == "rope_yarn");
    CHECK(info.model_name == "rope_yarn");
  }

  TEST_CASE("tied embeddings: one tensor serves as both, in either spelling") {
    for (const char* name : {"llama_tied_embedding", "llama_tied_head"}) {
      const HfModel model(golden::kFolder + "/" + name);
      CHECK(model.weights().embedding.data() == model.weights().lm_head.data());
    }
    const HfModel both(golden::kFolder + "/llama_mha");
    CHECK(both.weights().embedding.data() != both.weights().lm_head.data());
    const Copy untied("llama_tied_embedding");
    untied.edit("config.json", [](json& config) { config["tie_word_embeddings"] = false; });
    untied.check_refused("lm_head.weight");
  }

  TEST_CASE("the fingerprint changes with weights and configuration, not with names and spellings") {
    const Copy original("llama_gqa");
    const std::string fingerprint = original.fingerprint();
    CHECK(Copy("llama_gqa").fingerprint() == fingerprint);
    original.edit("config.json", [](json& config) { config["initializer_range"] = 0.5; });
    CHECK(original.fingerprint() == fingerprint);
    original.edit("config.json", [](json& config) { config["rope_theta"] = 20000.0; });
    CHECK(original.fingerprint() != fingerprint);

    const Copy changed("llama_gqa");
    std::string bytes = read_bytes(changed.folder.path("model.safetensors"));
    bytes[bytes.size() - 1] ^= 1;
    changed.folder.write("model.safetensors", bytes);
    CHECK(changed.fingerprint() != fingerprint);
  }

  TEST_CASE("end-of-text tokens of generation_config.json come before those of config.json") {
    const Copy model("llama_mha");
    model.edit("config.json", [](json& config) { config["eos_token_id"] = 1; });
    CHECK(model.load().config().eos_tokens == std::vector<int32_t>{1});
    model.folder.write("generation_config.json", R"({"eos_token_id":[2,3]})");
    CHECK(model.load().config().eos_tokens == std::vector<int32_t>{2, 3});
    model.folder.write("generation_config.json", R"({"temperature":0.6})");
    CHECK(model.load().config().eos_tokens == std::vector<int32_t>{1});
    model.folder.write("generation_config.json", "{");
    model.check_refused("generation_config.json");
  }

  TEST_CASE("missing files are named") {
    CHECK_THROWS_WITH_AS(HfModel("/nonexistent/model"), doctest::Contains("/nonexistent/model"), Error);
    const Copy no_config("llama_mha");
    fs::remove(no_config.folder.path("config.json"));
    no_config.check_refused("config.json");
    const Copy no_weights("llama_mha");
    fs::remove(no_weights.folder.path("model.safetensors"));
    no_weights.check_refused("model.safetensors.index.json");
    CHECK_THROWS_WITH_AS(Copy("llama_mha").load().tokenizer(), doctest::Contains("tokenizer.json"), Error);
  }

  TEST_CASE("tensors that do not fit the configuration are named") {
    const Copy wide("llama_mha");
    wide.edit("config.json", [](json& config) { config["intermediate_size"] = 40; });
    wide.check_refused("mlp.gate_proj.weight");
    const Copy deep("llama_mha");
    deep.edit("config.json", [](json& config) { config["num_hidden_layers"] = 3; });
    deep.check_refused("model.layers.2.");
    const Copy vocabulary("llama_mha");
    vocabulary.edit("config.json", [](json& config) { config["vocab_size"] = 49; });
    vocabulary.check_refused("embed_tokens.weight");
    const Copy heads("llama_mha");
    heads.edit("config.json", [](json& config) { config["num_key_value_heads"] = 2; });
    heads.check_refused("k_proj.weight");
    const Copy biased("llama_mha");
    biased.edit("config.json", [](json& config) { config["attention_bias"] = true; });
    biased.check_refused("q_proj.bias");
    const Copy renamed("llama_mha");
    renamed.edit_header("model.norm.weight", "model.gnome.weigh");
    renamed.check_refused("norm.weight");
  }

  TEST_CASE("a weight of another type is named") {
    const Copy model("llama_mha");
    const std::string path = model.folder.path("model.safetensors");
    std::string bytes = read_bytes(path);
    for (size_t at = bytes.find("\"BF16\""); at != std::string::npos; at = bytes.find("\"BF16\"")) {
      bytes.replace(at, 6, "\"I16\" ");
    }
    model.folder.write("model.safetensors", bytes);
    model.check_refused("expected type F32, F16 or BF16, found I16");
  }

  TEST_CASE("truncated weights are errors at many cut points") {
    const Copy model("rope_linear");
    const std::string whole = read_bytes(model.folder.path("model.safetensors"));
    for (size_t n = 0; n < whole.size(); n += 1 + n / 50) {
      model.folder.write("model.safetensors", whole.substr(0, n));
      model.check_refused("model.safetensors");
    }
    model.folder.write("model.safetensors", whole.substr(0, whole.size() - 1));
    model.check_refused("model.safetensors");
  }

  TEST_CASE("shards: missing, truncated, mislabelled, or outside the directory") {
    const std::string index = "model.safetensors.index.json";
    const std::string first = "model-00001-of-00004.safetensors";
    const Copy missing("llama_sharded");
    CHECK_NOTHROW(missing.load());
    fs::remove(missing.folder.path(first));
    missing.check_refused(first);

    const Copy truncated("llama_sharded");
    fs::resize_file(truncated.folder.path(first), 3000);
    truncated.check_refused(first);

    const Copy mislabelled("llama_sharded");
    mislabelled.edit(index, [&](json& content) { content["weight_map"]["model.norm.weight"] = first; });
    mislabelled.check_refused("model.norm.weight");

    const Copy incomplete("llama_sharded");
    incomplete.edit(index, [](json& content) { content["weight_map"].erase("model.norm.weight"); });
    incomplete.check_refused("norm.weight");

    for (const json& name : {json("../x.safetensors"), json("/etc/passwd"), json("a/b"), json(".."), json(""), json(3),
                             json(std::string("a\0b", 3))}) {
      const Copy outside("llama_sharded");
      outside.edit(index, [&](json& content) { content["weight_map"]["model.norm.weight"] = name; });
      outside.check_refused("within the model's directory");
    }
    const Copy no_map("llama_sharded");
    no_map.folder.write(index, "{}");
    no_map.check_refused("weight_map");
    no_map.folder.write(index, "{\"weight_map\":");
    no_map.check_refused(index);
  }
}

}  // namespace squeeze
