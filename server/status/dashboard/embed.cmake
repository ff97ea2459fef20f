# embed.cmake - a file as a C array: cmake -DIN=file.gz -DOUT=file.c -DNAME=psd_asset_js -P embed.cmake
file(READ ${IN} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "\\1\n" bytes "${bytes}")
file(WRITE ${OUT} "#include \"server/status/asset.h\"\n\nstatic const unsigned char bytes[] = {\n${bytes}\n};\n\n\
const psd_asset_t ${NAME} = { bytes, sizeof bytes };\n")
