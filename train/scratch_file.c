/* Files for a while. */
#include "train/scratch_file.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

int at_scratch_file(struct at_ctx *cx, const char *beside, const char *name,
                    struct at_scratch_file *f)
{
    const char *tmp = getenv("TMPDIR");
    if (beside)
        snprintf(f->dir, sizeof f->dir, "%.4000s.XXXXXX", beside);
    else
        snprintf(f->dir, sizeof f->dir, "%.4000s/attune-XXXXXX",
                 tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(f->dir))
        return at_fail_errno(cx, errno, "%s: cannot be made", f->dir);
    snprintf(f->path, sizeof f->path, "%s/%.90s", f->dir, name);
    return AT_OK;
}

void at_scratch_file_remove(const struct at_scratch_file *f)
{
    unlink(f->path);
    rmdir(f->dir);
}
