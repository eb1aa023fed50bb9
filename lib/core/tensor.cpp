// Tensor memory, shapes and type conversion.
#include "lib/core/tensor.hpp"

#include <fmt/ranges.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"

namespace squeeze {

Shape::Shape(std::initializer_list<int64_t> sizes) : Shape(std::span(sizes.begin(), sizes.size())) {}

Shape::Shape(std::span<const int64_t> sizes) : rank_(static_cast<int>(sizes.size())) {
  if (sizes.size() > kMaxRank) fail("a tensor has at most {} dimensions, found {}", kMaxRank, sizes.size());
  for (int i = 0; i < rank_; ++i) {
    if (sizes[i] < 0) fail("a tensor dimension must not be negative, found {}", sizes[i]);
    sizes_[i] = sizes[i];
  }
  (void)n_elements();
}

int64_t Shape::n_elements() const {
  int64_t n = 1;
  for (int i = 0; i < rank_; ++i) {
    if (__builtin_mul_overflow(n, sizes_[i], &n) || n > (int64_t{1} << 60)) fail("tensor shape {} is too large", str());
  }
  return n;
}

Shape Shape::tail() const {
  assert(rank_ > 0);
  return Shape(std::span(sizes_ + 1, static_cast<size_t>(rank_ - 1)));
}

std::string Shape::str() const { return fmt::format("[{}]", fmt::join(sizes_, sizes_ + rank_, ", ")); }

TensorView TensorView::operator[](int64_t i) const {
  assert(shape_.rank() > 0 && i >= 0 && i < shape_[0]);
  const Shape inner = shape_.tail();
  return {at(i * inner.n_elements()), dtype_, inner};
}

TensorView TensorView::slice(int64_t begin, int64_t end) const {
  assert(shape_.rank() > 0 && 0 <= begin && begin <= end && end <= shape_[0]);
  int64_t sizes[Shape::kMaxRank];
  for (int i = 0; i < shape_.rank(); ++i) sizes[i] = shape_[i];
  sizes[0] = end - begin;
  const Shape sliced(std::span<const int64_t>(sizes, static_cast<size_t>(shape_.rank())));
  return {at(begin * shape_.tail().n_elements()), dtype_, sliced};
}

const MemorySpace& host_memory() {
  static constexpr MemorySpace kHost{[](size_t bytes) { return std::aligned_alloc(64, bytes); },
                                     [](void* memory) { std::free(memory); }};
  return kHost;
}

Tensor::Tensor(DType dtype, Shape shape, const MemorySpace& space)
    : data_(nullptr, ReleaseMemory{&space}), dtype_(dtype), shape_(shape) {
  allocate(n_bytes());
}

void Tensor::allocate(size_t n_bytes) {
  const size_t bytes = (n_bytes + 63) / 64 * 64;
  if (bytes == 0) return;
  data_.reset();  // first: the content is not copied, so that both need not fit
  data_.reset(data_.get_deleter().space->allocate(bytes));
  if (!data_) fail("out of memory: could not allocate {} bytes for a tensor of shape {}", bytes, shape_.str());
  capacity_ = bytes;
}

void Tensor::resize(DType dtype, Shape shape) {
  dtype_ = dtype;
  shape_ = shape;
  if (data_ && n_bytes() <= capacity_) return;
  allocate(data_ ? n_bytes() + n_bytes() / 2 : n_bytes());
}

Tensor Tensor::zeros(DType dtype, Shape shape) {
  Tensor t(dtype, shape);
  if (t.n_bytes() > 0) std::memset(t.data(), 0, t.n_bytes());
  return t;
}

Tensor TensorView::clone() const {
  Tensor copy(dtype_, shape_);
  if (n_bytes() > 0) std::memcpy(copy.data(), data(), n_bytes());
  return copy;
}

Tensor slice_dim1(TensorView in, int64_t begin, int64_t end) {
  assert(in.shape().rank() >= 2);
  int64_t sizes[Shape::kMaxRank];
  for (int i = 0; i < in.shape().rank(); ++i) sizes[i] = in.size(i);
  sizes[1] = end - begin;
  Tensor out(in.dtype(), Shape(std::span<const int64_t>(sizes, static_cast<size_t>(in.shape().rank()))));
  for (int64_t i = 0; i < in.size(0); ++i) {
    const TensorView part = in[i].slice(begin, end);
    if (part.n_bytes() > 0) std::memcpy(out.at(i * part.n_elements()), part.data(), part.n_bytes());
  }
  return out;
}

Tensor convert(TensorView in, DType dtype) {
  Tensor out(dtype, in.shape());
  if (in.dtype() == dtype) {
    if (in.n_bytes() > 0) std::memcpy(out.data(), in.data(), in.n_bytes());
  } else if (dtype == DType::f32) {
    kernels().to_f32(in.data(), in.dtype(), in.n_elements(), out.f32());
  } else {
    const Tensor wide = in.dtype() == DType::f32 ? Tensor() : convert(in, DType::f32);
    const float* source = in.dtype() == DType::f32 ? in.f32() : wide.f32();
    kernels().from_f32(source, in.n_elements(), dtype, out.data());
  }
  return out;
}

bool all_finite(std::span<const float> x) {
  uint32_t found = 0;
  for (const float value : x) found |= (bits_of_float(value) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
  return found == 0;
}

}  // namespace squeeze
