/* all.h - the table of codecs, in the order of documentation: a row each, X(name), the name of its file.
 * Included wherever a list is made of them, with X defined there. */
X(f32)
X(bf16)
X(int8)
X(topk)
X(sign)
