// One maker per kind of device.
#include "tools/chosen_attention.hpp"

#include "lib/attention/cuda_attention.hpp"

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

AttentionMaker on_cuda(const PolicyOptions& options, const KvIndex& index) {
  return [rules = make_rules(options, index), rest = options.rest_mode(), block = options.query_block](
             Operations& cuda, const ContextView& view, size_t n) {
    const auto context = upload_context(cuda, view);
    return ChosenAttention{cuda_attentions(cuda, context, rules, rest, block, n),
                           std::move(cuda_attentions(cuda, context, dense_rules(), Rest::drop, 0, 1)[0])};
  };
}

}  // namespace

AttentionMaker attention_maker(const PolicyOptions& options, const KvIndex& index, bool cuda) {
  return cuda ? on_cuda(options, index) : on_cpu(options, index);
}

}  // namespace squeeze
