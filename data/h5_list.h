/* The manifest of an h5 file: every fact and every array.  Internal to h5.
 *
 *   attune-manifest SCHEMA KIND VERSION
 *   int NAME 12
 *   real NAME 3ff8000000000000               bits of the float64
 *   text NAME 5                              then 5 bytes and a line feed
 *   array NAME f32 CHECKSUM 12 34            32 hexadecimal digits, dimensions
 *
 * Facts come first, each sort in the order of their names, no name twice: one
 * list has one text.                                                         */
#ifndef AT_H5_LIST_H
#define AT_H5_LIST_H

#include "data/h5.h"

enum { AT_H5_SCHEMA = 1, AT_H5_KIND = 64, AT_H5_ITEMS = 1 << 17 };

enum at_h5_sort { AT_H5_INT, AT_H5_REAL, AT_H5_STRING, AT_H5_ARRAY };

struct at_h5_item {
    const char *name;
    enum at_h5_sort sort;
    int64_t i;
    double r;
    const char *text;
    struct at_h5_info info;     /* of an array, as all below                  */
    struct at_hash hash;
    uint64_t at, n_bytes;       /* place in the file; not in the text         */
};

struct at_h5_list {
    char kind[AT_H5_KIND];
    struct at_h5_item **item;   /* [n] sorted                                 */
    size_t n, cap;
};

const char *at_h5_type_name(enum at_h5_type type);
/* n elements of this shape into info->n; false when they are too many.       */
bool at_h5_info_count(struct at_h5_info *info);
/* Takes a copy of *item, its texts too, in arena a; *kept is the copy (kept
 * may be NULL).  A wrong or repeated name is an error.                                                            */
int at_h5_list_add(struct at_ctx *cx, struct at_arena *a,
                   struct at_h5_list *l, const struct at_h5_item *item,
                   struct at_h5_item **kept);
/* The array, or the fact, of that name; NULL: there is none.                 */
struct at_h5_item *at_h5_list_find(const struct at_h5_list *l,
                                   const char *name, bool array);
int at_h5_list_print(struct at_ctx *cx, const struct at_h5_list *l,
                     struct at_text *t);
/* s[n] is 0.  `path` is for messages.                                        */
int at_h5_list_parse(struct at_ctx *cx, struct at_arena *a, const char *path,
                     const char *s, size_t n, struct at_h5_list *l);
void at_h5_list_finish(struct at_h5_list *l);

#endif
