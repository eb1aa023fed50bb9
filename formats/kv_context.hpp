// What KV dumps and indexes have in common on disk: format and version, the model, the text, its documents.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "formats/h5.hpp"
#include "formats/partial_file.hpp"
#include "lib/model/context.hpp"

namespace squeeze {

inline constexpr std::string_view kDumpFormat = "squeeze-kv-dump";
inline constexpr std::string_view kIndexFormat = "squeeze-index";
inline constexpr int kDumpVersion = 1;  // written; older ones are read
inline constexpr int kIndexVersion = 4;

// The root attribute "format" of an HDF5 file: one of the two above, or an error that says what was found.
std::string format_of(const std::string& path);

// Throws unless the context makes sense: sizes, tokens, documents, UTF-8. `path` names the file in errors.
void check_context(const std::string& path, const Context& context);

// Throws unless the positions ascend below n_tokens.
void check_query_positions(const std::string& path, std::span<const int32_t> positions, int64_t n_tokens);
// Of an index: ascending, starting again with every probe question.
void check_calibration_positions(const std::string& path, std::span<const int32_t> positions);

void save_context(h5::Skeleton& file, std::string_view format, const Context& context);
Context load_context(const h5::Reader& file, std::string_view format);

// For --resume: throws, and names what differs, unless the file was begun with the same model and text.
void check_same_context(const std::string& path, const Context& found, const Context& expected);

// An integer attribute in [min, max].
int32_t read_count(const h5::Reader& file, const std::string& name, int64_t min, int64_t max);

// The group of a layer: "/layers/07".
std::string layer_name(int layer);

// /complete is 0 while a file is being written, so that one that was renamed by hand is recognised.
void check_complete(const h5::Reader& file);
void finish_complete(PartialFile& file, const h5::Extent& complete);  // sets it and finishes
h5::Extent complete_extent(const h5::Reader& file);

}  // namespace squeeze
