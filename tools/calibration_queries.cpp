// Choosing and joining calibration queries.
#include "tools/calibration_queries.hpp"

#include <algorithm>
#include <cstring>

#include "lib/core/error.hpp"
#include "tools/tool.hpp"

namespace squeeze {

CalibrationChoice parse_calibration(const std::string& text) {
  if (text == "window") return {};
  if (text == "probes") return {true, 0};
  const std::string count = text.starts_with("probes:") ? text.substr(7) : "";
  const bool is_number =
      !count.empty() && count.size() < 10 && count.find_first_not_of("0123456789") == std::string::npos;
  if (!is_number || std::stoll(count) < 1) {
    fail_usage("--calibrate {}: expected window, probes, or probes:N with N from 1", text);
  }
  return {true, std::stoll(count)};
}

std::vector<int32_t> window_positions(const std::string& source, std::span<const int32_t> recorded, int64_t n_tokens,
                                      int64_t n_window) {
  const auto first = std::lower_bound(recorded.begin(), recorded.end(), n_tokens - n_window);
  if (first == recorded.end()) {
    fail("{}: none of its queries lies in the last {} tokens (--window); dump again with a larger --window", source,
         n_window);
  }
  return {first, recorded.end()};
}

std::vector<int32_t> probe_positions(const std::string& source, std::vector<int64_t> probe_lengths, int64_t n_tokens,
                                     const CalibrationChoice& choice) {
  const int64_t wanted = choice.n_probes > 0 ? choice.n_probes : std::ssize(probe_lengths);
  if (wanted < 1 || wanted > std::ssize(probe_lengths)) {
    fail("{}: holds {} probe questions, but {} are to calibrate; dump with --probes QUESTIONS.jsonl", source,
         probe_lengths.size(), std::max<int64_t>(1, wanted));
  }
  probe_lengths.resize(static_cast<size_t>(wanted));
  std::vector<int32_t> positions;
  for (const int64_t length : probe_lengths) {
    for (int64_t i = 0; i < length; ++i) positions.push_back(static_cast<int32_t>(n_tokens + i));
  }
  return positions;
}

Tensor joined_dim1(const std::vector<TensorView>& parts) {
  int64_t n = 0;
  for (const TensorView& part : parts) n += part.size(1);
  const TensorView& first = parts.front();
  Tensor out(first.dtype(), {first.size(0), n, first.size(2)});
  auto* to = static_cast<char*>(out.data());
  for (int64_t i = 0; i < first.size(0); ++i) {
    for (const TensorView& part : parts) {
      std::memcpy(to, part[i].data(), part[i].n_bytes());
      to += part[i].n_bytes();
    }
  }
  return out;
}

}  // namespace squeeze
