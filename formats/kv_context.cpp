// Root attributes, tokens, text and documents.
#include "formats/kv_context.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "formats/child_trial.hpp"
#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"
#include "lib/core/utf8.hpp"

namespace squeeze {
namespace {

constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();
constexpr size_t kMaxTextBytes = size_t{1} << 31;
constexpr const char* kCompleteName = "/complete";

void expect_utf8(const std::string& path, std::string_view what, std::string_view text) {
  if (const auto at = first_invalid_utf8(text)) fail("{}: {} is not UTF-8 at byte {}", path, what, *at);
}

void check_model(const std::string& path, const ModelInfo& model) {
  const auto check_range = [&](const char* what, int value, int max) {
    if (value < 1 || value > max) fail("{}: expected {} of 1 to {}, found {}", path, what, max, value);
  };
  check_range("n_layers", model.n_layers, 1 << 16);
  check_range("n_query_heads", model.n_query_heads, 1 << 16);
  check_range("n_kv_heads", model.n_kv_heads, model.n_query_heads);
  check_range("head_dim", model.head_dim, kMaxHeadDim);
  if (model.n_query_heads % model.n_kv_heads != 0) {
    fail("{}: {} query heads are not a multiple of {} KV heads", path, model.n_query_heads, model.n_kv_heads);
  }
  if (!std::isfinite(model.softmax_scale) || model.softmax_scale <= 0) {
    fail("{}: expected a positive softmax_scale, found {}", path, model.softmax_scale);
  }
  expect_utf8(path, "model_name", model.model_name);
  expect_utf8(path, "model_fingerprint", model.model_fingerprint);
  expect_utf8(path, "rope", model.rope);
}

int version_of(std::string_view format) { return format == kIndexFormat ? kIndexVersion : kDumpVersion; }

void check_version(const h5::Reader& file, std::string_view format) {
  const int64_t version = file.integer("version");
  if (version < 1 || version > version_of(format)) {
    fail("{}: expected format version 1 to {}, found {}; use a squeeze that is as new as the file", file.path(),
         version_of(format), version);
  }
}

std::string format_in(const h5::Reader& file) {
  const std::string format = file.has_attribute("format") ? file.text_attribute("format") : "none";
  if (format != kDumpFormat && format != kIndexFormat) {
    fail("{}: expected format {} or {}, found {}", file.path(), kDumpFormat, kIndexFormat, format);
  }
  return format;
}

}  // namespace

std::string format_of(const std::string& path) {
  const auto read = [&] { return format_in(h5::Reader(path)); };
  try_in_child(path, [&] { (void)read(); });
  return read();
}

void check_context(const std::string& path, const Context& context) {
  check_model(path, context.model);
  const int64_t n_tokens = context.n_tokens();
  if (n_tokens < 1 || n_tokens > kMaxTokens) {
    fail("{}: expected a context of 1 to {} tokens, found {}", path, kMaxTokens, n_tokens);
  }
  if (*std::min_element(context.tokens.begin(), context.tokens.end()) < 0) fail("{}: a token id is negative", path);
  if (context.text.size() > kMaxTextBytes) fail("{}: the text is longer than {} bytes", path, kMaxTextBytes);
  expect_utf8(path, "the text", context.text);
  int32_t previous = 0;
  for (const Document& document : context.documents) {
    expect_utf8(path, "a document's name", document.name);
    if (document.first_token < previous || document.first_token > n_tokens) {
      fail("{}: document {} starts at token {}, after one that starts at {}, of {}", path, document.name,
           document.first_token, previous, n_tokens);
    }
    previous = document.first_token;
  }
}

void check_query_positions(const std::string& path, std::span<const int32_t> positions, int64_t n_tokens) {
  int32_t previous = -1;
  for (const int32_t position : positions) {
    if (position <= previous || position >= n_tokens) {
      fail("{}: expected ascending query positions below {}, found {} after {}", path, n_tokens, position, previous);
    }
    previous = position;
  }
}

void check_calibration_positions(const std::string& path, std::span<const int32_t> positions) {
  for (const int32_t position : positions) {
    if (position < 0) fail("{}: expected query positions from 0, found {}", path, position);
  }
}

void save_context(h5::Skeleton& file, std::string_view format, const Context& context) {
  const ModelInfo& model = context.model;
  file.attribute("format", format);
  file.attribute("version", int64_t{version_of(format)});
  file.attribute("writer", "squeeze " SQUEEZE_VERSION);
  file.attribute("model_name", model.model_name);
  file.attribute("model_fingerprint", model.model_fingerprint);
  file.attribute("n_layers", int64_t{model.n_layers});
  file.attribute("n_query_heads", int64_t{model.n_query_heads});
  file.attribute("n_kv_heads", int64_t{model.n_kv_heads});
  file.attribute("head_dim", int64_t{model.head_dim});
  file.attribute("n_tokens", context.n_tokens());
  file.attribute("softmax_scale", double{model.softmax_scale});
  file.attribute("rope", model.rope);

  file.dataset("/tokens", context.tokens);
  if (!context.text.empty()) file.text("/text", context.text);
  if (!context.documents.empty()) {
    std::vector<std::string> names;
    std::vector<int32_t> first_tokens;
    for (const Document& document : context.documents) {
      names.push_back(document.name);
      first_tokens.push_back(document.first_token);
    }
    file.strings("/documents/names", names);
    file.dataset("/documents/first_token", first_tokens);
  }
  file.dataset(kCompleteName, h5::Type::i32, {1});
}

Context load_context(const h5::Reader& file, std::string_view format) {
  if (const std::string found = format_in(file); found != format) {
    fail("{}: expected format {}, found {}", file.path(), format, found);
  }
  check_version(file, format);
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  Context context;
  ModelInfo& model = context.model;
  model.model_name = file.text_attribute("model_name");
  model.model_fingerprint = file.text_attribute("model_fingerprint");
  model.n_layers = read_count(file, "n_layers", 1, kMax);
  model.n_query_heads = read_count(file, "n_query_heads", 1, kMax);
  model.n_kv_heads = read_count(file, "n_kv_heads", 1, kMax);
  model.head_dim = read_count(file, "head_dim", 1, kMax);
  model.softmax_scale = static_cast<float>(file.real("softmax_scale"));
  model.rope = file.text_attribute("rope");
  context.tokens = file.read_i32("/tokens", {read_count(file, "n_tokens", 1, kMax)});
  if (file.has("/text")) context.text = file.read_text("/text");
  if (file.has("/documents")) {
    const std::vector<std::string> names = file.read_strings("/documents/names");
    const auto first = file.read_i32("/documents/first_token", {static_cast<int64_t>(names.size())});
    for (size_t i = 0; i < names.size(); ++i) context.documents.push_back({names[i], first[i]});
  }
  check_context(file.path(), context);
  return context;
}

void check_same_context(const std::string& path, const Context& found, const Context& expected) {
  constexpr auto kDiffers = "{}: was begun with another {}; run it as then, or without --resume";
  const ModelInfo& a = found.model;
  const ModelInfo& b = expected.model;
  if (a.model_name != b.model_name || a.model_fingerprint != b.model_fingerprint || a.n_layers != b.n_layers ||
      a.n_query_heads != b.n_query_heads || a.n_kv_heads != b.n_kv_heads || a.head_dim != b.head_dim ||
      a.softmax_scale != b.softmax_scale || a.rope != b.rope) {
    fail(kDiffers, path, "model");
  }
  const auto same_document = [](const Document& x, const Document& y) {
    return x.name == y.name && x.first_token == y.first_token;
  };
  if (found.tokens != expected.tokens || found.text != expected.text ||
      !std::equal(found.documents.begin(), found.documents.end(), expected.documents.begin(), expected.documents.end(),
                  same_document)) {
    fail(kDiffers, path, "text");
  }
}

int32_t read_count(const h5::Reader& file, const std::string& name, int64_t min, int64_t max) {
  const int64_t value = file.integer(name);
  if (value < min || value > max) {
    fail("{}: attribute {}: expected {} to {}, found {}", file.path(), name, min, max, value);
  }
  return static_cast<int32_t>(value);
}

std::string layer_name(int layer) { return fmt::format("/layers/{:02}", layer); }

void check_complete(const h5::Reader& file) {
  if (file.has(kCompleteName) && file.read_i32(kCompleteName, {1})[0] != 1) {
    fail("{}: was not written to its end; continue the run that made it with --resume", file.path());
  }
}

h5::Extent complete_extent(const h5::Reader& file) { return file.extent(kCompleteName, h5::Type::i32, {1}); }

void finish_complete(PartialFile& file, const h5::Extent& complete) {
  constexpr int32_t kComplete = 1;
  file.write(complete.offset, &kComplete, sizeof kComplete);
  file.finish();
}

}  // namespace squeeze
