# The pinned llama.cpp (vendor/README.md): unpacked, patched and added as static libraries.
# Sets LLAMA_CPP_DIR, and METADEPLOY_OPTIONS for BuildInfo.cmake. Targets: llama, ggml, llama-common.

set(LLAMA_CPP_DIR "${CMAKE_CURRENT_SOURCE_DIR}/vendor/llama.cpp")

file(GLOB patches CONFIGURE_DEPENDS vendor/patches/*.patch)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS vendor/unpack.py vendor/patching.py ${patches})
execute_process(
    COMMAND "${Python_EXECUTABLE}" "${CMAKE_CURRENT_SOURCE_DIR}/vendor/unpack.py"
    RESULT_VARIABLE unpack_result
    ERROR_VARIABLE unpack_error)
if(NOT unpack_result EQUAL 0)
    message(FATAL_ERROR "The llama.cpp source is not ready.\n${unpack_error}")
endif()

# --- what may be chosen, by the names that llama.cpp gives it (GGML_CUDA, GGML_VULKAN, GGML_METAL ... as well) ---

if(METADEPLOY_PORTABLE)
    # One binary without side libraries, so no choice among CPU variants at run time (GGML_CPU_ALL_VARIANTS needs
    # shared backends). x86-64-v3 (Haswell, Zen and later) is what ggml's kernels are written for.
    option(GGML_NATIVE "ggml: optimize the build for the current system" OFF)
    foreach(feature IN ITEMS SSE42 AVX AVX2 BMI2 FMA F16C)
        option(GGML_${feature} "ggml: enable ${feature}" ON)
    endforeach()
    option(LLAMA_OPENSSL "llama: use openssl to support HTTPS" OFF)
else()
    # for `-hf`; llama.cpp's own default warns where there is none
    find_package(OpenSSL 3 QUIET)
    option(LLAMA_OPENSSL "llama: use openssl to support HTTPS" "${OPENSSL_FOUND}")
endif()

# OpenMP's threads spin while they wait for each other: beside one other busy process an answer then stalls for a large
# part of a second now and then. They do not survive a fork either. ggml's own thread pool is as fast on a quiet machine.
option(GGML_OPENMP "ggml: use OpenMP" OFF)

# --- what metadeploy needs to be so ---

function(metadeploy_add_llama_cpp)
    set(BUILD_SHARED_LIBS OFF)
    set(GGML_BACKEND_DL OFF)
    set(GGML_CCACHE OFF) # done in the top-level file, for everything
    set(LLAMA_BUILD_COMMON ON)
    foreach(part IN ITEMS TESTS TOOLS EXAMPLES SERVER APP UI MTMD)
        set(LLAMA_BUILD_${part} OFF)
    endforeach()
    # else taken from git, which would find metadeploy's own repository and compile anew after every commit
    set(LLAMA_BUILD_NUMBER 0)
    set(LLAMA_BUILD_COMMIT "metadeploy-${PROJECT_VERSION}")
    set(GIT_EXE OFF)
    # nobody here can act on a warning in vendored code
    set(no_warnings -w)
    if(MSVC)
        set(no_warnings /w)
    endif()
    set(LLAMA_ALL_WARNINGS OFF)
    foreach(language IN ITEMS C CXX)
        string(APPEND CMAKE_${language}_FLAGS " ${no_warnings}")
    endforeach()
    if("address" IN_LIST METADEPLOY_SANITIZE)
        # containers cross the border between the two, so both sides have to agree
        set(LLAMA_SANITIZE_ADDRESS ON)
        set(GGML_SANITIZE_ADDRESS ON)
    endif()
    if("thread" IN_LIST METADEPLOY_SANITIZE)
        # ThreadSanitizer has to see the synchronisation of llama.cpp's threads
        set(LLAMA_SANITIZE_THREAD ON)
        set(GGML_SANITIZE_THREAD ON)
        set(GGML_OPENMP OFF) # its library is not instrumented
    endif()
    # EXCLUDE_FROM_ALL keeps its install rules out of the wheel too
    add_subdirectory("${LLAMA_CPP_DIR}" "${CMAKE_CURRENT_BINARY_DIR}/llama.cpp" EXCLUDE_FROM_ALL SYSTEM)
    metadeploy_read_ggml_options()
    set(METADEPLOY_OPTIONS "${METADEPLOY_OPTIONS}" PARENT_SCOPE)
endfunction()

metadeploy_add_llama_cpp()
