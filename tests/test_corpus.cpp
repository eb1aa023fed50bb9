// Tests of reading the fixed text: files, folders, links, what is left out and what is refused.
#include "formats/corpus.hpp"

#include <unistd.h>

#include "tests/made_files.hpp"

using namespace squeeze;

namespace {

std::string names_of(const std::vector<SourceText>& texts, const TemporaryFolder& folder) {
  std::string names;
  for (const SourceText& text : texts) names += text.name.substr(folder.path().size() + 1) + " ";
  return names;
}

}  // namespace

TEST_SUITE("corpus") {
  TEST_CASE("files in the order given, every byte of them") {
    const TemporaryFolder folder;
    write_bytes(folder / "b.txt", "zwei\r\n\n");
    write_bytes(folder / "a.txt", "naïve 漢字 🙂");
    const auto texts = read_context({folder / "b.txt", folder / "a.txt"});
    REQUIRE(texts.size() == 2);
    CHECK(texts[0].name == folder / "b.txt");
    CHECK(texts[0].text == "zwei\r\n\n");
    CHECK(texts[1].text == "naïve 漢字 🙂");
  }

  TEST_CASE("a folder gives its text files, sorted; hidden and binary files and odd entries are left out") {
    const TemporaryFolder folder;
    std::filesystem::create_directories(folder / "t/sub/.git");
    write_bytes(folder / "t/z.txt", "z");
    write_bytes(folder / "t/a.md", "a");
    write_bytes(folder / "t/empty", "");
    write_bytes(folder / "t/sub/m.c", "m");
    write_bytes(folder / "t/sub/.git/config", "hidden");
    write_bytes(folder / "t/.hidden", "hidden");
    write_bytes(folder / "t/image", std::string("\x89PNG\0\xff", 6));
    write_bytes(folder / "t/late_nul", std::string(2000, 'x') + '\0');
    std::filesystem::create_symlink(folder / "t", folder / "t/sub/loop");
    std::filesystem::create_symlink("nowhere", folder / "t/dangling");
    std::filesystem::create_symlink("self", folder / "t/self");
    std::filesystem::create_symlink("z.txt", folder / "t/link");
    CHECK(names_of(read_context({folder / "t"}), folder) == "t/a.md t/empty t/late_nul t/link t/sub/m.c t/z.txt ");
  }

  TEST_CASE("one text: every byte of a file; empty, missing and non-UTF-8 ones are refused") {
    const TemporaryFolder folder;
    write_bytes(folder / "a.txt", "naïve\r\n");
    write_bytes(folder / "empty", "");
    write_bytes(folder / "latin1", "caf\xe9");
    CHECK(read_document(folder / "a.txt") == "naïve\r\n");
    CHECK(contains(error_of([&] { read_document(folder / "empty"); }), "empty"));
    CHECK(contains(error_of([&] { read_document(folder / "gone"); }), "No such file"));
    CHECK(contains(error_of([&] { read_document(folder / "."); }), "directory"));
    CHECK(contains(error_of([&] { read_document(folder / "latin1"); }), "offset 3"));
  }

  TEST_CASE("empty, missing and non-UTF-8 contexts are refused, with the reason") {
    const TemporaryFolder folder;
    std::filesystem::create_directory(folder / "none");
    write_bytes(folder / "empty", "");
    write_bytes(folder / "latin1", "caf\xe9 au lait");
    CHECK(contains(error_of([&] { read_context({}); }), "no context"));
    CHECK(contains(error_of([&] { read_context({folder / "gone"}); }), "No such file"));
    CHECK(contains(error_of([&] { read_context({folder / "none"}); }), "no text files"));
    CHECK(contains(error_of([&] { read_context({folder / "empty"}); }), "empty"));
    CHECK(contains(error_of([&] { read_context({folder / "latin1"}); }), "not UTF-8 at byte 3"));
  }

  TEST_CASE("standard input is read once") {
    const TemporaryFolder folder;
    write_bytes(folder / "in", "from a pipe");
    const int saved = ::dup(STDIN_FILENO);
    REQUIRE(std::freopen((folder / "in").c_str(), "rb", stdin) != nullptr);
    const auto texts = read_context({"-"});
    CHECK(contains(error_of([&] { read_context({"-", "-"}); }), "twice"));
    ::dup2(saved, STDIN_FILENO);
    ::close(saved);
    REQUIRE(texts.size() == 1);
    CHECK(texts[0].name == "-");
    CHECK(texts[0].text == "from a pipe");
  }
}
