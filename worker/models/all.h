/* all.h - the table of models, in the order of documentation: a row each, X(name), the name of its file.
 * Included wherever a list is made of them, with X defined there. */
X(linear)
X(logistic)
X(softmax)
X(mlp)
