// Tests of JSON Lines: lines, requests, answers, resuming an output file.
#include "formats/jsonl.hpp"

#include <nlohmann/json.hpp>

#include "tests/made_files.hpp"

using namespace squeeze;

namespace {

RequestLine parse(const std::string& text) { return parse_request({7, text, false}); }

}  // namespace

TEST_SUITE("jsonl") {
  TEST_CASE("lines end in LF, CRLF or nothing, are counted, and are cut when too long") {
    const TemporaryFolder folder;
    write_bytes(folder / "l", "one\r\n\ntoo long\nlast");
    LineReader lines(folder / "l", 5);
    Line line = *lines.next();
    CHECK(line.text == "one");
    CHECK(line.number == 1);
    CHECK(lines.next()->text.empty());
    line = *lines.next();
    CHECK(line.too_long);
    CHECK(line.text == "too l");
    line = *lines.next();
    CHECK(line.text == "last");
    CHECK(line.number == 4);
    CHECK_FALSE(lines.next().has_value());
    CHECK(contains(error_of([&] { LineReader(folder / "gone"); }), "No such file"));
    CHECK(contains(error_of([&] { LineReader(folder / ".").next(); }), "directory"));
  }

  TEST_CASE("a request with everything, and one with nothing but a prompt") {
    const RequestLine full = parse(
        R"({"id": "q\"7", "prompt": "Why é?\n", "max_tokens": 5, "stop": ["\n", "END"], "seed": 18446744073709551615, "more": {}})");
    REQUIRE(full.request.has_value());
    CHECK(full.id_json == R"("q\"7")");
    CHECK(full.request->prompt == "Why é?\n");
    CHECK(full.request->max_tokens == 5);
    CHECK(full.request->stop == std::vector<std::string>{"\n", "END"});
    CHECK(full.request->seed == 18446744073709551615u);
    const RequestLine bare = parse(R"({"prompt": ""})");
    REQUIRE(bare.request.has_value());
    CHECK(bare.request->id_json == "7");
    CHECK_FALSE(bare.request->max_tokens.has_value());
    CHECK(parse(R"({"id": 12, "prompt": "a", "stop": "x", "seed": null})").request->stop ==
          std::vector<std::string>{"x"});
    CHECK(parse(R"({"id": 12, "prompt": "a"})").id_json == "12");
    CHECK(parse(R"({"id": 1.5, "prompt": "a"})").id_json == "1.5");
  }

  TEST_CASE("a request with a completion needs no prompt") {
    CHECK(parse(R"({"prompt": "a", "completion": "b"})").request->completion == "b");
    CHECK(parse(R"({"completion": "b"})").request->prompt.empty());
    CHECK_FALSE(parse(R"({"prompt": "a", "completion": null})").request->completion.has_value());
  }

  TEST_CASE("a bad line is an error with its number, and keeps its id if it has one") {
    const auto refused = [](const std::string& text, const char* why) {
      const RequestLine line = parse(text);
      CAPTURE(text);
      CHECK_FALSE(line.request.has_value());
      CHECK(contains(line.error, "line 7: "));
      CHECK(contains(line.error, why));
      return line.id_json;
    };
    CHECK(refused("{\"prompt\": ", "not valid JSON") == "null");
    CHECK(refused("{\"prompt\": \"\xff\"}", "not valid JSON") == "null");
    CHECK(refused("[1]", "object") == "null");
    CHECK(refused(R"({"id": 3})", "prompt") == "3");
    CHECK(refused(R"({"id": "a", "prompt": 5})", "prompt") == "\"a\"");
    CHECK(refused(R"({"id": [1], "prompt": "a"})", "id:") == "null");
    for (const char* bad : {"0", "-1", "2.5", "\"5\"", "99999999999999999999", "18446744073709551615", "[[]]"}) {
      refused(std::string(R"({"prompt": "a", "max_tokens": )") + bad + "}", "max_tokens");
    }
    for (const char* bad : {"\"\"", "[\"\"]", "5", "[5]", "{}"}) {
      refused(std::string(R"({"prompt": "a", "stop": )") + bad + "}", "stop");
    }
    refused(R"({"prompt": "a", "seed": -1})", "seed");
    refused(R"({"prompt": "a", "completion": 5})", "completion: expected a string, found 5");
    refused(R"({"prompt": "a", "completion": ""})", "completion: expected text");
    refused(R"({"prompt": 5, "completion": "b"})", "prompt");
    refused(R"({"prompt": "a", "stop": )" + std::string(100000, '[') + std::string(100000, ']') + "}", "stop");
    CHECK(contains(parse_request({7, "{}", true}).error, "longer than"));
  }

  TEST_CASE("blank lines are no requests") {
    const TemporaryFolder folder;
    write_bytes(folder / "r", "\n  \r\n{\"prompt\": \"a\"}\nbad\n\n");
    LineReader lines(folder / "r");
    CHECK(next_request(lines)->line == 3);
    CHECK(contains(next_request(lines)->error, "line 4"));
    CHECK_FALSE(next_request(lines).has_value());
  }

  TEST_CASE("answers are one line of JSON, whatever is in them") {
    const Answer answer{"\"q\"", "a\nb \xff", {1, 2}, "stop", 0.25, 0.125, 1.5, 2.5};
    const std::string line = json_of(answer);
    CHECK(line.find('\n') == std::string::npos);
    const auto json = nlohmann::json::parse(line);
    CHECK(json["id"] == "q");
    CHECK(json["text"] == "a\nb \xef\xbf\xbd");
    CHECK(json["tokens"] == std::vector<int>{1, 2});
    CHECK(json["finish_reason"] == "stop");
    CHECK(json["budget"] == 0.25);
    CHECK(json["kept"] == 0.125);
    CHECK(json["prefill_ms"] == 1.5);
    CHECK(json["decode_ms_per_token"] == 2.5);
    CHECK(json_of_error("3", "line 4: bad") == R"({"id":3,"error":"line 4: bad"})");
  }

  TEST_CASE("an output file is continued after its last whole answer") {
    const TemporaryFolder folder;
    const std::string path = folder / "a.jsonl";
    CHECK(resume_answers(path).empty());
    {
      LineWriter writer(path, {});
      writer.write(json_of({"\"x\"", "one", {}, "stop"}));
      writer.write(json_of_error("5", "bad"));
    }
    const std::string whole = read_bytes(path);
    const std::set<std::string> both = {"\"x\"", "5"};
    CHECK(resume_answers(path) == both);
    const std::string third = json_of({"6", "two", {}, "stop"});
    for (size_t n = 1; n <= third.size(); ++n) {
      write_bytes(path, whole + third.substr(0, n));
      CHECK(resume_answers(path) == both);
      CHECK(read_bytes(path) == whole);
    }
    LineWriter(path, {.resume = true}).write(third);
    CHECK(read_bytes(path) == whole + third + "\n");
  }

  TEST_CASE("a file that holds something else is neither continued nor cut nor replaced") {
    const TemporaryFolder folder;
    for (const char* other : {"notes", "notes\nmore", "{\"id\": 1}\nnotes\n", "{}\n", "{\"id\": {}}\n{"}) {
      write_bytes(folder / "o", other);
      CHECK(contains(error_of([&] { resume_answers(folder / "o"); }), "not an answer"));
      CHECK(contains(error_of([&] { LineWriter(folder / "o", {}); }), "--force"));
      CHECK(read_bytes(folder / "o") == other);
    }
    LineWriter(folder / "o", {.force = true}).write("x");
    CHECK(read_bytes(folder / "o") == "x\n");
    CHECK(contains(error_of([] { resume_answers("-"); }), "output file"));
    CHECK(contains(error_of([] { LineWriter("/dev/full", {.resume = true}).write("x"); }), "No space"));
  }
}
