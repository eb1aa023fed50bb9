// Puts the data into the page and writes the file.
#include "formats/html_report.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr std::string_view kPlace = "@data@";

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) fail("{}: cannot write: {}", path, std::strerror(errno));
}

}  // namespace

HtmlReport::HtmlReport(const std::string& path, bool force) : path_(path) {
  if (kReportPage.empty()) {
    fail("--html: this build has no charts; install libjs-chart.js (Debian), then configure and build again");
  }
  if (!force && ::access(path.c_str(), F_OK) == 0) fail("{}: exists; use --force to replace it, or another name", path);
}

size_t HtmlReport::write(const std::string& json) const {
  std::string page(kReportPage);
  page.replace(page.find(kPlace), kPlace.size(), json_for_script(json));
  const std::string partial = path_ + ".partial";
  write_file(partial, page);
  if (std::rename(partial.c_str(), path_.c_str()) != 0) fail("{}: cannot rename: {}", partial, std::strerror(errno));
  return page.size();
}

// Outside strings JSON has none of these characters, inside any character may be escaped.
std::string json_for_script(std::string_view json) {
  std::string out;
  out.reserve(json.size());
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string_view rest = json.substr(i);
    if (json[i] == '<') {
      out += "\\u003c";
    } else if (json[i] == '>') {
      out += "\\u003e";
    } else if (json[i] == '&') {
      out += "\\u0026";
    } else if (rest.starts_with("\u2028") || rest.starts_with("\u2029")) {  // line ends in old JavaScript
      out += rest.starts_with("\u2028") ? "\\u2028" : "\\u2029";
      i += 2;
    } else {
      out += json[i];
    }
  }
  return out;
}

}  // namespace squeeze
