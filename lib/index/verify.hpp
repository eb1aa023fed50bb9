// The laws of an index: what must hold of every built layer, checked on the finished data.
#pragma once

#include <string>
#include <vector>

#include "lib/index/head_index.hpp"

namespace squeeze {

// Lists what is wrong with one head, one sentence each; empty: nothing. The laws: token_of_row is a permutation with
// the sinks first and the window last, in order; no cluster is empty and every level's clusters are consecutive runs
// that cover the clustered rows; children cover their parents; the rows of a leaf ascend by token; centroids and value
// means are the means of their rows, to the rounding of their type. dump_keys, dump_values: [n_tokens, head_dim] in
// token order and of the same type; if given, every row must equal its token's bytes. Rows in 8 bits must equal their
// token's, rounded; means and sketches are then compared with the dump's rows, and without a dump means as closely as
// 8 bits tell, sketches not at all. Never throws on bad data.
std::vector<std::string> verify_head(const HeadView& head, TensorView dump_keys = {}, TensorView dump_values = {});

// verify_head of every head of a layer, in parallel; each sentence starts with "KV head N: ". dump_keys, dump_values:
// [n_kv_heads, n_tokens, head_dim] or empty.
std::vector<std::string> verify_layer(const std::vector<HeadView>& heads, TensorView dump_keys = {},
                                      TensorView dump_values = {});

}  // namespace squeeze
