// The HTML report: one file with page, chart library and data, that needs no network. Specification: html_report.md.
#pragma once

#include <string>
#include <string_view>

namespace squeeze {

// The page, with "@data@" where the JSON goes; empty in a build without the chart library. Made from formats/report/.
extern const std::string_view kReportPage;

class HtmlReport {
 public:
  // Throws if this build has no page, or if the file exists and is not to be replaced (force).
  HtmlReport(const std::string& path, bool force);
  // Writes NAME.partial, then renames it. json: any JSON text; it may hold any string. Returns the file's bytes.
  size_t write(const std::string& json) const;

 private:
  std::string path_;
};

// The same JSON, without any character that could end or change the script element that holds it.
std::string json_for_script(std::string_view json);

}  // namespace squeeze
