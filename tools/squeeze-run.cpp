// squeeze-run: answers or scores requests over a fixed context with sparse attention, or replays recorded queries.
#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "formats/kv_index.hpp"
#include "tools/answer_requests.hpp"
#include "tools/context_source.hpp"
#include "tools/policy_options.hpp"
#include "tools/replay_report.hpp"
#include "tools/tool.hpp"

namespace squeeze {
namespace {

constexpr ToolText kText = {
    "squeeze-run", "Answers questions about a fixed, indexed text with sparse attention.",
    "  squeeze-run --index manual.sqz.h5 --model Llama-3.1-8B --sparsity 0.9 questions.jsonl > answers.jsonl\n"
    "  echo 'Question: What is the access code?\n' | squeeze-run --index manual.sqz.h5 --model DIR --text -\n"
    "  squeeze-run --index manual.sqz.h5 --model DIR --score-text appendix.txt --compare-dense\n"
    "  squeeze-run --index manual.sqz.h5 --queries manual.kv.h5 --sparsity 0.9",
    "the forward pass and attention"};

struct Options {
  CommonOptions common;
  PolicyOptions policy;
  AnswerOptions answers;
  std::string index, queries;
  bool json = false;
};

void bind(CLI::App& app, Options& o) {
  bind_answers(app, o.answers);
  app.add_option("--index", o.index, "The index of the fixed context")->type_name("INDEX")->required();
  app.add_option("--queries", o.queries, "Replay the recorded queries of this KV dump instead of running a model")
      ->type_name("DUMP")
      ->excludes("--model");
  bind_policy(app, o.policy);
  app.add_option("--device-memory", o.common.device_memory,
                 "What the context may take of the device; keys and values beyond it are read over the bus (default: "
                 "what is free)")
      ->type_name("8GiB");
  app.add_flag("--no-graph", o.common.no_graph,
               "On a device, launch a token's kernels one by one (default: recorded once, replayed as one graph)");
  app.add_flag("--json", o.json, "Print the replay's figures as JSON");
}

int replay_queries(const Options& o, const KvIndex& index) {
  const KvDump dump(o.queries);
  check_same_context(index, dump);
  const AttentionMaker maker = attention_maker(o.policy, index, o.common);
  const ReplaySource source{index, dump};
  const auto operations = operations_for("bf16", o.common.cuda());
  const ReplayTimes times = time_replay(source, *operations, maker);
  const Policy policy = make_policy(o.policy, index);  // what it costs is measured on the CPU
  const HeadMetrics total = pooled(replay_heads(source, policy, o.policy.rest_mode()));
  if (o.json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"rule", o.policy.describe()},
                                              {"rest", o.policy.rest},
                                              {"measured_sparsity", total.usage.sparsity()},
                                              {"budget", total.usage.budget()},
                                              {"kept_mass", total.kept_mass},
                                              {"output_error", total.output_error},
                                              {"dense_ms_per_token", times.dense_ms},
                                              {"sparse_ms_per_token", times.sparse_ms},
                                              {"bytes_read_per_token", times.bytes_read},
                                              {"bytes_dense_per_token", times.bytes_dense}}
                           .dump());
    return 0;
  }
  fmt::print("rule            {} (rest: {})\n", o.policy.describe(), o.policy.rest);
  fmt::print("sparsity        {:.4f}\nbudget          {:.4f}  ({} of {} per token)\n", total.usage.sparsity(),
             total.usage.budget(), human_bytes(times.bytes_read), human_bytes(times.bytes_dense));
  fmt::print("kept mass       {:.4f}\noutput error    {:.3e}\n", total.kept_mass, total.output_error);
  fmt::print("attention       {:.3f} ms per token, dense {:.3f} ms: {:.2f}x\n", times.sparse_ms, times.dense_ms,
             times.dense_ms / std::max(times.sparse_ms, 1e-9));
  return 0;
}

int run(const Options& o) {
  if (o.answers.model.empty() && o.queries.empty()) {
    fail_usage("name a model (--model DIR) to answer requests, or a dump (--queries DUMP) to replay");
  }
  const KvIndex index(o.index);
  return o.queries.empty() ? answer_requests(o.answers, o.common, index, o.policy) : replay_queries(o, index);
}

}  // namespace
}  // namespace squeeze

int main(int argc, char** argv) { return squeeze::tool_main(argc, argv, squeeze::kText, squeeze::bind, squeeze::run); }
