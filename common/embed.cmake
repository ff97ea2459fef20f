# embed.cmake - files that are built into a program (common/base/asset.h).
#
# psd_embed(NAME [GZIP] [CONFIGURE] FILE...) makes psd_asset_NAME of the files, one behind the other, and adds its source to
# the list `embedded`. GZIP: compressed. CONFIGURE: @VARIABLE@ stands for its value.
if(CMAKE_SCRIPT_MODE_FILE) # -DIN=file -DOUT=file.c -DNAME=psd_asset_name
  file(READ ${IN} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${hex}")
  string(REGEX REPLACE "('[^']*','[^']*','[^']*','[^']*','[^']*','[^']*','[^']*','[^']*','[^']*','[^']*',)" "\\1\n" bytes "${bytes}")
  file(WRITE ${OUT} "#include \"common/base/asset.h\"\n\nstatic const char bytes[] = {\n${bytes}'\\0'\n};\n\n\
const psd_asset_t ${NAME} = { bytes, sizeof bytes - 1 };\n")
  return()
endif()

find_program(GZIP gzip REQUIRED)
function(psd_embed name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "GZIP;CONFIGURE" "" "")
  set(out ${CMAKE_CURRENT_BINARY_DIR}/asset_${name})
  set(files)
  foreach(file IN LISTS ARG_UNPARSED_ARGUMENTS)
    get_filename_component(path ${file} ABSOLUTE)
    if(ARG_CONFIGURE)
      configure_file(${path} ${out}.in @ONLY)
      set(path ${out}.in)
    endif()
    list(APPEND files ${path})
  endforeach()
  set(pack true)
  if(ARG_GZIP)
    set(pack ${GZIP} -9nkf ${out})
    set(packed .gz)
  endif()
  set(script ${CMAKE_SOURCE_DIR}/common/embed.cmake)
  add_custom_command(OUTPUT ${out}.c
    COMMAND cat ${files} > ${out}
    COMMAND ${pack}
    COMMAND ${CMAKE_COMMAND} -DIN=${out}${packed} -DOUT=${out}.c -DNAME=psd_asset_${name} -P ${script}
    DEPENDS ${files} ${script} VERBATIM)
  set(embedded ${embedded} ${out}.c PARENT_SCOPE)
endfunction()
