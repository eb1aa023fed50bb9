// One maker per kind of device.
#include "tools/chosen_attention.hpp"

#include "lib/attention/cuda_attention.hpp"

namespace squeeze {
namespace {

// make(): one attention of the chosen kind.
template <class Make>
ChosenAttention chosen(size_t n, const Make& make, std::unique_ptr<TailAttention> dense) {
  ChosenAttention out{{}, std::move(dense)};
  while (out.chosen.size() < n) out.chosen.push_back(make());
  return out;
}

AttentionMaker on_cpu(const PolicyOptions& options, const KvIndex& index) {
  return [policy = make_policy(options, index), rest = options.rest_mode(), block = options.query_block](
             Operations&, const ContextView& view, size_t n) {
    return chosen(
        n, [&] { return std::make_unique<ContextAttention>(view, policy, rest, block); },
        std::make_unique<ContextAttention>(view, dense_policy(), Rest::drop));
  };
}

AttentionMaker on_cuda(const PolicyOptions& options, const KvIndex& index) {
  return [rules = make_rules(options, index), rest = options.rest_mode(), block = options.query_block](
             Operations& cuda, const ContextView& view, size_t n) {
    const auto context = upload_context(cuda, view);
    return chosen(
        n, [&] { return cuda_attention(cuda, context, rules, rest, block); },
        cuda_attention(cuda, context, dense_rules(), Rest::drop, 0));
  };
}

}  // namespace

AttentionMaker attention_maker(const PolicyOptions& options, const KvIndex& index, bool cuda) {
  return cuda ? on_cuda(options, index) : on_cpu(options, index);
}

}  // namespace squeeze
