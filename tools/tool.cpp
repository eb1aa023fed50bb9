// The main wrapper, the common options and the progress line.
#include "tools/tool.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>

#include "kernels/cuda/cuda.hpp"
#include "kernels/kernels.hpp"
#include "lib/core/parallel.hpp"

namespace squeeze {
namespace {

using Clock = std::chrono::steady_clock;

char interrupt_message[256];

// Unfinished files carry another name and are whole up to their last finished layer, so leaving at once is safe.
void on_interrupt(int) {
  const ssize_t written = write(STDERR_FILENO, interrupt_message, std::strlen(interrupt_message));
  (void)written;
  _exit(1);
}

void handle_interrupts(const char* name) {
  std::snprintf(interrupt_message, sizeof interrupt_message,
                "%s: interrupted; no output file was completed. If a .partial file is there, --resume continues it.\n",
                name);
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

std::string isa_names() {
  std::string names;
  for (const Kernels* table : available_kernels()) names += fmt::format("{}{}", names.empty() ? "" : ", ", table->isa);
  return names;
}

void choose_isa(const std::string& option) {
  const char* variable = std::getenv("SQUEEZE_ISA");
  const std::string wanted = !option.empty() ? option : variable ? variable : "";
  if (!wanted.empty() && !select_kernels(wanted.c_str())) {
    fail_usage("{} {}: this machine offers {}", option.empty() ? "SQUEEZE_ISA" : "--isa", wanted, isa_names());
  }
}

// --device cuda[:N]
void choose_device(const ToolText& text, const std::string& device) {
  const std::string number = device.starts_with("cuda:") ? device.substr(5) : "0";
  const bool is_number =
      !number.empty() && number.size() < 4 && number.find_first_not_of("0123456789") == std::string::npos;
  if ((device != "cuda" && !device.starts_with("cuda:")) || !is_number) {
    fail_usage("--device {}: expected cpu, cuda or cuda:N", device);
  }
  if (!*text.on_cuda) fail_usage("--device {}: {} computes on the CPU only; use --device cpu", device, text.name);
  if (const char* problem = cuda_problem()) fail_usage("--device {}: {} (--device cpu needs none)", device, problem);
  select_cuda_device(std::stoi(number));
}

bool drawing = false;

void draw(const ProgressStep& step, double seconds, const std::string& unit) {
  const double share = step.total > 0 ? double(step.done) / double(step.total) : 0;
  const double left = share > 0 ? seconds / share - seconds : 0;
  fmt::print(stderr, "\r\033[K{}  {:.0f} %  {:.0f} {}/s  {:.0f} s left", step.what, 100 * share,
             seconds > 0 ? double(step.done) / seconds : 0.0, unit, left);
  std::fflush(stderr);
  drawing = true;
}

}  // namespace

void bind_common(CLI::App& app, const ToolText& text, CommonOptions& options) {
  app.add_option("--threads", options.threads, "Threads to compute with (default: all cores)")
      ->check(CLI::Range(1, 4096));
  app.add_flag("--pin", options.pin, "Keep each thread on one core");
  app.add_option("--isa", options.isa, "Instruction set of the kernels (default: the fastest; also SQUEEZE_ISA)");
  app.add_option("--device", options.device,
                 *text.on_cuda ? fmt::format("Where to compute: cpu, or cuda[:N] for {}", text.on_cuda)
                               : std::string("Where to compute: cpu"));
  app.add_flag("-q,--quiet", options.quiet, "No progress and no notes on stderr");
}

void apply_common(const ToolText& text, const CommonOptions& options) {
  choose_isa(options.isa);
  const int default_threads = n_threads();
  if (options.threads > 0) set_threads(options.threads);
  if (options.pin && n_threads() > default_threads) {
    fail_usage("--pin: {} threads, but this process may use {} cores", n_threads(), default_threads);
  }
  if (options.pin) pin_threads();
  if (options.cuda()) choose_device(text, options.device);
}

int tool_main(int argc, char** argv, const ToolText& text, const std::function<void(CLI::App&)>& bind,
              CommonOptions& common, const std::function<int()>& run) {
  CLI::App app(text.summary, text.name);
  app.set_version_flag("--version", std::string(text.name) + " " SQUEEZE_VERSION);
  app.footer(std::string("Example:\n") + text.example);
  app.get_formatter()->column_width(34);
  bind_common(app, text, common);
  bind(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e, std::cout, std::cerr);
    fmt::print(stderr, "{}: {}\n{}: see --help\n", text.name, e.what(), text.name);
    return 2;
  }
  handle_interrupts(text.name);
  try {
    apply_common(text, common);
    const int status = run();
    end_progress();
    if (std::fflush(stdout) != 0) fail("standard output: {}", std::strerror(errno));
    return status;
  } catch (const UsageError& e) {
    end_progress();
    fmt::print(stderr, "{}: {}\n", text.name, e.what());
    return 2;
  } catch (const std::exception& e) {
    end_progress();
    fmt::print(stderr, "{}: {}\n", text.name, e.what());
    return 1;
  }
}

Progress terminal_progress(bool quiet, const std::string& unit) {
  if (quiet || !isatty(STDERR_FILENO)) return [](const ProgressStep&) {};
  const auto start = Clock::now();
  auto last = start;
  return [=](const ProgressStep& step) mutable {
    const auto now = Clock::now();
    if (now - last < std::chrono::milliseconds(100) && step.done < step.total) return;
    last = now;
    draw(step, std::chrono::duration<double>(now - start).count(), unit);
  };
}

void end_progress() {
  if (drawing) fmt::print(stderr, "\r\033[K");
  drawing = false;
}

void note(const CommonOptions& common, const std::string& line) {
  if (common.quiet) return;
  end_progress();
  fmt::print(stderr, "{}\n", line);
}

std::optional<double> parse_bytes(const std::string& text) {
  const size_t unit = text.find_first_not_of("0123456789.");
  const std::string suffix = unit == std::string::npos ? "" : text.substr(unit);
  const std::map<std::string, double> units = {{"", 1},         {"K", 1024.0}, {"KiB", 1024.0}, {"M", 0x1p20},
                                               {"MiB", 0x1p20}, {"G", 0x1p30}, {"GiB", 0x1p30}};
  const auto found = units.find(suffix);
  double value = 0;
  if (found == units.end() || !CLI::detail::lexical_cast(text.substr(0, unit), value) || !(value > 0)) {
    return {};
  }
  return value * found->second;
}

std::string human_bytes(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 4; ++unit) bytes /= 1024;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, units[unit]);
}

double parse_share(const std::string& text, const std::string& option) {
  const bool percent = !text.empty() && text.back() == '%';
  const std::string number = percent ? text.substr(0, text.size() - 1) : text;
  char* end = nullptr;
  const double value = std::strtod(number.c_str(), &end);
  if (number.empty() || *end != '\0') fail_usage("{} {}: expected a share such as 5% or 0.05", option, text);
  return percent ? value / 100 : value;
}

}  // namespace squeeze
