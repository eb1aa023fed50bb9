// The same steps by the attention of both kinds of device.
#include "tools/verify_device.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lib/attention/cuda_attention.hpp"
#include "lib/model/cuda_operations.hpp"
#include "tools/policy_options.hpp"

namespace squeeze {
namespace {

constexpr int64_t kSteps = 8;        // as many query tokens at most
constexpr double kRounding = 0.005;  // relative; operands of 16 bits on the device, wider ones on the CPU
constexpr double kAsNear = 1.15;     // errors that selection makes; sketches rank in steps on the device
constexpr double kAsMuch = 0.05;     // more or fewer keys, or more bytes, than the CPU reads

struct Attended {
  std::vector<float> out;  // all steps, layers and heads
  Usage usage;
};

// |x - truth| / |truth|
double error_of(const Attended& x, const Attended& truth) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < truth.out.size(); ++i) {
    difference += std::pow(double{x.out[i]} - double{truth.out[i]}, 2);
    size += std::pow(double{truth.out[i]}, 2);
  }
  const double error = std::sqrt(difference / size);
  return std::isfinite(error) ? error : INFINITY;
}

// Recorded queries as steps of decoding.
class Steps {
 public:
  explicit Steps(const ReplaySource& source) : model_(source.index.context().model) {
    for (int layer = 0; layer < model_.n_layers; ++layer) {
      queries_.push_back(convert(window_queries(source, layer).queries, DType::f32));
    }
    n_context_ = source.index.context().n_tokens();
  }

  // As squeeze-run decodes: a device repeats recorded steps, so that what they read has to stay where it is.
  Attended run(Operations& operations, TailAttention& attention) const {
    Attended all;
    const int64_t n_steps = std::min(kSteps, queries_[0].size(1));
    const Tensor new_row = operations.upload(Tensor::zeros(DType::f32, {1, model_.n_kv_heads, model_.head_dim}));
    std::vector<Tensor> recorded, own, out;  // per step and layer; per layer
    for (int64_t step = 0; step < n_steps; ++step) {
      for (const Tensor& layer : queries_) recorded.push_back(operations.upload(slice_dim1(layer, step, step + 1)));
    }
    for (size_t layer = 0; layer < queries_.size(); ++layer) {
      own.push_back(operations.clone(TensorView(recorded[layer].data(), DType::f32, query_shape())));
      out.emplace_back(operations.memory());
    }
    for (int64_t step = 0; step < n_steps; ++step) {
      attention.clear_tail();
      for (size_t layer = 0; layer < own.size(); ++layer) {
        operations.copy(recorded[static_cast<size_t>(step) * own.size() + layer], own[layer].data());
      }
      attend(operations, attention, own, new_row, out);
      for (const Tensor& layer : out) {
        const TensorView found = operations.download(layer);
        all.out.insert(all.out.end(), found.f32(), found.f32() + found.n_elements());
      }
      all.usage.add(attention.usage());
    }
    return all;
  }

 private:
  Shape query_shape() const { return {1, model_.n_query_heads, model_.head_dim}; }

  // A step of all layers.
  void attend(Operations& operations, TailAttention& attention, const std::vector<Tensor>& queries,
              const Tensor& new_row, std::vector<Tensor>& out) const {
    Attention* const all[] = {&attention};
    if (attention.begin_step(all, {&n_context_, 1})) {
      operations.repeat({&attention}, [&] {
        for (size_t i = 0; i < out.size(); ++i) {
          attention.attend_step({static_cast<int>(i), queries[i], new_row, new_row}, out[i]);
        }
      });
    } else {
      for (size_t i = 0; i < out.size(); ++i) {
        out[i] = operations.clone(attention.attend({static_cast<int>(i), n_context_, queries[i], new_row, new_row}));
      }
    }
  }

  const ModelInfo& model_;
  int64_t n_context_ = 0;
  std::vector<Tensor> queries_;  // per layer, [n_query_heads, n_queries, head_dim]
};

class DeviceCheck {
 public:
  explicit DeviceCheck(const ReplaySource& source)
      : index_(source.index),
        view_(source.index.view()),
        steps_(source),
        cpu_(cpu_operations(Precision::bf16)),
        cuda_(cuda_operations()),
        uploaded_(upload_context(*cuda_, view_)),
        dense_(on_cpu({"dense", 0})) {}

  CheckedLaw dense() {
    const double error = error_of(on_device({"dense", 0}), dense_);
    CheckedLaw law{"on the device, dense attention is the CPU's", {}};
    if (error > kRounding) law.violations.push_back(fmt::format("the relative error is {:.2e}", error));
    return law;
  }

  CheckedLaw full_budget() {
    CheckedLaw law{"on the device, a full budget gives the bits of dense attention", {}};
    const Attended dense = on_device({"dense", 0});
    for (const NamedPolicy& full : {NamedPolicy{"sparsity", 0}, NamedPolicy{"budget", 1}}) {
      if (full.name == "budget" && !takes_budgets()) continue;
      if (on_device(full).out != dense.out) law.violations.push_back(full.describe() + " gives others");
    }
    return law;
  }

  CheckedLaw selections() {
    CheckedLaw law{"on the device, selections keep as much as on the CPU and are as near dense attention", {}};
    for (const NamedPolicy& policy : sparse_policies()) {
      const Attended expected = on_cpu(policy), found = on_device(policy);
      const double most = kAsNear * error_of(expected, dense_) + kRounding, error = error_of(found, dense_);
      if (error > most) {
        law.violations.push_back(fmt::format("{}: the output error is {:.4f}, on the CPU {:.4f}", policy.describe(),
                                             error, error_of(expected, dense_)));
      }
      // By sparsity as many keys (value means are wider on a device than in 8 bits), by a budget no more bytes.
      const bool by_bytes = policy.name == "budget";
      const double read = by_bytes ? found.usage.budget() : found.usage.kept();
      const double on_cpu = by_bytes ? expected.usage.budget() : expected.usage.kept();
      if (read > (1 + kAsMuch) * on_cpu || (!by_bytes && read < (1 - kAsMuch) * on_cpu)) {
        law.violations.push_back(fmt::format("{}: {:.4f} of the {} are read, on the CPU {:.4f}", policy.describe(),
                                             read, by_bytes ? "bytes" : "keys", on_cpu));
      }
    }
    return law;
  }

  CheckedLaw repeats() {
    CheckedLaw law{"on the device, the same queries give the same bits again", {}};
    for (const NamedPolicy& policy : sparse_policies()) {
      if (on_device(policy).out != on_device(policy).out) law.violations.push_back(policy.describe());
    }
    return law;
  }

 private:
  bool takes_budgets() const { return index_.calibration().gqa != GqaSelect::per_head; }

  std::vector<NamedPolicy> sparse_policies() const {
    std::vector<NamedPolicy> all = {{"sparsity", 0.5}, {"sparsity", 0.9}};
    if (takes_budgets()) all.push_back({"budget", 0.25});
    return all;
  }

  Attended on_cpu(const NamedPolicy& policy) {
    const Rest rest = rest_of(policy.name, "mean");
    ContextAttention attention(view_, make_policy(policy, rest, index_), rest, 1);
    return steps_.run(*cpu_, attention);
  }

  Attended on_device(const NamedPolicy& policy) {
    PolicyOptions options;
    options.policy = fmt::format("{}:{}", policy.name, policy.value);
    if (policy.name == "dense") options.policy = policy.name;
    const auto attentions = cuda_attentions(*cuda_, uploaded_, make_rules(options, index_), options.rest_mode(), 1, 1);
    return steps_.run(*cuda_, *attentions[0]);
  }

  const KvIndex& index_;
  ContextView view_;
  Steps steps_;
  std::unique_ptr<Operations> cpu_, cuda_;
  std::shared_ptr<const CudaContext> uploaded_;
  Attended dense_;  // on the CPU
};

}  // namespace

std::vector<CheckedLaw> verify_on_device(const ReplaySource& source) {
  DeviceCheck check(source);
  return {check.dense(), check.full_budget(), check.selections(), check.repeats()};
}

}  // namespace squeeze
