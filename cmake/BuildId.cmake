# Writes FOLDER/build_id.h: a fingerprint of csrc/ and of all that build_values.h says (compiler, options, patches), and
# BUILD_TYPE. No time and no path: two builds of the same are the same.

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
