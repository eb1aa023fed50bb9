// One maker per kind of device.
#include "tools/chosen_attention.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "lib/attention/cuda_attention.hpp"
#include "tools/tool.hpp"

namespace squeeze {
namespace {

AttentionMaker on_cpu(const PolicyOptions& options, const KvIndex& index) {
  return [policy = make_policy(options, index), rest = options.rest_mode(), block = options.query_block](
             Operations&, const ContextView& view, size_t n) {
    ChosenAttention out{{}, std::make_unique<ContextAttention>(view, dense_policy(), Rest::drop)};
    while (out.chosen.size() < n) out.chosen.push_back(std::make_unique<ContextAttention>(view, policy, rest, block));
    return out;
  };
}

AttentionMaker on_cuda(const PolicyOptions& options, const KvIndex& index, const CommonOptions& common) {
  const std::string& memory = common.device_memory;
  const std::optional<double> bytes = parse_bytes(memory);
  if (!memory.empty() && !bytes) fail_usage("--device-memory {}: expected bytes such as 64M or 8GiB", memory);
  const auto most = static_cast<int64_t>(std::min(bytes.value_or(0), 0x1p60));
  return [=, rules = make_rules(options, index), rest = options.rest_mode(), block = options.query_block](
             Operations& cuda, const ContextView& view, size_t n) {
    const auto context = upload_context(cuda, view, most);
    if (const int64_t n_on_host = n_layers_on_host(*context); n_on_host > 0) {
      note(common, fmt::format("keys and values of {} of {} layers stay in the host's memory; the device has room for "
                               "{:.0f} % of their rows",
                               n_on_host, view.layers.size(), 100 * cached_share(*context)));
    }
    return ChosenAttention{cuda_attentions(cuda, context, rules, rest, block, n),
                           std::move(cuda_attentions(cuda, context, dense_rules(), Rest::drop, 0, 1)[0])};
  };
}

}  // namespace

AttentionMaker attention_maker(const PolicyOptions& options, const KvIndex& index, const CommonOptions& common) {
  if (common.cuda()) return on_cuda(options, index, common);
  if (!common.device_memory.empty()) fail_usage("--device-memory: without a device (--device cuda) there is none");
  if (common.no_graph) fail_usage("--no-graph: without a device (--device cuda) there is none");
  return on_cpu(options, index);
}

}  // namespace squeeze
