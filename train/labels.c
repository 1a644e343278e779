/* Labels by their names. */
#include "train/labels.h"

#include <stdlib.h>
#include <string.h>

static bool number(const char *s, double *x)
{
    char *end;
    *x = strtod(s, &end);
    return end != s && !*end;
}

/* Numbers come before words.                                                 */
static int by_name(const void *a, const void *b)
{
    const char *s = *(const char *const *)a, *t = *(const char *const *)b;
    double x, y;
    bool first = number(s, &x), second = number(t, &y);
    if (first && second && x < y)
        return -1;
    if (first && second && x > y)
        return 1;
    return first != second ? second - first : strcmp(s, t);
}

static int none(struct at_ctx *cx, const struct at_data *d)
{
    return at_fail(cx, AT_EINVAL, "%s has no labels: make it with 'attune data "
                   "--label KEY'", at_h5_path(d->f));
}

int at_labels_new(struct at_ctx *cx, struct at_arena *a,
                  const struct at_data *d, struct at_decoder *model)
{
    const char **name = at_alloc_n(cx, a, d->n_labels + 1, sizeof *name);
    if (d->n_labels == 0)
        return none(cx, d);
    if (!name)
        return AT_ENOMEM;
    memcpy(name, d->label_name, d->n_labels * sizeof *name);
    qsort(name, d->n_labels, sizeof *name, by_name);
    model->value = d->n_labels;
    model->labels = name;
    model->problem = AT_ONE_LABEL;
    return AT_OK;
}

static size_t find(const struct at_decoder *model, const char *name)
{
    size_t i = 0;
    while (i < model->value && strcmp(model->labels[i], name) != 0)
        i++;
    return i;
}

static int unknown(struct at_ctx *cx, const struct at_data *d,
                   const struct at_decoder *model, const char *name)
{
    struct at_text t = { 0 };
    int rc;
    for (size_t i = 0; i < model->value && i < 20; i++)
        at_text_addf(&t, "%s%s", i ? ", " : "", model->labels[i]);
    rc = at_fail(cx, AT_EINVAL, "%s has the label '%s', and the model's are %s%s",
                 at_h5_path(d->f), name, t.s ? t.s : "",
                 model->value > 20 ? ", .." : "");
    at_text_finish(&t);
    return rc;
}

/* The model's number of each of the dataset's labels.                        */
static int match(struct at_ctx *cx, const struct at_data *d,
                 const struct at_decoder *model, size_t *to)
{
    size_t named = 0;
    for (size_t i = 0; i < d->n_labels; i++)
        named += (to[i] = find(model, d->label_name[i])) < model->value;
    for (size_t i = 0; i < d->n_labels; i++) {
        double x;
        if (named == 0 && number(d->label_name[i], &x) && x >= 0 &&
            x < (double)model->value && x == (double)(size_t)x)
            to[i] = (size_t)x;
        if (to[i] == model->value)
            return unknown(cx, d, model, d->label_name[i]);
    }
    return AT_OK;
}

int at_labels_map(struct at_ctx *cx, struct at_arena *a,
                  const struct at_data *d, const struct at_decoder *model,
                  const float **score)
{
    float *y = at_alloc_n(cx, a, (size_t)d->n_docs, sizeof *y);
    size_t *to = at_alloc_n(cx, a, d->n_labels + 1, sizeof *to);
    int rc = y && to ? AT_OK : AT_ENOMEM;
    if (rc == AT_OK && d->n_labels == 0)
        rc = none(cx, d);
    if (rc == AT_OK)
        rc = match(cx, d, model, to);
    for (uint64_t i = 0; rc == AT_OK && i < d->n_docs; i++)
        y[i] = (float)to[d->label[i]];
    *score = y;
    return rc;
}
