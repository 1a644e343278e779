/* data: text into token datasets, datasets into batches.  Host arrays only.
 *
 * A dataset (HDF5, kind "dataset") holds documents as token ids with the role
 * of every token, so that what is trained on can be seen and is decided by
 * role, never by searching for markers.  It carries its tokenizer and the
 * hashes of its sources and template, and may hold scores of its documents in
 * the form of a table of rewards (rewards.h).                                */
#ifndef AT_DATA_H
#define AT_DATA_H

#include "base/base.h"
#include "data/h5.h"
#include "data/tokenizer.h"

struct at_chat;

enum at_role { AT_ROLE_BOS, AT_ROLE_PROMPT, AT_ROLE_COMPLETION, AT_ROLE_TEXT,
               AT_ROLE_EOS, AT_ROLES };
enum at_split { AT_TRAIN, AT_VALIDATION, AT_SPLITS };

extern const char *const at_role_names[AT_ROLES];
/* Whether a token of this role is a target: completion, text and eos, or all
 * but bos.                                                                   */
bool at_role_trained(uint8_t role, bool all_roles);

/* How texts begin, everywhere: with bos, unless bos is eos (GPT-2), which only
 * ends them.  Flags for at_tok_encode.                                       */
unsigned at_data_flags(const struct at_tok *tok);

/* ---- making a dataset ---------------------------------------------------- */

struct at_data_options {
    /* .jsonl, .json (an array), .csv, .tsv (a header; fields are texts) or
     * plain text; also packed by gzip or zstd.                               */
    const char *const *inputs;
    size_t n_inputs;
    const char *out;
    const struct at_tok *tok;
    /* Text of a JSON sample: keys in braces, "{question}\n{answer}", "{{" for a
     * brace; a key without text takes the white space behind it along.  NULL:
     * by the keys of the first sample.  completion: the key whose text is
     * trained on; NULL: completion, answer, output or response.  "chosen":
     * the sample is two documents, the second with "rejected" in its place.  */
    const char *template, *completion;
    /* Conversations ("messages", "conversations") are rendered by this row of
     * chat.h; NULL: they are refused.                                        */
    const struct at_chat *chat;
    /* Numbers of a JSON sample that are kept as its scores.                  */
    const char *const *scores;
    size_t n_scores;
    const char *columns;        /* "a,b": of tables, which have no header then */
    /* The key of a JSON sample that says its label, a text, number or boolean;
     * NULL: none.  Texts then begin and end as the tokenizer's own file has it,
     * are cut at max_length, and all their tokens are text.                  */
    const char *label;
    const char *separator;      /* plain text: ends a document; NULL: none    */
    size_t max_length;          /* tokens a document; longer: pairs are cut at
                                   their end, texts become several            */
    double validation;          /* share of documents, by hash of their ids   */
    double max_cut;             /* share of pairs that may be cut or emptied  */
    bool skip_bad;              /* bad samples are counted, not fatal         */
    bool dedup;                 /* samples that were there word for word, with
                                 * the same scores, are left out              */
    uint64_t limit;             /* only so many samples are read; 0: all      */
    int n_threads;
};

struct at_data_stats {
    uint64_t bytes, n_docs[AT_SPLITS], n_tokens, role[AT_ROLES];
    uint64_t cut, cut_tokens, emptied, bad, duplicates, samples;
    uint64_t plain, plain_files;    /* documents of plain text, in how many   */
    /* Tokens of a sample before it is cut: the least, the median, the 95th
     * percentile, the most.  Plain texts that come in pieces are left out.   */
    uint64_t length[4];
    char template[4096], first_bad[512], labels[512];   /* "good 7, bad 5"    */
    bool pairs, preference;     /* preference: chosen and rejected            */
};

/* Called now and then; total 0: not known.                                   */
typedef void at_data_progress(void *self, uint64_t done_bytes,
                              uint64_t total_bytes, uint64_t n_docs);

/* On failure, an interrupt included, nothing is left behind.                 */
int at_data_build(struct at_ctx *cx, const struct at_data_options *o,
                  at_data_progress *progress, void *self,
                  struct at_data_stats *stats);

/* ---- a dataset ----------------------------------------------------------- */

struct at_data {
    struct at_h5 *f;
    struct at_tok *tok;
    char tok_hash[33];
    const char *sources, *template; /* for people: one source a line          */
    uint64_t n_docs, n_tokens, longest, role[AT_ROLES];
    uint64_t *offset;           /* [n_docs+1]                                 */
    uint64_t *doc[AT_SPLITS], n_split[AT_SPLITS];   /* documents of a split   */
    enum at_h5_type id_type;
    bool pairs;                 /* prompts and completions                    */
    /* Documents i*group to i*group+group-1 answer one prompt; 1: apart.  Of a
     * preference (group 2) the first was chosen over the second.             */
    size_t group;
    bool preference;
    size_t n_scores;
    const char *const *score_name;  /* [n_scores]                             */
    const float *score;         /* [n_docs,n_scores]                          */
    size_t n_labels;            /* 0: documents have none                     */
    const char *const *label_name;  /* [n_labels]                             */
    const uint32_t *label;      /* [n_docs]                                   */
};

/* Verifies every array.  Lives in arena a; at_data_close.                    */
int at_data_open(struct at_ctx *cx, struct at_arena *a, const char *path,
                 struct at_data **d);
void at_data_close(struct at_data *d);
/* Tokens [from, from+n) of the dataset; ids or roles may be NULL.            */
int at_data_read(struct at_ctx *cx, const struct at_data *d, uint64_t from,
                 size_t n, int32_t *ids, uint8_t *roles);
/* The file (in arena a) and line that document `doc` begins at.              */
int at_data_place(struct at_ctx *cx, struct at_arena *a,
                  const struct at_data *d, uint64_t doc, const char **path,
                  uint64_t *line);
/* How many files it was made of; the path of one (in arena a).               */
size_t at_data_sources(const struct at_data *d);
int at_data_source(struct at_ctx *cx, struct at_arena *a,
                   const struct at_data *d, size_t which, const char **path);
/* An epoch of the training split has every document (group) of source i
 * factor[i] times: whole copies, and of the fraction a fixed random share of
 * the documents.  Before a loader is made; a is the dataset's arena.         */
int at_data_mix(struct at_ctx *cx, struct at_arena *a, struct at_data *d,
                const double *factor);
/* How many documents of a split's epoch every source has; n [sources].       */
int at_data_count(struct at_ctx *cx, const struct at_data *d,
                  enum at_split split, uint64_t *n);
/* Appends document `doc` as text, trained tokens between marks or in
 * colour, and a line on its place, split and roles.                          */
int at_data_show(struct at_ctx *cx, const struct at_data *d, uint64_t doc,
                 bool all_roles, bool colour, struct at_text *t);

/* ---- batches -------------------------------------------------------------- */

/* Where a loader stands: the next document is number `index` of the epoch's
 * order, from its token `offset` on.                                         */
struct at_cursor { uint64_t epoch, index, offset; };

struct at_batch {               /* N = rows * length                          */
    size_t rows, length, n_tokens, n_targets;
    int32_t *ids;               /* padding: 0                                 */
    int32_t *targets;           /* next token of the document; -1: not trained */
    int32_t *pos;               /* place in the document's piece              */
    int32_t *first;             /* first index of that piece in the batch     */
    int64_t *doc;               /* document, -1: padding                      */
    struct at_cursor from, to;  /* before and after                           */
    bool last;                  /* of a single pass                           */
};

enum at_packing {
    AT_PACK_NONE,               /* a document a row                           */
    AT_PACK_DOCS,               /* whole documents while they fit             */
    AT_PACK_STREAM,             /* rows are full: documents go on in the next */
};

struct at_loader_options {
    enum at_split split;
    enum at_packing packing;
    size_t rows, length;
    size_t hold;                /* batches the caller reads at once; 0: 1     */
    bool shuffle, once;         /* once: a single pass, then batch.last       */
    bool ends;                  /* the last token is read too, not only a
                                 * target: rewards stand there                */
    bool groups;                /* documents of a group are in one batch      */
    bool serial;                /* no thread that works ahead                 */
    bool all_roles;             /* train on all but bos; else as roles say:
                                   completion, text, eos                      */
    uint64_t seed;
};

struct at_loader;

/* Takes memory for hold + 2 batches and, unless serial, a thread; after that
 * nothing is allocated.  d must outlive it.  The batches do not depend on the
 * thread.  Prompts and completions are never parted: a row that is too short
 * for the longest is refused, unless all roles are trained.                  */
int at_loader_create(struct at_ctx *cx, const struct at_data *d,
                     const struct at_loader_options *o, struct at_loader **l);
void at_loader_destroy(struct at_loader *l);
/* Goes on from `to`, in constant time; a place that the data does not have is
 * an error of the next at_loader_next.                                       */
void at_loader_seek(struct at_loader *l, struct at_cursor to);
/* The next batch; the last o.hold of them are valid.  After the last of a
 * single pass there is only an error, until at_loader_seek.                  */
int at_loader_next(struct at_ctx *cx, struct at_loader *l,
                   const struct at_batch **b);
/* Rows that the given epoch makes.                                           */
uint64_t at_loader_rows(const struct at_loader *l, uint64_t epoch);
size_t at_loader_bytes(const struct at_loader_options *o);

#endif
