# Finds CUDA as SQUEEZE_CUDA asks: AUTO uses a toolkit that works if there is one, ON fails without, OFF does not look.
# Sets SQUEEZE_HAS_CUDA.
set(SQUEEZE_HAS_CUDA OFF)
if(NOT SQUEEZE_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "SQUEEZE_CUDA must be AUTO, ON or OFF, found '${SQUEEZE_CUDA}'")
endif()

if(NOT SQUEEZE_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    find_package(CUDAToolkit 11.8 QUIET)  # the first one for Hopper
  endif()
  if(CMAKE_CUDA_COMPILER AND TARGET CUDA::cudart_static)
    # Machine code for Ampere and Ada (8.6 and 8.9 run that of 8.0) and for Hopper, PTX for what comes after; override
    # with -DCMAKE_CUDA_ARCHITECTURES=...
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES "80-real;90")
    endif()
    enable_language(CUDA)
    set(CMAKE_CUDA_STANDARD 17)
    set(SQUEEZE_HAS_CUDA ON)
    message(STATUS "CUDA backend: on (${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION})")
  elseif(SQUEEZE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SQUEEZE_CUDA=ON, but no working CUDA toolkit (11.8 or later) was found: put nvcc in PATH, set "
                        "CUDACXX to it, or configure with -DSQUEEZE_CUDA=OFF")
  else()
    message(STATUS "CUDA backend: off (no nvcc 11.8 or later)")
  endif()
endif()
