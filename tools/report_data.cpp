// Puts the report's JSON together.
#include "tools/report_data.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "lib/eval/cluster_sizes.hpp"
#include "tools/describe_file.hpp"
#include "tools/report_curves.hpp"
#include "tools/report_text.hpp"

namespace squeeze {
namespace {

using Json = nlohmann::ordered_json;

// Six digits: there are many of these figures, and no reader of them needs more.
double rounded(double x) { return std::stod(fmt::format("{:.6g}", x)); }

Json matrix(const LayerMetrics& layers, double (*figure)(const HeadMetrics&)) {
  Json rows = Json::array();
  for (const std::vector<HeadMetrics>& heads : layers) {
    Json row = Json::array();
    for (const HeadMetrics& head : heads) row.push_back(rounded(figure(head)));
    rows.push_back(row);
  }
  return rows;
}

Json point_json(const std::string& policy, const CurvePoint& point) {
  const HeadMetrics& m = point.total;
  return {{"label", NamedPolicy{policy, point.value}.describe()},
          {"value", point.value},
          {"measured_sparsity", m.usage.sparsity()},
          {"budget", m.usage.budget()},
          {"kept_mass", m.kept_mass},
          {"topk_recall", m.topk_recall},
          {"output_error", m.output_error},
          {"bytes_read", m.usage.bytes_read},
          {"heads",
           {{"budget", matrix(point.layers, [](const HeadMetrics& h) { return h.usage.budget(); })},
            {"kept_mass", matrix(point.layers, [](const HeadMetrics& h) { return h.kept_mass; })},
            {"output_error", matrix(point.layers, [](const HeadMetrics& h) { return h.output_error; })}}}};
}

Json curves_json(const std::vector<Curve>& curves) {
  Json list = Json::array();
  for (const Curve& curve : curves) {
    Json points = Json::array();
    for (const CurvePoint& point : curve.points) points.push_back(point_json(curve.policy, point));
    list.push_back({{"label", curve.label},
                    {"policy", curve.policy},
                    {"rest", curve.rest == Rest::mean ? "mean" : "drop"},
                    {"points", points}});
  }
  return list;
}

Json index_json(const KvIndex& index) {
  Json info = {{"file", index.path()}, {"bytes", index.file_bytes()}, {"kv_bytes", index.kv_bytes()}};
  info.update(describe_index(index));
  return info;
}

Json sizes_json(const KvIndex& index) {
  Json bins = Json::array();
  for (const SizeBin& bin : leaf_sizes(index.view())) {
    bins.push_back({{"from", bin.from}, {"to", bin.to}, {"n_clusters", bin.n_clusters}, {"n_keys", bin.n_keys}});
  }
  return bins;
}

}  // namespace

std::string report_json(const ReportRequest& request) {
  const ReplaySource& source = request.source;
  const KvIndex& index = source.index;
  const Json tokens = report_tokens(index, request.model);  // first: what may be wrong is found before the long work
  const auto [curves, focus] = measure_curves(source, request.chosen, request.rest);
  const NamedPolicy shown{curves[focus.curve].policy, curves[focus.curve].points[focus.point].value};
  const Policy policy = make_policy(shown, curves[focus.curve].rest, index);
  const Json report = {{"format", "squeeze-report"},
                       {"version", 1},
                       {"version_of_writer", SQUEEZE_VERSION},
                       {"index", index_json(index)},
                       {"queries", source.dump.path()},
                       {"source", source.probes ? "probes" : "window"},
                       {"query_block", source.block_size},
                       {"curves", curves_json(curves)},
                       {"focus", {{"curve", focus.curve}, {"point", focus.point}}},
                       {"n_worst", request.n_worst},
                       {"cluster_sizes", sizes_json(index)},
                       {"questions", report_questions(source, policy)},
                       {"text", tokens}};
  return report.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace squeeze
