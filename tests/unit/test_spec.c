#include <criterion/criterion.h>

#include "common/codec/codec.h"

/* Codecs as written in options. */

TestSuite(spec, .timeout = 600);

Test(spec, a_codec_prints_alike_however_it_was_written)
{
    static const struct {
        const char *written, *printed;
    } row[] = { { "f32", "f32" },        { " bf16 ", "bf16" },           { "int8", "int8" },
                { "sign", "sign" },      { "topk(0.01)", "topk(0.01)" }, { " topk ( 1.0e-2 ) ", "topk(0.01)" },
                { "topk(1)", "topk(1)" } };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char text[PSD_CODEC_TEXT];
        psd_coding_t coding;
        psd_err_t err = { .text = "" };
        cr_assert_eq(psd_coding_parse(&coding, row[i].written, &err), PSD_OK, "%s: %s", row[i].written, err.text);
        cr_expect_str_eq(psd_coding_print(&coding, text), row[i].printed);
    }
}

Test(spec, a_wrong_codec_is_refused_with_the_column_and_the_reason)
{
    static const struct {
        const char *spec, *sentence;
    } row[] = {
        { "", "codec, column 1: expected the name of a codec, found the end" },
        { "(", "codec, column 1: expected the name of a codec, found '('" },
        { "int9", "codec, column 1: unknown codec 'int9'; the nearest is 'int8'" },
        { "  zstandard", "codec, column 3: unknown codec 'zstandard'; there are f32, bf16, int8, topk, sign" },
        { "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrst",
          "codec, column 1: expected the name of a codec, found a word of 46 letters" },
        { "topk", "codec, column 5: topk takes an argument, the share of the values: topk(0.01)" },
        { "topk(", "codec, column 6: expected a finite decimal number, found the end" },
        { "topk(0)", "codec, column 6: 0 of topk is out of range: it must be above 0 and at most 1" },
        { "topk(1.5)", "codec, column 6: 1.5 of topk is out of range: it must be above 0 and at most 1" },
        { "topk(1e999)", "codec, column 6: 1e999 of topk is out of range: it must be above 0 and at most 1" },
        { "topk(nan)", "codec, column 6: expected a finite decimal number, found 'n'" },
        { "topk(0.1", "codec, column 9: expected ')', found the end" },
        { "topk(0.1))", "codec, column 10: expected nothing more, found ')'" },
        { "bf16(1)", "codec, column 5: bf16 takes no argument" },
        { "f32 f32", "codec, column 5: expected nothing more, found 'f'" },
        { "f32\x01", "codec, column 4: expected nothing more, found byte 0x01" },
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        psd_coding_t coding = { .argument = 7 };
        psd_err_t err = { .text = "" };
        cr_expect_eq(psd_coding_parse(&coding, row[i].spec, &err), PSD_ECONFIG, "%s", row[i].spec);
        cr_expect_str_eq(err.text, row[i].sentence, "%s", err.text);
        cr_expect(!coding.codec && coding.argument == 7, "nothing is changed");
    }
}
