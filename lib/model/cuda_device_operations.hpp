// Operations by the kernels of kernels/cuda.
#pragma once

#include <deque>
#include <vector>

#include "kernels/cuda/matmul.hpp"
#include "lib/core/cuda_device.hpp"
#include "lib/model/operations.hpp"

namespace squeeze {

class CudaOperations final : public Operations {
 public:
  explicit CudaOperations(bool graphs = true) : graphs_(graphs) {}
  const CudaStream& stream() const { return stream_; }

  Precision precision() const override { return Precision::bf16; }
  const MemorySpace& memory() const override { return cuda_memory(); }
  TensorView matrix(TensorView host) override;
  Tensor vector(TensorView host) override;
  Tensor upload(Tensor host) override;
  Tensor clone(TensorView x) override;
  void copy(TensorView x, void* to) override;
  TensorView download(TensorView x) override;
  void embed(TensorView table, std::span<const int32_t> tokens, Tensor& out) override;
  TensorView rounded(TensorView x) override;
  TensorView normalised(TensorView x, TensorView weight, float eps) override;
  TensorView gated(Tensor& gate, TensorView up) override;
  void linear(TensorView x, TensorView weights, TensorView bias, Tensor& out) override;
  void rotate(const HeadRotation& rotation) override;
  void add(TensorView delta, float* x) override;
  void store_rows(TensorView rows, int64_t first_row, Tensor& cache) override;
  void choose(TensorView logits) override;
  std::span<const int32_t> chosen() override;
  void prepare(std::span<const int32_t> tokens, std::span<const int64_t> positions, const Rope& rope,
               int64_t head_dim) override;
  void repeat(const std::vector<const void*>& key, const std::function<void()>& compute) override;
  void causal_attention(TensorView queries, std::span<const CachePart> parts, float softmax_scale,
                        Tensor& out) override;

 private:
  // Of the last tokens that were rotated: a layer's are those of the one before.
  struct Angles {
    std::vector<int64_t> positions;
    int64_t sequence_length = 0;
    CudaBuffer<float> cosines, sines;  // [n, head_dim / 2]
  };
  uint16_t* input(const Shape& shape);
  void set_tokens(std::span<const int32_t> tokens);
  void set_angles(std::span<const int64_t> positions, const Rope& rope, int64_t head_dim);
  void rotate_heads(Tensor& heads, TensorView norm, const HeadRotation& rotation);

  bool graphs_;
  CudaStream stream_;
  cuda::Matmul matmul_;
  std::deque<Tensor> matrices_;
  Tensor host_;
  Tensor input_{cuda_memory()};  // bf16
  Angles angles_;
  std::vector<int32_t> tokens_;  // that were embedded last
  std::vector<int32_t> chosen_;
  CudaBuffer<int32_t> own_tokens_, own_chosen_, n_rows_;
  CudaWorkspace workspace_;
};

}  // namespace squeeze
