/* A file for a while, in a folder of its own: beside another file, or where
 * temporary files go.                                                        */
#ifndef AT_SCRATCH_FILE_H
#define AT_SCRATCH_FILE_H

#include "base/base.h"

struct at_scratch_file { char dir[4096], path[4200]; };

/* Makes the folder; the file is the caller's to write.  beside NULL: in TMPDIR. */
int at_scratch_file(struct at_ctx *cx, const char *beside, const char *name,
                    struct at_scratch_file *f);
void at_scratch_file_remove(const struct at_scratch_file *f);

#endif
