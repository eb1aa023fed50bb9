// The forward pass on the CPU: kernels over blocks of tokens or elements, which do not depend on the number of threads.
#include <cstring>

#include "kernels/kernels.hpp"
#include "lib/core/parallel.hpp"
#include "lib/model/linear.hpp"
#include "lib/model/operations.hpp"
#include "lib/model/sampler.hpp"

namespace squeeze {
namespace {

constexpr int64_t kTokenBlock = 16;
constexpr int64_t kElementBlock = 1 << 14;

void finish_heads(float* heads, int64_t n_heads, const HeadRotation& r, TensorView norm, const float* cosines,
                  const float* sines) {
  for (int64_t head = 0; head < n_heads; ++head) {
    float* x = heads + head * r.head_dim;
    if (norm.data()) kernels().rms_norm(x, norm.f32(), r.head_dim, r.eps, x);
    kernels().rope(x, r.head_dim, cosines, sines);
  }
}

class CpuOperations final : public Operations {
 public:
  explicit CpuOperations(Precision precision) : precision_(precision), input_(precision) {}

  Precision precision() const override { return precision_; }
  const MemorySpace& memory() const override { return host_memory(); }
  TensorView matrix(TensorView host) override { return host; }  // stays mapped
  Tensor vector(TensorView host) override { return host.data() ? convert(host, DType::f32) : Tensor(); }
  Tensor upload(Tensor host) override { return host; }
  Tensor clone(TensorView x) override { return x.clone(); }
  void copy(TensorView x, void* to) override { std::memcpy(to, x.data(), x.n_bytes()); }
  TensorView download(TensorView x) override { return x; }

  void embed(TensorView table, std::span<const int32_t> tokens, Tensor& out) override {
    const int64_t size = table.size(1);
    out.resize(DType::f32, {std::ssize(tokens), size});
    for (size_t i = 0; i < tokens.size(); ++i) {
      kernels().to_f32(table[tokens[i]].data(), table.dtype(), size, out.f32() + static_cast<int64_t>(i) * size);
    }
  }

  TensorView rounded(TensorView x) override { return input_.of(x); }

  TensorView normalised(TensorView x, TensorView weight, float eps) override {
    const int64_t size = weight.n_elements();
    normed_.resize(DType::f32, x.shape());
    parallel_blocks(x.size(0), kTokenBlock, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        kernels().rms_norm(x.f32() + i * size, weight.f32(), size, eps, normed_.f32() + i * size);
      }
    });
    return input_.of(normed_);
  }

  TensorView gated(Tensor& gate, TensorView up) override {
    parallel_blocks(gate.n_elements(), kElementBlock, [&](int64_t begin, int64_t end) {
      kernels().swiglu(gate.f32() + begin, up.f32() + begin, end - begin, gate.f32() + begin);
    });
    return input_.of(gate);
  }

  void linear(TensorView x, TensorView weights, TensorView bias, Tensor& out) override {
    squeeze::linear(x, weights, bias, out);
  }

  void rotate(const HeadRotation& r) override {
    const int64_t n_query_heads = r.queries.size(1) / r.head_dim, n_kv_heads = r.keys.size(1) / r.head_dim;
    parallel_blocks(r.queries.size(0), kTokenBlock, [&](int64_t begin, int64_t end) {
      float cosines[kMaxHeadDim / 2], sines[kMaxHeadDim / 2];
      for (int64_t i = begin; i < end; ++i) {
        r.rope.angles(r.positions[static_cast<size_t>(i)], cosines, sines);
        finish_heads(r.queries.f32() + i * r.queries.size(1), n_query_heads, r, r.query_norm, cosines, sines);
        finish_heads(r.keys.f32() + i * r.keys.size(1), n_kv_heads, r, r.key_norm, cosines, sines);
      }
    });
  }

  void add(TensorView delta, float* x) override {
    parallel_blocks(delta.n_elements(), kElementBlock, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) x[i] += delta.f32()[i];
    });
  }

  void store_rows(TensorView rows, int64_t first_row, Tensor& cache) override {
    squeeze::store_rows(rows, first_row, cache);
  }
  void causal_attention(TensorView queries, std::span<const CachePart> parts, float softmax_scale,
                        Tensor& out) override {
    squeeze::causal_attention(queries, parts, softmax_scale, scratch_, out);
  }

  void choose(TensorView logits) override {
    chosen_.clear();
    const auto vocab = static_cast<size_t>(logits.size(1));
    for (int64_t i = 0; i < logits.size(0); ++i) chosen_.push_back(greedy_token({logits[i].f32(), vocab}));
  }
  std::span<const int32_t> chosen() override { return chosen_; }

 private:
  Precision precision_;
  std::vector<int32_t> chosen_;
  LinearInput input_;
  Tensor normed_;
  CausalScratch scratch_;
};

}  // namespace

std::unique_ptr<Operations> cpu_operations(Precision precision) { return std::make_unique<CpuOperations>(precision); }

}  // namespace squeeze
