// Made-up contexts of any length in which it is known what each query looks for.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "lib/core/tensor.hpp"

namespace squeeze {

struct PlantedContext {
  Tensor keys;                                // bf16 [1, n_tokens, dim]
  Tensor queries;                             // f32 [n_queries, dim]
  std::vector<std::vector<int32_t>> planted;  // [n_queries] the tokens that matter to each, none pinned
};

// What is planted, whatever the length.
struct PlantedShape {
  int64_t n_tokens = 0;
  int64_t dim = 64;
  int64_t n_questions = 16;          // each about one subtopic, with its own planted keys
  int64_t queries_per_question = 4;  // around the question
  int64_t n_planted = 64;            // keys around a question, among the tokens of its topic
  float norm = 12;                   // of keys and queries: with a scale of 1/8 logits reach 18
  float common = 0;                  // norm of a vector that all keys have in common; it changes no attention
  int64_t n_sinks = 4, n_window = 100;
};

// A text of passages of 64 tokens, each about one of 16 subtopics of a topic; there is a topic per 1024 tokens and
// passages come in random order, so that a topic is spread over the whole context.
class PlantedKeys {
 public:
  explicit PlantedKeys(const PlantedShape& shape, unsigned seed = 1) : shape_(shape), random_(seed) {}

  PlantedContext make() {
    draw_topics();
    common_ = near({}, 1.0f);
    const Shape queries_shape{shape_.n_questions * shape_.queries_per_question, shape_.dim};
    PlantedContext context{
        Tensor(DType::bf16, {1, shape_.n_tokens, shape_.dim}), Tensor(DType::f32, queries_shape), {}};
    for (int64_t token = 0; token < shape_.n_tokens; ++token) {
      store_key(context, token, near(subtopics_[subtopic_of(token)], 1.0f));
    }
    for (int64_t question = 0; question < shape_.n_questions; ++question) ask(context, question);
    return context;
  }

 private:
  using Direction = std::vector<float>;
  static constexpr int64_t kPassage = 64, kSubtopics = 16, kTopicTokens = 1024;

  // The direction of centre + spread * noise, both of unit length; without a centre any direction.
  Direction near(const Direction& centre, float spread) {
    Direction out(static_cast<size_t>(shape_.dim));
    const float noise = spread / std::sqrt(static_cast<float>(shape_.dim));
    float squares = 0;
    for (size_t c = 0; c < out.size(); ++c) {
      out[c] = (centre.empty() ? 0.0f : centre[c]) + noise * normal_(random_);
      squares += out[c] * out[c];
    }
    for (float& x : out) x /= std::sqrt(squares);
    return out;
  }

  void draw_topics() {
    const int64_t n_topics = std::max<int64_t>(1, shape_.n_tokens / kTopicTokens);
    for (int64_t topic = 0; topic < n_topics; ++topic) {
      const Direction centre = near({}, 1.0f);
      for (int64_t i = 0; i < kSubtopics; ++i) subtopics_.push_back(near(centre, 0.7f));
    }
    const int64_t n_passages = (shape_.n_tokens + kPassage - 1) / kPassage;
    for (int64_t i = 0; i < n_passages; ++i) passages_.push_back(static_cast<size_t>(i) % subtopics_.size());
    std::shuffle(passages_.begin(), passages_.end(), random_);
  }

  size_t subtopic_of(int64_t token) const { return passages_[static_cast<size_t>(token / kPassage)]; }

  // Plants the question's keys among the clustered tokens of its topic and draws its queries.
  void ask(PlantedContext& context, int64_t question) {
    const size_t subtopic = random_() % subtopics_.size();
    const Direction centre = near(subtopics_[subtopic], 0.5f);
    std::vector<int32_t> tokens;
    for (int64_t token = shape_.n_sinks; token < shape_.n_tokens - shape_.n_window; ++token) {
      if (subtopic_of(token) / kSubtopics == subtopic / kSubtopics) tokens.push_back(static_cast<int32_t>(token));
    }
    std::shuffle(tokens.begin(), tokens.end(), random_);
    tokens.resize(std::min(tokens.size(), static_cast<size_t>(shape_.n_planted)));
    for (const int32_t token : tokens) store_key(context, token, near(centre, 0.8f));
    for (int64_t i = 0; i < shape_.queries_per_question; ++i) {
      const Direction query = near(centre, 0.6f);
      for (int64_t c = 0; c < shape_.dim; ++c) {
        context.queries.f32()[(question * shape_.queries_per_question + i) * shape_.dim + c] =
            shape_.norm * query[static_cast<size_t>(c)];
      }
      context.planted.push_back(tokens);
    }
  }

  void store_key(PlantedContext& context, int64_t token, const Direction& direction) {
    for (int64_t c = 0; c < shape_.dim; ++c) {
      const auto at = static_cast<size_t>(c);
      store_element(context.keys.data(), DType::bf16, token * shape_.dim + c,
                    shape_.norm * direction[at] + shape_.common * common_[at]);
    }
  }

  PlantedShape shape_;
  std::mt19937 random_;
  std::normal_distribution<float> normal_;
  Direction common_;
  std::vector<Direction> subtopics_;  // 16 per topic, one topic after the other
  std::vector<size_t> passages_;      // their subtopics
};

}  // namespace squeeze
