# Joins the parts of the HTML report into one page and writes it as a C++ source: cmake -DPARTS=folder -DCHART=chart.min.js
# -DOUT=file.cpp -P embed_report.cmake. With an empty CHART the page is empty, and reports are refused at run time.
set(page "")
if(CHART)
  file(READ "${PARTS}/page.html" page)
  file(READ "${PARTS}/style.css" style)
  file(READ "${CHART}" chart)
  set(scripts "")
  foreach(name data glance curves heads text)
    file(READ "${PARTS}/${name}.js" script)
    string(APPEND scripts "${script}")
  endforeach()
  foreach(part style scripts chart)
    string(REPLACE "@${part}@" "${${part}}" page "${page}")
  endforeach()
endif()
string(HEX "${page}" hex)
string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
file(WRITE "${OUT}" "// Written by cmake/embed_report.cmake.
#include \"formats/html_report.hpp\"

namespace squeeze {
namespace {
constexpr unsigned char kBytes[] = {${bytes}0};
}
const std::string_view kReportPage(reinterpret_cast<const char*>(kBytes), sizeof kBytes - 1);
}  // namespace squeeze
")
