# The files of `cmake --install`, in four components, which are also the packages: server, library, development, python.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# All that is installed, and no test.
add_custom_target(product DEPENDS psd psd-worker psdctl psdworker psd_pages)
install(TARGETS psd psd-worker psdctl COMPONENT server)
install(TARGETS psdworker EXPORT psd
  LIBRARY COMPONENT library NAMELINK_COMPONENT development
  FILE_SET HEADERS COMPONENT development)

# For pkg-config. There are no private requirements: there is no static library, and the header includes no other library's headers.
configure_file(${CMAKE_CURRENT_LIST_DIR}/psd-worker.pc.in ${CMAKE_BINARY_DIR}/psd-worker.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/psd-worker.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)

# The Python package, where Debian's interpreter looks when the prefix is /usr.
set(PSD_PYTHON_DIR lib/python3/dist-packages CACHE STRING "Where the Python package goes, below the prefix")
install(DIRECTORY worker/python/psd DESTINATION ${PSD_PYTHON_DIR} COMPONENT python
  FILES_MATCHING PATTERN "*.py" PATTERN "py.typed" PATTERN "__pycache__" EXCLUDE)
configure_file(${CMAKE_CURRENT_LIST_DIR}/debian/PKG-INFO.in ${CMAKE_BINARY_DIR}/psd.egg-info @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/psd.egg-info RENAME psd-${PROJECT_VERSION}.egg-info DESTINATION ${PSD_PYTHON_DIR} COMPONENT python)
install(DIRECTORY deploy/examples/python/ DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/python3-psd/examples COMPONENT python)

# For find_package(psd), which gives psd::worker.
set(config ${CMAKE_INSTALL_LIBDIR}/cmake/psd)
install(EXPORT psd NAMESPACE psd:: FILE psdConfig.cmake DESTINATION ${config} COMPONENT development)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/psdConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/psdConfigVersion.cmake DESTINATION ${config} COMPONENT development)

# Manual pages and completions. Each completion serves three commands, and bash looks for a file by the command's name.
install(DIRECTORY ${CMAKE_BINARY_DIR}/man/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT server FILES_MATCHING PATTERN "*.1.gz")
install(DIRECTORY ${CMAKE_BINARY_DIR}/man/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man5 COMPONENT server FILES_MATCHING PATTERN "*.5.gz")
install(DIRECTORY ${CMAKE_BINARY_DIR}/man/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man8 COMPONENT server FILES_MATCHING PATTERN "*.8.gz")
install(DIRECTORY ${CMAKE_BINARY_DIR}/man/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man3 COMPONENT development FILES_MATCHING PATTERN "*.3.gz")
foreach(command IN ITEMS ${PSD_PROGRAM_NAME} psd-worker psdctl)
  install(FILES ${CMAKE_BINARY_DIR}/completions/psdctl RENAME ${command}
    DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions COMPONENT server)
endforeach()
install(FILES ${CMAKE_BINARY_DIR}/completions/_psd-server
  DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions COMPONENT server)

# Units, with the programs' true place.
foreach(unit IN ITEMS psd psd-worker)
  string(REGEX REPLACE "^psd$" "${PSD_PROGRAM_NAME}" name ${unit})
  file(READ ${CMAKE_SOURCE_DIR}/deploy/systemd/${unit}@.service text)
  string(REPLACE "/usr/bin/${unit} " "${CMAKE_INSTALL_FULL_BINDIR}/${name} " text "${text}")
  file(WRITE ${CMAKE_BINARY_DIR}/${name}@.service.new "${text}")
  configure_file(${CMAKE_BINARY_DIR}/${name}@.service.new ${CMAKE_BINARY_DIR}/${name}@.service COPYONLY)
  install(FILES ${CMAKE_BINARY_DIR}/${name}@.service DESTINATION lib/systemd/system COMPONENT server)
endforeach()

# Documentation and examples.
set(doc ${CMAKE_INSTALL_DATADIR}/doc/psd-server)
install(FILES README.md CHANGELOG.md SECURITY.md proto/PROTOCOL.md DESTINATION ${doc} COMPONENT server)
install(DIRECTORY docs DESTINATION ${doc} COMPONENT server PATTERN draw EXCLUDE)
install(FILES deploy/examples/agaricus.yaml deploy/examples/compare-glyphs.yaml deploy/examples/compare-mnist.yaml
  deploy/examples/glyphs.yaml deploy/examples/linear.csv deploy/examples/linear.yaml deploy/examples/mnist.yaml
  DESTINATION ${doc}/examples COMPONENT server)
install(FILES deploy/prometheus/psd.rules.yml deploy/prometheus/scrape.yml deploy/grafana/psd.json
  DESTINATION ${doc}/monitoring COMPONENT server)

# Packages for Debian, by `cpack` in a tree that was configured with the preset "package".
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME psd)
set(CPACK_PACKAGE_CONTACT "psd maintainers <psd@psd.invalid>")
set(CPACK_PACKAGING_INSTALL_PREFIX ${CMAKE_INSTALL_PREFIX})
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL server library development python)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${CMAKE_BINARY_DIR}/worker)
set(CPACK_DEBIAN_SERVER_PACKAGE_NAME psd-server)
set(CPACK_DEBIAN_SERVER_PACKAGE_SECTION science)
set(CPACK_DEBIAN_SERVER_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_SERVER_PACKAGE_DEPENDS libopenblas0) # which worker/blas.c loads by name
if(PSD_PROGRAM_NAME STREQUAL "psd")
  set(CPACK_DEBIAN_SERVER_PACKAGE_CONFLICTS profile-sync-daemon) # it also installs a program psd
endif()
set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME libpsdworker0)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SHLIBDEPS ON)
configure_file(deploy/debian/libpsdworker0.symbols ${CMAKE_BINARY_DIR}/debian/symbols COPYONLY)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_CONTROL_EXTRA ${CMAKE_BINARY_DIR}/debian/symbols
  ${CMAKE_SOURCE_DIR}/deploy/debian/shlibs ${CMAKE_SOURCE_DIR}/deploy/debian/triggers)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_MULTIARCH same)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libpsdworker-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS "libpsdworker0 (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_PYTHON_PACKAGE_NAME python3-psd)
set(CPACK_DEBIAN_PYTHON_PACKAGE_SECTION python)
set(CPACK_DEBIAN_PYTHON_PACKAGE_ARCHITECTURE all)
set(CPACK_DEBIAN_PYTHON_PACKAGE_DEPENDS "python3, python3-numpy, libpsdworker0 (>= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_PYTHON_PACKAGE_RECOMMENDS psd-server)
set(CPACK_DEBIAN_PYTHON_PACKAGE_SUGGESTS python3-torch)
set(CPACK_DEBIAN_PYTHON_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/deploy/debian/postinst ${CMAKE_SOURCE_DIR}/deploy/debian/prerm)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "trains models in parallel with a parameter server")
set(about "Workers compute gradients, servers share the weights, run the optimizer
and send the new weights back.")
set(CPACK_COMPONENT_SERVER_DESCRIPTION "${about} This package has the server, the
built-in trainer, psdctl for operators, and units for systemd.")
set(CPACK_COMPONENT_LIBRARY_DESCRIPTION "${about} This package has the library
that a training loop of your own links.")
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION "${about} This package has what
compiling a training loop of your own takes.")
set(CPACK_COMPONENT_PYTHON_DESCRIPTION "${about} This package is for
programs in Python: PyTorch's models, and arrays of numpy and others.")

# Debian's files in each package: copyright and changelog.
string(TIMESTAMP date "%a, %d %b %Y %H:%M:%S +0000" UTC)
configure_file(${CMAKE_CURRENT_LIST_DIR}/debian/changelog.in ${CMAKE_BINARY_DIR}/debian/changelog @ONLY)
find_program(GZIP gzip REQUIRED)
execute_process(COMMAND ${GZIP} -9nkf ${CMAKE_BINARY_DIR}/debian/changelog COMMAND_ERROR_IS_FATAL ANY)
foreach(component IN LISTS CPACK_COMPONENTS_ALL)
  string(TOUPPER ${component} id)
  set(doc ${CMAKE_INSTALL_DATADIR}/doc/${CPACK_DEBIAN_${id}_PACKAGE_NAME})
  install(FILES deploy/debian/copyright DESTINATION ${doc} COMPONENT ${component})
  install(FILES ${CMAKE_BINARY_DIR}/debian/changelog.gz DESTINATION ${doc} COMPONENT ${component})
endforeach()
install(FILES deploy/debian/libpsdworker0.lintian-overrides RENAME libpsdworker0
  DESTINATION ${CMAKE_INSTALL_DATADIR}/lintian/overrides COMPONENT library)
include(CPack)
