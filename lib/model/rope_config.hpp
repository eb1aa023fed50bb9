// The RoPE part of config.json, to and from JSON.
#pragma once

#include "lib/model/config.hpp"
#include "lib/model/json_fields.hpp"

namespace squeeze {

// Reads rope_parameters, or rope_theta and rope_scaling, of the whole config. Throws on an unknown kind, naming it.
RopeConfig parse_rope(const JsonFields& config, int64_t max_positions, int head_dim);

// The kind, theta and the parameters that the kind uses.
nlohmann::json rope_fields(const RopeConfig& rope);

}  // namespace squeeze
