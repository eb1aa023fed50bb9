// Every replay of a step does the same: its token's keys and values go to the same row of the tail.
#include "tests/cuda/bench/made_model.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/cuda/forward_ops.hpp"

namespace squeeze::cuda_bench {
namespace {

constexpr int64_t kPatternRows = 65521;  // of kDim; prime
constexpr int kTailCapacity = 64, kTailRow = 20;
constexpr float kEps = 1e-5f, kRopeBase = 500000;

// Writes a pattern of normal numbers of deviation 1 / sqrt(hidden) into device memory, over and over.
class Filler {
 public:
  explicit Filler(const ModelShape& shape) : pattern_(scaled(shape)) {}

  void fill(const DeviceArray<uint16_t>& to) {
    for (size_t done = 0; done < to.size();) {
      const size_t n = std::min(to.size() - done, pattern_.size() - at_);
      cuda::copy_on_device(to.data() + done, pattern_.data() + at_, n * sizeof(uint16_t), nullptr);
      done += n;
      at_ = (at_ + n) % pattern_.size();
    }
  }

 private:
  static std::vector<uint16_t> scaled(const ModelShape& shape) {
    std::vector<uint16_t> rows = random_rows(std::min(kPatternRows, shape.bytes() / (2 * kDim)));
    const float deviation = 1 / std::sqrt(static_cast<float>(shape.hidden));
    for (uint16_t& x : rows) x = f32_to_bf16(bf16_to_f32(x) * deviation);
    return rows;
  }

  DeviceArray<uint16_t> pattern_;
  size_t at_ = 0;
};

// [n, kDim / 2] of one position.
std::vector<float> angles(int64_t n, int64_t position, float (*of)(float)) {
  std::vector<float> out(static_cast<size_t>(n * kDim / 2));
  for (size_t i = 0; i < out.size(); ++i) {
    const float frequency = std::pow(kRopeBase, -2.0f * static_cast<float>(i % (kDim / 2)) / kDim);
    out[i] = of(static_cast<float>(position) * frequency);
  }
  return out;
}

}  // namespace

int64_t ModelShape::layer_weights() const {
  return 2 * hidden * (query_size() + kv_size()) + 3 * hidden * intermediate;
}
int64_t ModelShape::read_bytes() const { return 2 * (n_layers * layer_weights() + vocab * hidden); }
int64_t ModelShape::bytes() const { return read_bytes() + 2 * vocab * hidden; }

MadeModel::MadeModel(const ModelShape& made) : shape(made), norm(std::vector<float>(size_t(made.hidden), 1.0f)) {
  Filler filler(shape);
  const auto filled = [&](int64_t n) {
    DeviceArray<uint16_t> out(static_cast<size_t>(n));
    filler.fill(out);
    return out;
  };
  for (int i = 0; i < shape.n_layers; ++i) layers.push_back(filled(shape.layer_weights()));
  embedding = filled(shape.vocab * shape.hidden);
  lm_head = filled(shape.vocab * shape.hidden);
  cuda::synchronize(nullptr);  // before the pattern goes
}

ModelStep::Matrices::Matrices(const ModelShape& s) {
  int64_t first = 0;
  const auto next = [&](int64_t out, int64_t in) {
    const Matrix matrix{first, out, in};
    first += out * in;
    return matrix;
  };
  q = next(s.query_size(), s.hidden);
  k = next(s.kv_size(), s.hidden);
  v = next(s.kv_size(), s.hidden);
  o = next(s.hidden, s.query_size());
  gate = next(s.intermediate, s.hidden);
  up = next(s.intermediate, s.hidden);
  down = next(s.hidden, s.intermediate);
}

ModelStep::ModelStep(const MadeModel& model, const MadeIndex& index, Mode mode, double share, int n_requests)
    : model_(model), index_(index), n_(n_requests), matrices_(model.shape), call_(index, mode, share, n_requests) {
  const ModelShape& s = model.shape;
  const auto floats = [&](int64_t size) { return DeviceArray<float>(static_cast<size_t>(n_ * size)); };
  input_ = DeviceArray<uint16_t>(size_t(n_ * std::max({s.hidden, s.intermediate, s.query_size()})));
  hidden_ = floats(s.hidden);
  k_ = floats(s.kv_size());
  v_ = floats(s.kv_size());
  gate_ = floats(s.intermediate);
  up_ = floats(s.intermediate);
  delta_ = floats(s.hidden);
  logits_ = floats(s.vocab);
  const int64_t position = index.shape.n_tokens + kTailRow;
  cosines_ = DeviceArray<float>(angles(n_, position, std::cos));
  sines_ = DeviceArray<float>(angles(n_, position, std::sin));
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n_; ++i) tokens.push_back(static_cast<int32_t>((7 + 1001 * i) % s.vocab));
  tokens_ = DeviceArray<int32_t>(tokens);
  next_ = DeviceArray<int32_t>(tokens.size());
  const auto n_works = static_cast<size_t>(call_.n_works());
  n_tail_ = DeviceArray<int32_t>(std::vector<int32_t>(n_works, kTailRow + 1));
  const std::vector<uint16_t> rows = random_rows(call_.n_works() * kTailCapacity);
  for (int i = 0; i < s.n_layers; ++i) tails_.push_back({DeviceArray<uint16_t>(rows), DeviceArray<uint16_t>(rows)});
}

void ModelStep::multiply(const uint16_t* weights, const Matrix& matrix, float* out, Stream stream) const {
  matmul_({.x = input_.data(),
           .weights = weights + matrix.first,
           .bias = nullptr,
           .n_rows = n_,
           .out_features = matrix.out,
           .in_features = matrix.in,
           .out = out},
          stream);
}

void ModelStep::multiply_last(Stream stream) const {
  multiply(model_.lm_head.data(), {0, model_.shape.vocab, model_.shape.hidden}, logits_.data(), stream);
}

void ModelStep::normalise(Stream stream) const {
  cuda::rms_norm(hidden_.data(), model_.norm.data(), n_, model_.shape.hidden, kEps, input_.data(), stream);
}

void ModelStep::add_delta(Stream stream) const {
  const int64_t n = n_ * model_.shape.hidden;
  cuda::add(delta_.data(), nullptr, n, n, hidden_.data(), stream);
}

void ModelStep::rotate(float* heads, int n_heads, Stream stream) const {
  cuda::rotate_heads({.heads = heads,
                      .stride = int64_t{n_heads} * kDim,
                      .n = n_,
                      .n_heads = n_heads,
                      .dim = kDim,
                      .norm = nullptr,
                      .eps = kEps,
                      .cosines = cosines_.data(),
                      .sines = sines_.data()},
                     stream);
}

// The heads of all requests are those of one token, as the tails lie.
void ModelStep::append(const float* rows, const DeviceArray<uint16_t>& cache, Stream stream) const {
  cuda::append_rows({.rows = rows,
                     .stride = int64_t{call_.n_works()} * kDim,
                     .n = 1,
                     .n_heads = call_.n_works(),
                     .dim = kDim,
                     .cache = cache.data(),
                     .dtype = DType::bf16,
                     .capacity = kTailCapacity,
                     .first_row = kTailRow},
                    stream);
}

DecodeTail ModelStep::tail(int layer) const {
  const Tail& own = tails_[size_t(layer)];
  return {own.keys.data(), own.values.data(), kTailCapacity, n_tail_.data()};
}

void ModelStep::run_attention(int layer, Stream stream) const {
  const uint16_t* weights = model_.layers[size_t(layer)].data();
  normalise(stream);
  multiply(weights, matrices_.q, call_.queries(), stream);
  multiply(weights, matrices_.k, k_.data(), stream);
  multiply(weights, matrices_.v, v_.data(), stream);
  rotate(call_.queries(), model_.shape.n_query_heads, stream);
  rotate(k_.data(), model_.shape.n_kv_heads, stream);
  append(k_.data(), tails_[size_t(layer)].keys, stream);
  append(v_.data(), tails_[size_t(layer)].values, stream);
  call_.lookup_only(layer % index_.n_layers, stream);
  call_.attend_only(layer % index_.n_layers, tail(layer), stream);
  cuda::round_rows(call_.out(), n_ * model_.shape.query_size(), input_.data(), stream);
  multiply(weights, matrices_.o, delta_.data(), stream);
  add_delta(stream);
}

void ModelStep::run_mlp(int layer, Stream stream) const {
  const uint16_t* weights = model_.layers[size_t(layer)].data();
  normalise(stream);
  multiply(weights, matrices_.gate, gate_.data(), stream);
  multiply(weights, matrices_.up, up_.data(), stream);
  cuda::swiglu(gate_.data(), up_.data(), n_ * model_.shape.intermediate, input_.data(), stream);
  multiply(weights, matrices_.down, delta_.data(), stream);
  add_delta(stream);
}

void ModelStep::run(Stream stream) const {
  const ModelShape& s = model_.shape;
  cuda::embed(model_.embedding.data(), DType::bf16, tokens_.data(), n_, s.hidden, hidden_.data(), stream);
  for (int layer = 0; layer < s.n_layers; ++layer) {
    run_attention(layer, stream);
    run_mlp(layer, stream);
  }
  normalise(stream);
  multiply_last(stream);
  cuda::greedy(logits_.data(), n_, s.vocab, next_.data(), stream);
}

void ModelStep::attention_only(Stream stream) const {
  for (int i = 0; i < model_.shape.n_layers; ++i) call_.attend_only(i % index_.n_layers, tail(i), stream);
}

void ModelStep::lookup_only(Stream stream) const {
  for (int i = 0; i < model_.shape.n_layers; ++i) call_.lookup_only(i % index_.n_layers, stream);
}

void ModelStep::linear_only(Stream stream) const {
  for (const DeviceArray<uint16_t>& layer : model_.layers) {
    multiply(layer.data(), matrices_.q, call_.queries(), stream);
    multiply(layer.data(), matrices_.k, k_.data(), stream);
    multiply(layer.data(), matrices_.v, v_.data(), stream);
    multiply(layer.data(), matrices_.o, delta_.data(), stream);
    multiply(layer.data(), matrices_.gate, gate_.data(), stream);
    multiply(layer.data(), matrices_.up, up_.data(), stream);
    multiply(layer.data(), matrices_.down, delta_.data(), stream);
  }
  multiply_last(stream);
}

}  // namespace squeeze::cuda_bench
