# Collects the build information that the program and the extension report (csrc/build_info.h).

# Sets METADEPLOY_OPTIONS: ggml's switches, e.g. GGML_NATIVE=ON;GGML_CUDA=OFF, without those of disabled backends and
# other processors. Call it in the scope that added ggml: some switches are plain variables there, not in the cache.
function(metadeploy_read_ggml_options)
    get_cmake_property(names VARIABLES)
    list(FILTER names INCLUDE REGEX "^GGML_[A-Z0-9_]+$")
    list(FILTER names EXCLUDE REGEX "WARNINGS|CCACHE|_BUILD_|STANDALONE|SHARED_LIB|DEBUG|VALIDATE|DEFAULT$")
    if(NOT APPLE)
        list(FILTER names EXCLUDE REGEX "ACCELERATE")
    endif()
    if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "riscv|loongarch|s390x")
        list(FILTER names EXCLUDE REGEX "^GGML_(RV|LASX|LSX|VXE|XTHEADVECTOR)")
    endif()
    list(SORT names)
    list(REMOVE_DUPLICATES names)
    set(options)
    foreach(name IN LISTS names)
        string(REGEX MATCH "^GGML_[A-Z0-9]+" parent "${name}")
        if(NOT parent STREQUAL name AND DEFINED "${parent}" AND NOT "${${parent}}")
            continue()
        endif()
        if("${${name}}" MATCHES "^([Oo][Nn]|TRUE|YES|1)$")
            list(APPEND options "${name}=ON")
        elseif("${${name}}" MATCHES "^([Oo][Ff][Ff]|FALSE|NO|0)$")
            list(APPEND options "${name}=OFF")
        endif()
    endforeach()
    set(METADEPLOY_OPTIONS "${options}" PARENT_SCOPE)
endfunction()

# Sets METADEPLOY_LLAMA_CPP and METADEPLOY_PATCHES from the stamp that vendor/unpack.py leaves.
function(metadeploy_read_llama_cpp)
    set(stamp "${LLAMA_CPP_DIR}/.metadeploy-stamp.json")
    set(source "a tree of your own")
    set(patches)
    if(EXISTS "${stamp}")
        file(READ "${stamp}" stamp)
        string(JSON source GET "${stamp}" archive)
        string(REGEX REPLACE "\\.tar\\.gz$" "" source "${source}")
        string(JSON last LENGTH "${stamp}" patches)
        math(EXPR last "${last} - 1")
        foreach(i RANGE ${last})
            string(JSON name MEMBER "${stamp}" patches ${i})
            string(JSON hash GET "${stamp}" patches "${name}")
            string(REGEX REPLACE "\\.patch$" "" name "${name}")
            string(SUBSTRING "${hash}" 0 8 hash)
            list(APPEND patches "${name}@${hash}")
        endforeach()
    endif()
    set(METADEPLOY_LLAMA_CPP "${source}" PARENT_SCOPE)
    set(METADEPLOY_PATCHES "${patches}" PARENT_SCOPE)
endfunction()

# Makes `target` compile build_info.cpp with this information and a fingerprint of its sources.
function(metadeploy_add_build_info target)
    metadeploy_read_llama_cpp()
    string(STRIP "${CMAKE_CXX_FLAGS}" METADEPLOY_FLAGS)
    set(folder "${CMAKE_CURRENT_BINARY_DIR}/build_info")
    configure_file("${PROJECT_SOURCE_DIR}/csrc/build_info.h.in" "${folder}/build_values.h" @ONLY)
    file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/csrc/*.cpp" "${PROJECT_SOURCE_DIR}/csrc/*.h")
    add_custom_command(
        OUTPUT "${folder}/build_id.h"
        COMMAND "${CMAKE_COMMAND}" "-DFOLDER=${folder}" "-DBUILD_TYPE=$<CONFIG>"
            -P "${PROJECT_SOURCE_DIR}/cmake/BuildId.cmake"
        DEPENDS ${sources} "${folder}/build_values.h" "${PROJECT_SOURCE_DIR}/cmake/BuildId.cmake"
        COMMENT "Fingerprint of this build"
        VERBATIM)
    target_sources(${target} PRIVATE "${PROJECT_SOURCE_DIR}/csrc/build_info.cpp" "${folder}/build_id.h")
    target_include_directories(${target} PRIVATE "${folder}")
endfunction()
