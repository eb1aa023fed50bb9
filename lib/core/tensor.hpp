// Dense row-major arrays of f32, f16, bf16 or i8: an owner (Tensor) and a read-only view (TensorView).
#pragma once

#include <cassert>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "kernels/dtype.hpp"

namespace squeeze {

// The sizes of up to four dimensions, outermost first.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes);
  explicit Shape(std::span<const int64_t> sizes);

  int rank() const { return rank_; }
  int64_t operator[](int dim) const { return sizes_[dim]; }
  int64_t n_elements() const;
  Shape tail() const;       // without the first dimension
  std::string str() const;  // "[8, 128, 64]"
  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  int rank_ = 0;
  int64_t sizes_[kMaxRank] = {0, 0, 0, 0};
};

class Tensor;

// Borrowed, read-only, contiguous. Passed by value. Valid as long as its owner (a Tensor, a mapped file).
class TensorView {
 public:
  TensorView() = default;
  TensorView(const void* data, DType dtype, Shape shape) : data_(data), dtype_(dtype), shape_(shape) {}

  const void* data() const { return data_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t size(int dim) const { return shape_[dim]; }
  int64_t n_elements() const { return shape_.n_elements(); }
  size_t n_bytes() const { return static_cast<size_t>(n_elements()) * size_of(dtype_); }
  Tensor clone() const;

  const float* f32() const {
    assert(dtype_ == DType::f32);
    return static_cast<const float*>(data_);
  }
  // The sub-array at index `i` of the first dimension.
  TensorView operator[](int64_t i) const;
  // The indices [begin, end) of the first dimension.
  TensorView slice(int64_t begin, int64_t end) const;
  // The address of element `i` of the flattened array.
  const void* at(int64_t i) const {
    return static_cast<const char*>(data_) + i * static_cast<int64_t>(size_of(dtype_));
  }

 private:
  const void* data_ = nullptr;
  DType dtype_ = DType::f32;
  Shape shape_;
};

// Where tensors live. Only the operations of a device may touch the bytes of its memory.
struct MemorySpace {
  void* (*allocate)(size_t bytes);  // 64-byte aligned; null, or an exception, if there is not so much
  void (*release)(void* memory);
};
const MemorySpace& host_memory();
struct ReleaseMemory {
  const MemorySpace* space = &host_memory();
  void operator()(void* memory) const { space->release(memory); }
};

// Owns 64-byte aligned, uninitialised (or zeroed) memory. Moves; copies only by clone().
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(const MemorySpace& space) : data_(nullptr, ReleaseMemory{&space}) {}
  Tensor(DType dtype, Shape shape, const MemorySpace& space = host_memory());
  static Tensor zeros(DType dtype, Shape shape);

  // Another type and shape; the content is lost. The memory stays if it is large enough, and grows by half more than
  // asked for if not: a buffer whose size changes from call to call soon allocates no more.
  void resize(DType dtype, Shape shape);

  Tensor clone() const { return view().clone(); }
  operator TensorView() const { return view(); }
  TensorView view() const { return {data_.get(), dtype_, shape_}; }
  TensorView operator[](int64_t i) const { return view()[i]; }

  void* data() { return data_.get(); }
  const void* data() const { return data_.get(); }
  float* f32() {
    assert(dtype_ == DType::f32);
    return static_cast<float*>(data_.get());
  }
  const float* f32() const { return view().f32(); }
  void* at(int64_t i) { return static_cast<char*>(data_.get()) + i * static_cast<int64_t>(size_of(dtype_)); }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t size(int dim) const { return shape_[dim]; }
  int64_t n_elements() const { return shape_.n_elements(); }
  size_t n_bytes() const { return static_cast<size_t>(n_elements()) * size_of(dtype_); }

 private:
  void allocate(size_t n_bytes);

  std::unique_ptr<void, ReleaseMemory> data_;
  size_t capacity_ = 0;  // bytes, if there is data
  DType dtype_ = DType::f32;
  Shape shape_;
};

// A copy of the indices [begin, end) of the second dimension: [n, end - begin, ...].
Tensor slice_dim1(TensorView in, int64_t begin, int64_t end);

// A copy of `in` in another type.
Tensor convert(TensorView in, DType dtype);

// Whether no number is infinite or NaN.
bool all_finite(std::span<const float> x);

}  // namespace squeeze
