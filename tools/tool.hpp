// What the four programs share: option parsing, the main wrapper with its exit codes, progress on a terminal.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <optional>
#include <string>

#include "lib/core/error.hpp"
#include "lib/core/progress.hpp"

namespace squeeze {

// Options that every program has.
struct CommonOptions {
  int threads = 0;  // 0: all cores
  bool pin = false;
  std::string isa;             // empty: the fastest
  std::string device = "cpu";  // or "cuda", "cuda:1"
  bool cuda() const { return device != "cpu"; }
  std::string device_memory;  // for the context: "8GiB"; empty: what is free
  bool no_graph = false;      // on a device: kernels are launched one by one
  bool quiet = false;
};

struct ToolText {
  const char* name;
  const char* summary;
  const char* example;       // shown by --help
  const char* on_cuda = "";  // what the program computes on --device cuda; empty: nothing
};

void bind_common(CLI::App& app, const ToolText& text, CommonOptions& options);
// Sets threads, ISA and device; throws if the machine, this build or the program does not have what is asked for.
void apply_common(const ToolText& text, const CommonOptions& options);

// Parses, runs, and turns exceptions into one line on stderr. Returns 0 done, 1 failed, 2 bad usage. `run` returns the
// exit status of a run that did not throw.
int tool_main(int argc, char** argv, const ToolText& text, const std::function<void(CLI::App&)>& bind,
              CommonOptions& common, const std::function<int()>& run);

// The same for a program's Options (with a member `common`): the last line of each main.
template <class Options>
int tool_main(int argc, char** argv, const ToolText& text, void (*bind)(CLI::App&, Options&),
              int (*run)(const Options&)) {
  Options options;
  return tool_main(
      argc, argv, text, [&](CLI::App& app) { bind(app, options); }, options.common, [&] { return run(options); });
}

// An option value that is wrong although it parsed: exit status 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

template <class... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw UsageError(fmt::format(format, std::forward<Args>(args)...));
}

// A line on stderr that is redrawn while work goes on, with rate and time left. Silent unless stderr is a terminal.
Progress terminal_progress(bool quiet, const std::string& unit);
// Ends the line that terminal_progress is drawing, if there is one.
void end_progress();
// A note on stderr unless quiet.
void note(const CommonOptions& common, const std::string& line);

// "64M", "8GiB", "1000": a number with a unit of 1024s, or bytes; nothing if it is none, or not above 0.
std::optional<double> parse_bytes(const std::string& text);
std::string human_bytes(double bytes);                                   // "1.5 MiB"
double parse_share(const std::string& text, const std::string& option);  // "5%" or "0.05" -> 0.05

}  // namespace squeeze
