// SHA-256 by OpenSSL.
#include "formats/sha256.hpp"

#include <openssl/evp.h>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

void check(int status) {
  if (status != 1) fail("OpenSSL could not compute a SHA-256");
}

}  // namespace

struct Sha256::Impl {
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context{EVP_MD_CTX_new()};
};

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {
  check(impl_->context ? EVP_DigestInit_ex(impl_->context.get(), EVP_sha256(), nullptr) : 0);
}

Sha256::~Sha256() = default;

void Sha256::add(std::string_view bytes) { check(EVP_DigestUpdate(impl_->context.get(), bytes.data(), bytes.size())); }

std::string Sha256::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int n = 0;
  check(EVP_DigestFinal_ex(impl_->context.get(), digest, &n));
  std::string text;
  for (unsigned int i = 0; i < n; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

}  // namespace squeeze
