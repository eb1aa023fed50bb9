# The page of HTML reports, with the chart library inside: squeeze_report_page is the generated source.
find_file(SQUEEZE_CHART_JS NAMES chart.min.js PATHS /usr/share/javascript/chart.js /usr/local/share/javascript/chart.js
  NO_DEFAULT_PATH DOC "Chart.js 3 (Debian: libjs-chart.js), embedded in HTML reports")
set(report_chart "${SQUEEZE_CHART_JS}")
if(NOT report_chart OR NOT EXISTS "${report_chart}")
  set(report_chart "")
  message(STATUS "Chart.js not found: squeeze-inspect will be built without --html (install libjs-chart.js)")
endif()
set(squeeze_report_page ${PROJECT_BINARY_DIR}/report_page.cpp)
set(report_parts ${PROJECT_SOURCE_DIR}/formats/report)
add_custom_command(OUTPUT ${squeeze_report_page}
  COMMAND ${CMAKE_COMMAND} -DPARTS=${report_parts} -DCHART=${report_chart} -DOUT=${squeeze_report_page}
    -P ${PROJECT_SOURCE_DIR}/cmake/embed_report.cmake
  DEPENDS ${PROJECT_SOURCE_DIR}/cmake/embed_report.cmake ${report_chart} ${report_parts}/page.html
    ${report_parts}/style.css ${report_parts}/data.js ${report_parts}/glance.js ${report_parts}/curves.js
    ${report_parts}/heads.js ${report_parts}/text.js
  COMMENT "Embedding the report's page" VERBATIM)
