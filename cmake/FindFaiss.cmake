# Finds Faiss (Debian: libfaiss-dev), which installs no CMake package there. Target: Faiss::Faiss.
find_path(FAISS_INCLUDE_DIR faiss/Clustering.h)
find_library(FAISS_LIBRARY faiss)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Faiss REQUIRED_VARS FAISS_LIBRARY FAISS_INCLUDE_DIR)
if(Faiss_FOUND AND NOT TARGET Faiss::Faiss)
  add_library(Faiss::Faiss UNKNOWN IMPORTED)
  set_target_properties(Faiss::Faiss PROPERTIES IMPORTED_LOCATION "${FAISS_LIBRARY}"
                        INTERFACE_INCLUDE_DIRECTORIES "${FAISS_INCLUDE_DIR}"
                        INTERFACE_LINK_LIBRARIES "lapack;blas;OpenMP::OpenMP_CXX")
endif()
mark_as_advanced(FAISS_INCLUDE_DIR FAISS_LIBRARY)
