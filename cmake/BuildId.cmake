# Writes FOLDER/build_id.h: BUILD_TYPE, and a fingerprint of it, csrc/ and build_values.h (compiler, options, patches).
# The fingerprint depends on no time and no path, so that two builds of the same sources have the same one.

get_filename_component(root "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
file(GLOB_RECURSE sources RELATIVE "${root}" "${root}/csrc/*.cpp" "${root}/csrc/*.h")
list(SORT sources)
file(SHA256 "${FOLDER}/build_values.h" all)
string(APPEND all " ${BUILD_TYPE}")
foreach(source IN LISTS sources)
    file(SHA256 "${root}/${source}" hash)
    string(APPEND all " ${source} ${hash}")
endforeach()
string(SHA256 id "${all}")
string(SUBSTRING "${id}" 0 12 id)
file(CONFIGURE OUTPUT "${FOLDER}/build_id.h" @ONLY CONTENT
"#pragma once

#define METADEPLOY_BUILD_ID \"@id@\"
#define METADEPLOY_BUILD_TYPE \"@BUILD_TYPE@\"
")
