/* Generating by a palette, for cmd_model.c. */
#ifndef AT_TOOLS_ALIGN_H
#define AT_TOOLS_ALIGN_H

#include "train/infer.h"

struct by_palette {
    const char *palette, *prompt, *file;    /* file: a prompt a line; or prompt */
    size_t candidates, max_tokens, rows;
    struct at_sampling sampling;
    bool json, commands;
};

/* Of every prompt's candidates prints one, drawn by the palette's weights.   */
int generate_by_palette(struct at_ctx *cx, struct at_infer *in,
                        const struct by_palette *b);

#endif
