/* Values that are counted or found in the text itself. */
#include "train/align/value.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The next word at or behind *at, or false at the end.                       */
static bool next_word(const char *s, size_t n, size_t *at, size_t *from)
{
    uint32_t cp;
    while (*at < n && strchr(" \t\r\n\v\f", s[*at]))
        (*at)++;
    *from = *at;
    while (*at < n) {
        size_t len = at_utf8(s + *at, n - *at, &cp);
        bool letter = len != 1 || (cp < 128 && (cp == '\'' ||
                      (cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z') ||
                      (cp >= 'a' && cp <= 'z')));
        if (!letter && *at == *from && !strchr(" \t\r\n\v\f", s[*at])) {
            *at += 1;           /* a mark is a word                           */
            return true;
        }
        if (!letter)
            break;
        *at += len ? len : 1;
    }
    return *at > *from;
}

size_t at_count_words(const char *text, size_t n)
{
    size_t at = 0, from, words = 0;
    while (next_word(text, n, &at, &from))
        words++;
    return words;
}

static int by_hash(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Distinct ones among the hashes of all runs of `size` words.                */
static size_t distinct(const uint64_t *word, size_t words, size_t size,
                       uint64_t *gram)
{
    size_t grams = words - size + 1, n = 0;
    for (size_t i = 0; i < grams; i++)
        gram[i] = at_hash(word + i, size * sizeof *word).lo;
    qsort(gram, grams, sizeof *gram, by_hash);
    for (size_t i = 0; i < grams; i++)
        n += i == 0 || gram[i] != gram[i - 1];
    return n;
}

double at_diversity(const char *text, size_t n)
{
    size_t words = at_count_words(text, n), at = 0, from;
    uint64_t *word = malloc((2 * words + 1) * sizeof *word);
    double product = word ? 1 : NAN;
    for (size_t i = 0; word && next_word(text, n, &at, &from); i++)
        word[i] = at_hash(text + from, at - from).lo;
    for (size_t size = 2; word && size <= 4; size++) {
        double grams = words >= size ? (double)(words - size + 1) : 0;
        product *= grams > 0 ? (double)distinct(word, words, size,
                                                word + words) / (grams + 1)
                             : 0;
    }
    free(word);
    return product;
}

static int none(struct at_ctx *cx, struct at_arena *a, const char *argument,
                void **impl)
{
    (void)cx;
    (void)a;
    (void)argument;
    *impl = NULL;
    return AT_OK;
}

static int length(struct at_ctx *cx, void *v,
                  const struct at_said *said, size_t n, double *score)
{
    (void)cx;
    (void)v;
    for (size_t i = 0; i < n; i++)
        score[i] = (double)at_count_words(said[i].text, said[i].n_text);
    return AT_OK;
}

static int diversity(struct at_ctx *cx, void *v,
                     const struct at_said *said, size_t n, double *score)
{
    (void)v;
    for (size_t i = 0; i < n; i++) {
        score[i] = at_diversity(said[i].text, said[i].n_text);
        if (isnan(score[i]))
            return at_fail(cx, AT_ENOMEM, "out of memory: counting words");
    }
    return AT_OK;
}

static int open_pattern(struct at_ctx *cx, struct at_arena *a,
                        const char *argument, void **impl)
{
    struct at_pattern *p = NULL;
    int rc = at_pattern_create(cx, argument, &p);
    (void)a;
    *impl = p;
    return rc;
}

static void close_pattern(void *impl)
{
    at_pattern_destroy(impl);
}

static int by_pattern(struct at_ctx *cx, void *impl,
                      const struct at_said *said, size_t n, double *score)
{
    for (size_t i = 0; i < n; i++) {
        const char *text = at_strndup(cx, &cx->scratch, said[i].text,
                                      said[i].n_text);
        if (!text)
            return AT_ENOMEM;
        score[i] = at_pattern_finds(impl, text);
    }
    at_arena_reset(&cx->scratch);
    return AT_OK;
}

const struct at_value_kind at_value_diversity = {
    "diversity", NULL, "share",
    "distinct 2-, 3- and 4-grams of words among all of the text",
    none, NULL, diversity
};
const struct at_value_kind at_value_length = {
    "length", NULL, "words", "words and marks of the text", none, NULL, length
};
const struct at_value_kind at_value_pattern = {
    "pattern", "PATTERN", "0 or 1",
    "whether a PCRE2 pattern is found in the text", open_pattern, close_pattern,
    by_pattern
};
