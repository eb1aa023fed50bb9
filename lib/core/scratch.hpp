// Vectors that are used again and again: their memory is kept from one use to the next.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace squeeze {

// v.resize(n), leaving room where it has to grow: a vector whose size changes from call to call soon allocates no more.
template <class T>
void resize_with_room(std::vector<T>& v, size_t n) {
  if (n > v.capacity()) v.reserve(n + n / 2);
  v.resize(n);
}

// v.assign(n, value) alike.
template <class T>
void assign_with_room(std::vector<T>& v, size_t n, const T& value) {
  v.clear();
  if (n > v.capacity()) v.reserve(n + n / 2);
  v.resize(n, value);
}

// v.insert(v.end(), ...) of all of `items`, alike.
template <class T, class Items>
void append_with_room(std::vector<T>& v, const Items& items) {
  const size_t before = v.size();
  resize_with_room(v, before + std::size(items));
  std::copy(std::begin(items), std::end(items), v.begin() + static_cast<std::ptrdiff_t>(before));
}

}  // namespace squeeze
