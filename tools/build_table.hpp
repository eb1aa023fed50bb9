// What squeeze-build prints of the layers that it built: a table that grows, or JSON at the end.
#pragma once

#include <string>
#include <vector>

#include "lib/index/head_index.hpp"
#include "lib/model/context.hpp"

namespace squeeze {

// Bytes of the context's keys and values in `dtype`.
int64_t cache_bytes(const Context& context, DType dtype);

class BuildTable {
 public:
  explicit BuildTable(bool json);  // prints the table's head, unless the result is JSON
  void add(int layer, const IndexLayer& index, double seconds);
  // path: of the finished index; dtype: of the model's KV cache, which its size is compared with.
  void finish(const std::string& path, const Context& context, DType dtype, double seconds) const;

 private:
  struct Row {
    int layer = 0;
    std::vector<int64_t> clusters;  // per level, summed over KV heads
    int32_t biggest = 0, smallest = INT32_MAX;
    double inertia = 0;  // mean over KV heads
    double seconds = 0;
    RoundingError key_error = {}, value_error = {};
  };
  static Row summarise(int layer, const IndexLayer& index, double seconds);
  static void print(const Row& row);
  Row total() const;  // the rounding of all layers of this run

  bool json_;
  std::vector<Row> rows_;
};

}  // namespace squeeze
