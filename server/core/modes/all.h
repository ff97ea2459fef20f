/* all.h - the table of modes: a row each, X(name), the name of its file. Included wherever a list is made of them, with X
 * defined there. */
X(bsp)
X(asp)
