// Tests of html_report: hostile text stays text, files are not overwritten.
#include "formats/html_report.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "lib/core/error.hpp"
#include "tests/temporary_folder.hpp"

namespace squeeze {

TEST_SUITE("html_report") {
  TEST_CASE("no text can leave the script element, and every text comes back") {
    for (const std::string text : {"</script><script>alert(1)</script>", "<!--<script>", "a && b", "\u2028\u2029",
                                   "\"quotes\" \\ and \n", "é😀"}) {
      const std::string json = nlohmann::json{{"text", text}}.dump();
      const std::string safe = json_for_script(json);
      CHECK(safe.find_first_of("<>&") == std::string::npos);
      CHECK(safe.find("\u2028") == std::string::npos);
      CHECK(nlohmann::json::parse(safe) == nlohmann::json::parse(json));
    }
  }

  TEST_CASE("the page holds the data once, and nothing that needs a network") {
    if (kReportPage.empty()) return;
    const TemporaryFolder folder;
    const std::string path = folder / "report.html";
    const size_t n_bytes = HtmlReport(path, false).write(R"({"text":"@data@ @chart@"})");
    std::ifstream file(path);
    const std::string page{std::istreambuf_iterator<char>(file), {}};
    CHECK(page.size() == n_bytes);
    CHECK(page.find(R"(id="report">{"text":"@data@ @chart@"}</script>)") != std::string::npos);
    for (const char* outside : {"src=\"http", "href=\"http", "@style@", "@scripts@", "@import"}) {
      CHECK(page.find(outside) == std::string::npos);
    }
    CHECK_THROWS_WITH_AS(HtmlReport(path, false), doctest::Contains("--force"), Error);
    CHECK(HtmlReport(path, true).write("{}") < n_bytes);
  }
}

}  // namespace squeeze
