// RoPE frequencies: laws of each scaling kind (agreement with transformers is in test_transformer).
#include "lib/model/rope.hpp"

#include <doctest/doctest.h>

#include <cmath>

namespace squeeze {
namespace {

constexpr int kDim = 64;

std::vector<float> plain(double theta = 10000) { return Rope({.theta = theta}, kDim).inverse_frequencies(); }

// float32 values of size `scale`
doctest::Approx rounded(double value) { return doctest::Approx(value).epsilon(1e-6); }

}  // namespace

TEST_SUITE("rope") {
  TEST_CASE("plain frequencies are theta^(-2i/d)") {
    const std::vector<float> frequencies = plain();
    REQUIRE(frequencies.size() == kDim / 2);
    CHECK(frequencies[0] == 1);
    for (size_t i = 0; i < frequencies.size(); ++i) {
      CHECK(frequencies[i] == rounded(std::pow(10000.0, -2.0 * static_cast<double>(i) / kDim)));
    }
  }

  TEST_CASE("angles are cosine and sine of position times frequency") {
    const Rope rope({}, kDim);
    float cosines[kDim / 2], sines[kDim / 2];
    rope.angles(1000, cosines, sines);
    for (size_t i = 0; i < kDim / 2; ++i) {
      const float angle = 1000.0f * rope.inverse_frequencies()[i];
      CHECK(std::abs(cosines[i] - std::cos(double{angle})) < 1e-6);
      CHECK(std::abs(sines[i] - std::sin(double{angle})) < 1e-6);
    }
  }

  TEST_CASE("linear divides every frequency by the factor") {
    const Rope rope({.scaling = RopeScaling::linear, .factor = 8}, kDim);
    for (size_t i = 0; i < kDim / 2; ++i) CHECK(rope.inverse_frequencies()[i] == plain()[i] / 8);
  }

  TEST_CASE("dynamic is plain up to the trained length, grows beyond it and never shrinks") {
    Rope rope({.scaling = RopeScaling::dynamic, .factor = 2, .original_positions = 100}, kDim);
    CHECK(rope.inverse_frequencies() == plain());
    rope.set_sequence_length(100);
    CHECK(rope.inverse_frequencies() == plain());
    rope.set_sequence_length(300);  // stretch: 2 * 300 / 100 - 1
    const std::vector<float> grown = rope.inverse_frequencies();
    CHECK(grown == plain(10000 * std::pow(5.0, kDim / (kDim - 2.0))));
    rope.set_sequence_length(200);
    CHECK(rope.inverse_frequencies() == grown);
    CHECK(rope.sequence_length() == 300);
  }

  TEST_CASE("llama3 keeps short wavelengths, divides long ones, and is monotone between") {
    const RopeConfig config{.scaling = RopeScaling::llama3,
                            .factor = 8,
                            .original_positions = 1024,
                            .low_freq_factor = 1,
                            .high_freq_factor = 4};
    const std::vector<float> scaled = Rope(config, kDim).inverse_frequencies();
    bool some_between = false;
    for (size_t i = 0; i < scaled.size(); ++i) {
      const double wavelength = 2 * M_PI / plain()[i];
      if (wavelength < 1024.0 / 4) CHECK(scaled[i] == plain()[i]);
      if (wavelength > 1024.0) CHECK(scaled[i] == plain()[i] / 8);
      if (wavelength > 257 && wavelength < 1023) {
        some_between = true;
        CHECK(scaled[i] < plain()[i]);
        CHECK(scaled[i] > plain()[i] / 8);
      }
    }
    CHECK(some_between);
  }

  TEST_CASE("yarn keeps high frequencies, divides low ones and scales attention") {
    const RopeConfig config{.scaling = RopeScaling::yarn, .factor = 4, .original_positions = 1024};
    const Rope rope(config, kDim);
    CHECK(rope.inverse_frequencies().front() == plain().front());
    CHECK(rope.inverse_frequencies().back() == rounded(plain().back() / 4.0));
    CHECK(rope.attention_factor() == rounded(0.1 * std::log(4.0) + 1));
    float cosines[kDim / 2], sines[kDim / 2];
    rope.angles(5, cosines, sines);
    CHECK(std::hypot(cosines[3], sines[3]) == rounded(rope.attention_factor()));

    RopeConfig explicit_factor = config;
    explicit_factor.attention_factor = 1.5;
    CHECK(Rope(explicit_factor, kDim).attention_factor() == 1.5f);
    RopeConfig equal_scales = config;
    equal_scales.mscale = equal_scales.mscale_all_dim = 0.7;
    CHECK(Rope(equal_scales, kDim).attention_factor() == 1);
  }

  TEST_CASE("a factor of one changes nothing") {
    for (const RopeScaling kind : {RopeScaling::linear, RopeScaling::llama3, RopeScaling::yarn}) {
      const std::vector<float> scaled =
          Rope({.scaling = kind, .factor = 1, .original_positions = 1024}, kDim).inverse_frequencies();
      for (size_t i = 0; i < scaled.size(); ++i) CHECK(scaled[i] == rounded(plain()[i]));
    }
  }
}

}  // namespace squeeze
