/* The shape of the table of families, for hf_*.c only. */
#ifndef AT_HF_TABLE_H
#define AT_HF_TABLE_H

#include "train/hf.h"
#include "train/names.h"

enum key_type {
    KEY_SIZE, KEY_REAL, KEY_BOOL, KEY_ACT, KEY_BIAS, KEY_RSQRT,
    KEY_PAD,                    /* positions begin behind this one            */
    KEY_POSITIONS,              /* and with those before: so many             */
};

struct key {                    /* of config.json                             */
    const char *name;
    enum key_type type;
    size_t at;                  /* in struct at_decoder; KEY_BIAS: the bits   */
    double absent;              /* NAN: must be there                         */
    bool nullable;              /* null is 0                                  */
};

struct must { const char *name, *value; };      /* when it is there           */

struct at_hf_family {
    const char *model_type, *architecture, *classifier, *prefix;
    bool rope;                  /* config.json speaks of rotary positions     */
    double rotary;              /* part of a head that turns, if unsaid       */
    const struct key *keys;
    const struct must *musts;
    const struct name *names;
    bool layers;                /* windows differ from layer to layer         */
    const char *const *others;  /* beginnings of tensors of heads that are left
                                 * out; NULL: none                            */
};

extern const struct at_hf_family at_hf_families[];
extern const size_t at_hf_n_families;

#endif
