# Fails if an object compiled for AVX defines a weak symbol: the linker could pick that copy for code that runs on a
# machine without AVX. Called with -DNM=<nm> -DOBJECTS=<list of object files>.
foreach(object IN LISTS OBJECTS)
  if(object MATCHES "(avx[0-9]+|amx)\\.cpp")
    execute_process(COMMAND ${NM} --defined-only ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
    if(symbols MATCHES " [WwVvu] ")
      message(FATAL_ERROR "${object} defines weak symbols; move what they belong to into an anonymous namespace:\n${symbols}")
    endif()
    math(EXPR n_checked "${n_checked} + 1")
  endif()
endforeach()
if(NOT n_checked)
  message(FATAL_ERROR "no AVX object among: ${OBJECTS}")
endif()
