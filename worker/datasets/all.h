/* all.h - the table of readers, in the order of documentation: a row each, X(name), the name of its file.
 * Included wherever a list is made of them, with X defined there. */
X(idx)
X(libsvm)
X(csv)
X(vw)
X(criteo)
X(npy)
X(glyphs)
